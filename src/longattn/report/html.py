"""Pages that load nothing: data are text and never markup, and only our own style and script may act."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from longattn.report.text import visible


def page_template(
    package: str,
    name: str,
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> jinja2.Template:
    """The template ``name`` of a package, with our style, and these style and script files of the package after it.

    It is given ``style`` and ``script``, to be put between tags without anything around them, and ``policy``, the
    content security policy that lets these two act and nothing else, not even by accident.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # whatever comes from data has its invisible characters shown; markup of ours passes
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters |= dict(filters or {})
    style = "\n".join([_file("longattn.report", "report.css"), *(_file(package, file) for file in styles)])
    script = "\n".join(_file(package, file) for file in scripts)
    environment.globals |= {"style": Markup(style), "script": Markup(script), "policy": Markup(policy(style, script))}
    return environment.get_template(name)


def policy(style: str, script: str = "") -> str:
    """A content security policy for a page with this style and this script inside, each between its tags as it is.

    >>> policy("p { color: red }").split("; ")[2]
    "script-src 'none'"
    """
    parts = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script) if script else "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _file(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
