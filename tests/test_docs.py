"""The documentation runs: its Python as it stands, its commands as far as their flags exist."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from longattn import cli
from longattn.testing import check_scorer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a language, with the indentation of a list taken off."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(indent) for line in body.splitlines()) for indent, body in found]


PYTHON = [(page.name, i, code) for page in PAGES for i, code in enumerate(blocks(page, "python"))]
COMMANDS = [
    (page.name, line)
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if line.startswith("longattn ")
]


def run(code: str, place: str) -> dict:
    names = {"__name__": place}
    exec(compile(code, place, "exec"), names)
    return names


@pytest.mark.parametrize(("name", "number", "code"), PYTHON, ids=[f"{name}-{i}" for name, i, _ in PYTHON])
def test_python_in_the_documentation_runs(name, number, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("essay.txt").write_text("Far tokens matter in some texts, and in others they do not. " * 40)
    run(code, f"{name}, block {number}")


@pytest.mark.parametrize(("name", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_commands_in_the_documentation_parse(name, line, monkeypatch):
    monkeypatch.setattr(cli.app, "config", ())
    words = shlex.split(line, comments=True)[1:]
    # what stands before every verb (--config, --log-format) is taken off first
    _, bound, *_ = cli.app.meta.parse_args(words, exit_on_error=False, print_error=False)
    cli.app.parse_args(bound.args, exit_on_error=False, print_error=False)


def test_the_scorer_of_the_contributing_page_keeps_the_contract(tiny_model_folder):
    from longattn import settings
    from longattn.models import load_model, resolve
    from longattn.records import Window

    scorer = run(blocks(ROOT / "CONTRIBUTING.md", "python")[0], "the example")["Sink"]()
    facts = settings.Model(name=str(tiny_model_folder))
    model = load_model(resolve(facts), facts, layers=(0,), window=32)
    tokens = np.random.default_rng(0).integers(0, 256, (3, 32)).astype(np.uint32)
    check_scorer(scorer, model, [Window(f"d{i}", "s", 0, row, 0, 32, 32) for i, row in enumerate(tokens)])
