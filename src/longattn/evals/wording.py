"""The sentences of the tasks: our own, or word for word those of a copy of RULER or lm-eval that the user has.

Placeholders have RULER's names. Files of a checkout are read as data (constants of their syntax trees); nothing of them
is run, and none of their text is part of this package.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longattn.errors import LongAttnError


class WordingError(LongAttnError):
    """The files that wording was to be read from are not those of RULER or lm-eval."""


@dataclass(frozen=True)
class Template:
    """A prompt with ``{context}`` and ``{query}``, and how its answer begins."""

    task: str
    prefix: str


@dataclass(frozen=True, kw_only=True)
class Wording:
    """All sentences that RULER's tasks are made of."""

    name: str
    """Stands in every result."""
    noise: str
    """A line that says nothing."""
    needle: str
    """Hides ``{value}`` under ``{key}``; ``{type_needle_v}`` is numbers, words or uuids."""
    niah: Template
    niah_one: Template
    """Where a single value is asked for."""
    assign_value: str
    """Gives the variable ``{name}`` a ``{value}``."""
    assign_name: str
    """Gives the variable ``{name}`` the value of ``{other}``."""
    variable_tracking: Template
    common_words: Template
    frequent_words: Template
    qa: Template
    document: str
    more_words: tuple[str, ...] = ()
    """For longer lists than there are words."""


OURS = Wording(
    name="longattn 1",
    noise="Rain drums on the roof. A kettle sings. Someone hums upstairs. The cat sleeps. It is a day like any other.",
    needle="One of the secret {type_needle_v} of {key} is {value}.",
    niah=Template(
        "Some secret {type_needle_v} stand somewhere in the text below. Keep them in mind: they will be asked for."
        "\n{context}\nWhich secret {type_needle_v} of {query} does the text give?",
        " The secret {type_needle_v} of {query} that the text gives are",
    ),
    niah_one=Template(
        "A secret {type_needle_v} stands somewhere in the text below. Keep it in mind: it will be asked for."
        "\n{context}\nWhich secret {type_needle_v} of {query} does the text give?",
        " The secret {type_needle_v} of {query} that the text gives is",
    ),
    assign_value="LET {name} = {value}",
    assign_name="LET {name} = {other}",
    variable_tracking=Template(
        "Variables get their values in the text below, some of them from each other. Follow them.\n\n{context}\n"
        "Question: Which variables have the value {query} at the end of the text?",
        " Answer: {num_v} variables have the value {query} at the end of the text:",
    ),
    common_words=Template(
        "The numbered list below repeats some words more often than others. Keep in mind which.\n{context}\n"
        "Question: Which {num_cw} words does the list repeat most often?",
        " Answer: The {num_cw} words that the list repeats most often are:",
    ),
    frequent_words=Template(
        "Count how often each word of the coded text below stands in it. Dots are no words. {context}\n"
        "Question: Which three words stand in the coded text most often? Give no explanation.",
        " Answer: The three words that stand in the coded text most often are:",
    ),
    qa=Template(
        "Answer the question below from the texts. Give the answer alone, without any other word.\n\n{context}\n\n"
        "Answer the question from the texts above. Give the answer alone, without any other word.\n\n"
        "Question: {query}",
        " Answer:",
    ),
    document="Text {i}:\n{document}",
)


def load_wording(place: str | None) -> Wording:
    """The wording of a RULER checkout, of lm-eval's folder ``tasks/ruler``, or of the installed one (``lm-eval``).

    None is our own. Raises :class:`WordingError` for a folder that is neither.
    """
    if place is None:
        return OURS
    folder = _installed() if place == "lm-eval" else Path(place).expanduser()
    synthetic = folder / "scripts" / "data" / "synthetic"
    try:
        if (synthetic / "constants.py").is_file():
            return _named("RULER", _from_ruler(_Sources(synthetic)))
        if (folder / "prepare_niah.py").is_file():
            return _named("lm-eval", _from_lm_eval(_Sources(folder)))
    except (KeyError, ValueError, SyntaxError, IndexError) as error:
        raise WordingError(f"{folder} is not laid out as its wording is known to be: {error!r}") from error
    raise WordingError(
        f"{folder} is neither a checkout of RULER (scripts/data/synthetic/constants.py) nor lm-eval's tasks/ruler "
        "(prepare_niah.py); without --wording our own is used"
    )


def _installed() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise WordingError("lm-eval is not installed: pip install 'longattn[eval]'")
    return Path(spec.origin).parent / "tasks" / "ruler"


