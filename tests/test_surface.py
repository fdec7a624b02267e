"""What we promise by name, and what importing it costs."""

import subprocess
import sys

import pytest

import longattn


def test_the_public_names_are_there_and_sorted():
    assert longattn.__all__ == sorted(longattn.__all__, key=lambda name: (not name.isupper(), name.islower(), name))
    assert all(getattr(longattn, name) is not None for name in longattn.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = longattn.nothing


HEAVY = ("torch", "transformers", "duckdb", "pyarrow", "jaxtyping")


@pytest.mark.parametrize("code", ["import longattn", "import longattn.cli", "from longattn import Recipe, SCORERS"])
def test_importing_pulls_in_nothing_heavy(code):
    found = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print([m for m in {HEAVY} if m in sys.modules])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "shown", "without"),
    [
        (["--help"], "quickstart", (*HEAVY, "markdown_it")),
        (["run", "--help"], "--longattn.alpha", HEAVY),
    ],
)
def test_help_pulls_in_nothing_heavy(words, shown, without):
    code = (
        "import sys, longattn.cli\n"
        f"try: longattn.cli.main({words})\n"
        f"finally: print([m for m in {without} if m in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"
    assert shown in found.stdout


def test_choosing_exporting_and_reporting_run_without_torch():
    """A stand-in for a machine on which torch was never installed."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "import longattn.selection, longattn.export, longattn.report, longattn.corpus, longattn.verbs\n"
        "from longattn.scorers import SCORERS\n"
        "print(all(s().for_length(64).score() is not None for s in SCORERS.values()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"
