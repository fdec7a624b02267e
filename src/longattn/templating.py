"""Templates of Markdown, YAML, TOML, Python and shell: text where nothing is escaped unless a filter does it."""

from collections.abc import Callable, Mapping
from typing import Any


def fill(template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> str:
    """The template filled in; a name that it uses and that is not given is an error.

    It also knows ``thousands``, a number with commas. What comes from data must go through a filter that quotes it for
    the language of the file.

    >>> fill("{{ count | thousands }} {{ name | shout }}", {"shout": str.upper}, count=1000, name="books")
    '1,000 BOOKS'
    """
    # an import that --help can do without
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701
    environment.filters |= {"thousands": "{:,}".format, **filters}
    return environment.from_string(template).render(**values)