def _named(whose: str, wording: Wording) -> Wording:
    """The wording under a name that says whose it is and, by a hash, which."""
    text = json.dumps([repr(getattr(wording, name)) for name in sorted(wording.__dataclass_fields__)])
    return replace(wording, name=f"{whose} {hashlib.sha256(text.encode()).hexdigest()[:16]}")


class _Sources:
    """The Python files of a folder as syntax trees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tree(self, file: str) -> ast.Module:
        return ast.parse((self.folder / file).read_text(encoding="utf-8"))

    def assigned(self, file: str, name: str) -> Any:
        """The last constant that a name is given anywhere in a file."""
        found = [
            ast.literal_eval(node.value)
            for node in ast.walk(self.tree(file))
            if isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
            and _is_literal(node.value)
        ]
        if not found:
            raise KeyError(f"{file} gives {name} no constant")
        return found[-1]

    def formatted(self, file: str, begin: str) -> Iterator[list[str | None]]:
        """Each f-string that begins so: its texts, and None for what is filled in."""
        for node in ast.walk(self.tree(file)):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
                if isinstance(parts[0], str) and parts[0].startswith(begin):
                    yield [str(part) if part is not None else None for part in parts]


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _fill(parts: list[str | None], *names: str) -> str:
    """A template from an f-string: what is filled in gets these names, in order."""
    waiting = iter(names)
    return "".join(f"{{{next(waiting)}}}" if part is None else part for part in parts)


def _one(niah: Template) -> Template:
    """RULER's way to ask for a single value: the words of its template that speak of several are replaced."""
    texts = []
    for text in (niah.task, niah.prefix):
        for several, one in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
            text = text.replace(several, one)
        texts.append(text)
    return Template(*texts)


def _template(facts: Mapping[str, Any]) -> Template:
    prefix = facts["answer_prefix"]
    return Template(facts["template"], prefix if prefix.startswith(" ") else f" {prefix}")


def _assignments(sources: _Sources, file: str) -> tuple[str, str]:
    """How a file of variable tracking writes a value and another name."""
    found = list(sources.formatted(file, "VAR "))
    to_name = next(parts for parts in found if parts.count(None) == 2 and any("VAR" in str(p) for p in parts[1:]))
    to_value = next(parts for parts in found if parts.count(None) == 2 and parts is not to_name)
    return _fill(to_value, "name", "value"), _fill(to_name, "name", "other")


def _from_ruler(sources: _Sources) -> Wording:
    tasks = sources.assigned("constants.py", "TASKS")
    to_value, to_name = _assignments(sources, "variable_tracking.py")
    niah = _template(tasks["niah"])
    more = sources.folder / "json" / "english_words.json"
    return Wording(
        name="",
        noise=sources.assigned("niah.py", "haystack"),
        needle=sources.assigned("niah.py", "needle"),
        niah=niah,
        niah_one=_one(niah),
        assign_value=to_value,
        assign_name=to_name,
        variable_tracking=_template(tasks["variable_tracking"]),
        common_words=_template(tasks["common_words_extraction"]),
        frequent_words=_template(tasks["freq_words_extraction"]),
        qa=_template(tasks["qa"]),
        document=sources.assigned("qa.py", "DOCUMENT_PROMPT"),
        more_words=tuple(json.loads(more.read_bytes()).values()) if more.is_file() else (),
    )


def _from_lm_eval(sources: _Sources) -> Wording:
    to_value, to_name = _assignments(sources, "vt_utils.py")
    prefixes = [_fill(parts, "type_needle_v", "query") for parts in sources.formatted("prepare_niah.py", "The special")]
    plural = next(prefix for prefix in prefixes if prefix.endswith(" are"))
    niah = Template(sources.assigned("niah_utils.py", "TEMPLATE"), f" {plural}")
    return Wording(
        name="",
        noise=sources.assigned("prepare_niah.py", "haystack"),
        needle=sources.assigned("prepare_niah.py", "NEEDLE"),
        niah=niah,
        niah_one=_one(niah),
        assign_value=to_value,
        assign_name=to_name,
        variable_tracking=_template(sources.assigned("vt_utils.py", "CONFIG")["variable_tracking"]),
        common_words=_template(sources.assigned("cwe_utils.py", "CONFIG")),
        frequent_words=_template(sources.assigned("fwe_utils.py", "CONFIG")),
        qa=_template(sources.assigned("qa_utils.py", "CONFIG")),
        document=sources.assigned("qa_utils.py", "DOCUMENT_PROMPT"),
    )
