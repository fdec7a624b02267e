"""The documentation runs: its Python as it stands, its commands as far as their flags exist."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from longattn import cli, settings, verbs
from longattn.recipes import Recipe
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


@pytest.fixture(scope="session")
def documented_run(tiny_model_folder, tmp_path_factory):
    """The run folder that pages call RUN."""
    folder = tmp_path_factory.mktemp("documented")
    lines = "".join(f'{{"id": "d{i}", "text": "{"far and near " * 9 * i}"}}\n' for i in range(1, 6))
    (folder / "books.jsonl").write_text(lines)
    recipe = Recipe(
        corpus=settings.Corpus(inputs=(f"books={folder / 'books.jsonl'}",)),
        window=settings.Windowing(length=64),
        model=settings.Model(name=str(tiny_model_folder)),
        keep=settings.Selecting(share=0.5),
    )
    verbs.run(recipe, folder / "RUN", settings.Compute(workers=0, devices=("cpu",)))
    return folder / "RUN"


@pytest.mark.parametrize(("name", "number", "code"), PYTHON, ids=[f"{name}-{i}" for name, i, _ in PYTHON])
def test_python_in_the_documentation_runs(name, number, code, documented_run, tmp_path, monkeypatch):
    if "RUN/" in code:
        shutil.copytree(documented_run, tmp_path / "RUN")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    Path("essay.txt").write_text("Far tokens matter in some texts, and in others they do not. " * 40)
    run(code, f"{name}, block {number}")


@pytest.mark.parametrize(("name", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_commands_in_the_documentation_parse(name, line, monkeypatch):
    monkeypatch.setattr(cli.app, "config", ())
    # what follows is the shell's
    words = shlex.split(line.split(" > ")[0], comments=True)[1:]
    # what stands before every verb (--config, --log-format) is taken off first
    _, bound, *_ = cli.app.meta.parse_args(words, exit_on_error=False, print_error=False)
    cli.app.parse_args(bound.args, exit_on_error=False, print_error=False)


def test_the_scorer_of_the_contributing_page_keeps_the_contract(tiny_model_folder):
    from longattn.models import load_model, resolve
    from longattn.records import Window

    scorer = run(blocks(ROOT / "CONTRIBUTING.md", "python")[0], "the example")["Sink"]()
    facts = settings.Model(name=str(tiny_model_folder))
    model = load_model(resolve(facts), facts, layers=(0,), window=32)
    tokens = np.random.default_rng(0).integers(0, 256, (3, 32)).astype(np.uint32)
    check_scorer(scorer, model, [Window(f"d{i}", "s", 0, row, 0, 32, 32) for i, row in enumerate(tokens)])


def test_every_page_is_in_the_index():
    """Sphinx would build a page that nothing leads to, and warn."""
    docs = ROOT / "docs"
    leading = "".join((docs / name).read_text(encoding="utf-8") for name in ("index.md", "scorers/index.md"))
    for page in sorted(docs.rglob("*.md")):
        name = page.relative_to(docs).with_suffix("").as_posix()
        listed = name.removeprefix("scorers/")
        assert name == "index" or f"\n{name}\n" in leading or f"\n{listed}\n" in leading, (
            f"docs/{name}.md is in no toctree of docs/index.md"
        )
