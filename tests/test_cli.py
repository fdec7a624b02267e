"""The command line: where settings come from, what errors look like, what each verb prints."""

import html
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cyclopts.completion import ShellDetectionError

import longattn
from longattn import cli
from longattn.cli import launching
from longattn.recipes import Recipe, as_flags
from longattn.scorers import ProLong
from longattn.settings import Corpus, Selecting


@pytest.fixture
def arguments(tiny_model_folder, tmp_path):
    """A run on a corpus of one file, in one process."""
    corpus = tmp_path / "books.jsonl"
    corpus.write_text("".join(json.dumps({"id": str(i), "text": "far and near " * 9 * i}) + "\n" for i in range(6)))
    flags = ["--output", str(tmp_path / "run"), "--model.name", str(tiny_model_folder), "--workers", "0"]
    return [f"books={corpus}", *flags, "--devices", "cpu", "--window.length", "64", "--keep.share", "0.5"]


def recorded(tmp_path):
    return json.loads((tmp_path / "run" / "manifest.json").read_bytes())["recipe"]


def test_run_says_where_everything_is(arguments, tmp_path, capsys):
    assert cli.launch(["run", *arguments]) == 0
    said = capsys.readouterr().out
    assert "6 documents = 5 cut into" in said
    assert "1 rejected (1 empty: see" in said
    for name in ("export", "selection.parquet", "report.html"):
        assert str(tmp_path / "run" / name) in said
        assert (tmp_path / "run" / name).exists()


def test_pages_show_no_text_where_none_is_wanted(arguments, tmp_path, capsys):
    page, compared = tmp_path / "run" / "report.html", tmp_path / "run" / "validity" / "comparison.html"
    scorers = ["--scorers", "longattn", "--scorers", "random"]
    with (tmp_path / "books.jsonl").open("a") as file:
        file.write('{"text": ["far and near"]}\n')
    assert cli.launch(["run", *arguments, *scorers, "--no-texts"]) == 0
    assert "text_not_string" in page.read_text(encoding="utf-8")
    assert "far and near" not in page.read_text(encoding="utf-8")
    assert cli.launch(["report", str(tmp_path / "run")]) == 0
    assert "far and near" in page.read_text(encoding="utf-8")
    assert cli.launch(["report", str(tmp_path / "run"), "--no-texts"]) == 0
    assert "far and near" not in page.read_text(encoding="utf-8")
    for flags, shown in (([], True), (["--no-texts"], False)):
        assert cli.launch(["compare", str(tmp_path / "run"), *flags]) == 0
        assert ("far and near" in compared.read_text(encoding="utf-8")) is shown


def test_pages_of_a_private_corpus_show_no_text_unless_asked(arguments, tmp_path, capsys):
    page, compared = tmp_path / "run" / "report.html", tmp_path / "run" / "validity" / "comparison.html"
    scorers = ["--scorers", "longattn", "--scorers", "random"]
    assert cli.launch(["run", *arguments, *scorers, "--corpus.private"]) == 0
    assert "far and near" not in page.read_text(encoding="utf-8")
    # a run remembers
    for flags, shown in (([], False), (["--texts"], True), (["--corpus.no-private"], True)):
        assert cli.launch(["report", str(tmp_path / "run"), *flags]) == 0
        assert ("far and near" in page.read_text(encoding="utf-8")) is shown
        assert cli.launch(["compare", str(tmp_path / "run"), *flags]) == 0
        assert ("far and near" in compared.read_text(encoding="utf-8")) is shown
    tables = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "tables").rglob("*.parquet")}
    assert cli.launch(["measure", *arguments, *scorers]) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "tables").rglob("*.parquet")} == tables


def test_verbs_one_by_one_come_to_the_same(arguments, tmp_path, capsys):
    cli.launch(["run", *arguments])
    whole = (tmp_path / "run" / "selection.parquet").read_bytes()
    apart = [word.replace(str(tmp_path / "run"), str(tmp_path / "apart")) for word in arguments]
    for verb in ("plan", "cut", "measure"):
        words = apart if verb != "plan" else [w for w in apart if w not in ("--workers", "0", "--devices", "cpu")]
        assert cli.launch([verb, *words]) == 0
    for verb in ("select", "export", "report", "status", "verify"):
        assert cli.launch([verb, str(tmp_path / "apart")]) == 0
    assert (tmp_path / "apart" / "selection.parquet").read_bytes() == whole
    assert "selected: yes" in capsys.readouterr().out


def test_select_keeps_the_settings_of_the_run_that_are_not_given(arguments, tmp_path):
    cli.launch(["run", *arguments])
    assert cli.launch(["select", str(tmp_path / "run"), "--longattn.alpha", "2"]) == 0
    recipe = recorded(tmp_path)
    assert recipe["settings"]["longattn"]["alpha"] == 2.0
    assert recipe["keep"]["share"] == 0.5
    assert recipe["corpus"]["inputs"] == [arguments[0]]


def test_the_command_in_the_report_makes_the_same_recipe(arguments, tmp_path):
    weights = ["--keep.weights.longattn", "1", "--keep.weights.length", "0.5", "--keep.quotas.books", "0.25"]
    more = [
        "--scorers",
        "longattn",
        "--scorers",
        "length",
        "--longattn.per-head",
        "--longattn.heads",
        "0",
        "1",
        *weights,
    ]
    more += ["--write.no-push-private"]
    cli.launch(["run", *arguments, *more])
    before = recorded(tmp_path)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    command = shlex.split(html.unescape(page.split("longattn run ")[1].split("<")[0]))
    assert cli.launch(["run", *command, "--workers", "0", "--devices", "cpu"]) == 0
    assert recorded(tmp_path) == before


def test_a_setting_that_is_none_by_choice_is_kept(arguments, tmp_path):
    """ProLong takes 500 pairs by default and all of them for None."""
    asked = ["--scorers", "prolong", "--keep.weights.prolong", "1", "--prolong.pairs", "None"]
    assert cli.launch(["run", *arguments, *asked]) == 0
    assert recorded(tmp_path)["settings"]["prolong"]["pairs"] is None
    assert cli.launch(["select", str(tmp_path / "run"), "--keep.share", "0.3"]) == 0
    assert recorded(tmp_path)["settings"]["prolong"]["pairs"] is None
    recipe = replace(Recipe(), settings=replace(Recipe().settings, prolong=ProLong(pairs=None)))
    assert as_flags(recipe) == ["--prolong.pairs", "None"]


@pytest.mark.parametrize(
    "keep",
    [
        Selecting(weights={"token_null": 1.0, "column:my_score": -0.5}, quotas={"my_books": 0.5, "My Code": 0.25}),
        Selecting(quotas={"wiki.en": 0.5, "a=b": 0.25, "my_books": 0.1}),
        Selecting(weights={"column:length.doc_tokens": 1.0}, where="-start < 0", threshold=-0.5, share=None),
    ],
)
def test_flags_give_back_names_and_values_as_they_are(keep, monkeypatch):
    """Names of sources and columns are the corpus' own; a value may begin like a flag."""
    recipe = Recipe(corpus=Corpus(join_separator="---", text_suffixes=("-x", ".txt")), keep=keep)
    monkeypatch.setattr(cli.app, "config", (launching._Base("laptop"),))
    _, bound, _ = cli.app.parse_args(["run", "input.jsonl", *as_flags(recipe), "--output", "run"])
    assert replace(bound.arguments["recipe"], corpus=recipe.corpus) == recipe
    assert replace(bound.arguments["recipe"].corpus, inputs=()) == recipe.corpus


def test_the_name_of_a_source_may_hold_a_dot(arguments, tmp_path):
    named = [arguments[0].replace("books=", "wiki.en=", 1), *arguments[1:], "--keep.quotas", '{"wiki.en": 0.25}']
    assert cli.launch(["run", *named]) == 0
    assert cli.launch(["select", str(tmp_path / "run"), "--longattn.alpha", "2"]) == 0
    assert recorded(tmp_path)["keep"]["quotas"] == {"wiki.en": 0.25}
    (tmp_path / "keep.toml").write_text('[keep.quotas]\n"wiki.en" = 0.5\n')
    assert cli.launch(["select", str(tmp_path / "run"), "--config", str(tmp_path / "keep.toml")]) == 0
    assert recorded(tmp_path)["keep"]["quotas"] == {"wiki.en": 0.5}


def test_a_budget_or_weights_that_are_given_replace_those_of_the_run(arguments, tmp_path):
    run = str(tmp_path / "run")
    cli.launch(["run", *arguments, "--scorers", "longattn", "--scorers", "length"])
    assert cli.launch(["select", run, "--keep.tokens", "640", "--keep.weights.length", "1"]) == 0
    assert recorded(tmp_path)["keep"]["weights"] == {"length": 1.0}
    assert recorded(tmp_path)["keep"]["tokens"] == 640
    assert cli.launch(["select", run, "--keep.share", "0.3"]) == 0
    keep = recorded(tmp_path)["keep"]
    assert (keep["share"], keep["tokens"], keep["weights"]) == (0.3, None, {"length": 1.0})


@pytest.mark.parametrize("form", ["toml", "yaml"])
def test_flags_win_over_variables_over_files_over_the_recipe(arguments, tmp_path, monkeypatch, form):
    files = {
        "toml": "[longattn]\nalpha = 0.25\nskip_first = 1\n[keep]\nmax_overlap = 0.9\n",
        "yaml": "longattn:\n  alpha: 0.25\n  skip_first: 1\nkeep:\n  max_overlap: 0.9\n",
    }
    config = tmp_path / f"settings.{form}"
    config.write_text(files[form])
    monkeypatch.setenv("LONGATTN_LONGATTN_SKIP_FIRST", "2")
    monkeypatch.setenv("LONGATTN_KEEP_MAX_OVERLAP", "0.8")
    words = ["run", *arguments, "--config", str(config), "--keep.max-overlap", "0.7", "--recipe", "released"]
    assert cli.launch([*words, "--model.rope-theta", "1000"]) == 0
    recipe = recorded(tmp_path)
    assert recipe["settings"]["longattn"]["alpha"] == 0.25
    assert recipe["settings"]["longattn"]["skip_first"] == 2
    assert recipe["settings"]["longattn"]["convention"] == "released"
    assert recipe["keep"]["max_overlap"] == 0.7
    assert recipe["model"]["rope_theta"] == 1000


@pytest.fixture
def asked(monkeypatch):
    """The recipes that `run` is called with, in place of running them."""
    from longattn import verbs

    recipes = []

    def run(recipe, *_):
        recipes.append(recipe)
        raise ValueError("this is only looked at")

    monkeypatch.setattr(verbs, "run", run)
    return recipes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("settings.toml", 'recipe = "released"\nlog_format = "json"\n[refine]\nconfidence = 0.75\n'),
        ("settings.yaml", "recipe: released\nlog-format: json\nrefine:\n  confidence: 0.75\n"),
    ],
)
def test_a_file_may_name_the_recipe_and_stages_that_are_also_verbs(name, text, asked, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    words = ["run", "x", "--config", str(tmp_path / name)]
    assert cli.launch(words) == 1
    assert json.loads(capsys.readouterr().err)["message"] == "this is only looked at"
    assert cli.launch([*words, "--recipe", "paper", "--refine.confidence", "0.5"]) == 1
    first, second = asked
    assert (first.settings.longattn.convention, first.refine.confidence) == ("released", 0.75)
    assert (second.settings.longattn.convention, second.refine.confidence) == ("paper", 0.5)


def test_variables_name_what_every_verb_has_too(asked, tmp_path, monkeypatch, capsys):
    (tmp_path / "settings.toml").write_text("[keep]\nshare = 0.3\n")
    for name, value in {"CONFIG": str(tmp_path / "settings.toml"), "RECIPE": "released", "LOG_FORMAT": "json"}.items():
        monkeypatch.setenv(f"LONGATTN_{name}", value)
    assert cli.launch(["run", "x"]) == 1
    assert json.loads(capsys.readouterr().err)["level"] == "error"
    assert (asked[0].keep.share, asked[0].settings.longattn.convention) == (0.3, "released")


def test_a_variable_for_the_flag_of_another_verb_reaches_no_scorer_of_that_name(asked, monkeypatch):
    """``mix --length``, and the scorer ``length``, which has no settings."""
    monkeypatch.setenv("LONGATTN_LENGTH", "32768")
    assert cli.launch(["run", "x"]) == 1
    assert len(asked) == 1


def test_a_command_that_is_not_understood_ends_with_2(asked, tmp_path):
    files = {"list.yaml": "- keep", "torn.toml": "[keep", "unknown.toml": "kept = 1", "torn.yaml": "a]\nkeep: 1"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    commands = [["run", "x", "--length", "5"], ["run", "x", "--window.length", "many"], ["rum", "x"]]
    for words in [*commands, *(["run", "x", "--config", str(tmp_path / name)] for name in files)]:
        with pytest.raises(SystemExit) as ended:
            cli.launch(words)
        assert ended.value.code == 2
    assert not asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "no input given"),
        (["run", "nowhere"], "nowhere"),
        (["run", "x", "--config", "nowhere.toml"], "nowhere.toml: No such file or directory"),
        (["run", "x", "--recipe", "mine"], "recipe must be one of laptop, paper, released, got 'mine'"),
        (["select", "nowhere"], "nowhere is no measured run"),
        (["status", "nowhere"], "nowhere is no run folder"),
        (["score", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.launch(words) != 0
    complaint = capsys.readouterr().err
    assert message in complaint
    assert "Traceback" not in complaint
    assert len(complaint.splitlines()) == 1


def test_a_misspelt_field_is_answered_with_those_that_there_are(arguments, tmp_path, capsys):
    assert cli.launch(["run", *arguments, "--corpus.text-field", "txet"]) == 0
    complaint = capsys.readouterr().err
    assert "books.jsonl, line 1: the field 'txet' is missing; there are: 'id', 'text'" in complaint


def test_windows_longer_than_every_document_are_answered_with_what_would_do(arguments, capsys):
    longer = ["4000" if word == "64" else word for word in arguments]
    assert cli.launch(["cut", *longer]) == 0
    assert "choose a shorter --window.length, or join short records" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep.share", "2"], "share must be in (0, 1], got 2.0"),
        (["--scorers", "length"], "keep.weights names 'longattn', which is not measured: add --scorers longattn, or"),
        (["--scorers", "longatn"], "did you mean 'longattn'?"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused_before_anything_is_measured(words, message, arguments, capsys):
    flags = [word for word in arguments if word not in ("--keep.share", "0.5")]
    assert cli.launch(["run", *flags, *words]) == 1
    assert message in capsys.readouterr().err
    assert not Path(arguments[2], "tables").exists()


@pytest.mark.parametrize(("module", "extra"), [("torch.nn", "torch"), ("datasets.config", "eval"), ("ray", "ray")])
def test_a_missing_extra_is_answered_with_its_install_line(module, extra, arguments, monkeypatch, capsys):
    from longattn import verbs

    def measure(*_):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(verbs, "measure", measure)
    assert cli.launch(["measure", *arguments]) == 1
    assert f"pip install 'longattn[{extra}]'" in capsys.readouterr().err


def test_a_typo_is_answered_with_what_was_meant(capsys):
    with pytest.raises(SystemExit):
        cli.launch(["run", "x", "--longattn.alhpa", "1"])
    assert "Did you mean --longattn.alpha?" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM")])
def test_a_second_signal_ends_it_at_once(first, second):
    """While what the first one stopped is still being tidied up, which may take as long as it likes."""
    code = f"""if True:
        import signal, sys, time
        from longattn.cli import launching

        def tidy_up(arguments):
            try:
                signal.raise_signal(signal.{first})
            finally:
                print("tidying up", flush=True)
                signal.raise_signal(signal.{second})
                print("tidied up", flush=True)

        launching.app = type("App", (), {{"meta": staticmethod(tidy_up)}})
        launching.main([])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.Signals[second], "tidying up\n", "")


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755)])
def test_files_are_for_whom_the_umask_says(mask, file, folder, arguments, tmp_path):
    """Private where that is asked for, and no more private than that: others of a group may go on with a run."""
    before = os.umask(mask)
    try:
        assert cli.launch(["run", *arguments]) == 0
    finally:
        os.umask(before)
    found = [path for path in (tmp_path / "run").rglob("*") if not path.name.startswith(".lock")]
    assert {path.suffix for path in found} >= {".parquet", ".json", ".jsonl", ".html", ".md"}
    wrong = {
        str(p): oct(p.stat().st_mode) for p in found if p.stat().st_mode & 0o777 != (folder if p.is_dir() else file)
    }
    assert not wrong
    assert cli.launch(["verify", str(tmp_path / "run")]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of a process from /proc")
def test_memory_that_runs_out_is_one_line(arguments, tmp_path):
    """A text of 600 MB in a process that may grow by 400: what little else it does has room.

    That nobody else asks at that moment is seen to by few threads: a compiled library that asks for more ends the
    process, which with workers is a death like any other.
    """
    with (tmp_path / "long.txt").open("wb") as file:
        file.truncate(600_000_000)
    words = [f"books={tmp_path}/long.txt", *arguments[1:], "--scorers", "length", "--tokenizer", "tokenizers"]
    code = """if True:
        import resource, sys
        from pathlib import Path
        import duckdb, pyarrow.parquet, tokenizers
        import longattn.cli, longattn.verbs

        most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 400_000_000
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        longattn.cli.main()
    """
    few = {**os.environ, "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", code, "measure", *words], env=few, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("longattn: there was not enough memory: fewer workers, a smaller ")
    assert "Traceback" not in done.stderr


def test_verify_names_a_damaged_table(arguments, tmp_path, capsys):
    cli.launch(["run", *arguments])
    assert cli.launch(["verify", str(tmp_path / "run")]) == 0
    table = next((tmp_path / "run" / "tables").glob("windows-*/unit-*.parquet"))
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    capsys.readouterr()
    assert cli.launch(["verify", str(tmp_path / "run")]) == 1
    assert f"{table} is damaged: its footer is not the one that was written; delete it" in capsys.readouterr().err
    assert cli.launch(["verify", str(tmp_path / "run"), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [tmp_path / "run" / one["file"] for one in said["damaged"]] == [table]
    assert (said["unfinished"], said["strangers"]) == ([], [])


def test_a_dry_run_estimates_and_writes_nothing(arguments, tmp_path, capsys):
    assert cli.launch(["run", *arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "windows" in said
    assert "hours" in said
    assert not (tmp_path / "run").exists()


def test_score_shows_the_distance_from_uniform_attention(tiny_model_folder, tmp_path, capsys):
    file = tmp_path / "essay.txt"
    file.write_text("far and near " * 20)
    assert cli.launch(["score", str(file), "--model.name", str(tiny_model_folder), "--window.length", "64"]) == 0
    said = capsys.readouterr().out
    assert "260 tokens, 5 windows" in said
    assert said.count("DS ") >= 5


def test_refine_says_how_sure_the_kept_set_is(arguments, tmp_path, capsys):
    sampled = ["--longattn.rows", "0.4", "--longattn.pilot-sample", "2"]
    assert cli.launch(["measure", *arguments, *sampled]) == 0
    assert recorded(tmp_path)["settings"]["longattn"]["rows"] == 0.4
    capsys.readouterr()
    assert cli.launch(["refine", str(tmp_path / "run"), "--workers", "0", "--devices", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "with a probability of at least" in said
    assert "books: kept" in said


def test_validate_takes_inputs_and_settings_of_the_run(arguments, tmp_path, capsys):
    run = str(tmp_path / "run")
    cli.launch(["run", *arguments, "--scorers", "longattn", "--scorers", "length"])
    words = ["--pairs", "8", "--controls", "spliced-2", "--controls", "swapped", "--pairs-for.longattn", "8"]
    capsys.readouterr()
    assert cli.launch(["validate", "--output", run, *words, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for word in ("books: AUC against 8 intact windows of 5 documents", "spliced-2", "swapped", "token_null", "random"):
        assert word in said
    found = json.loads((tmp_path / "run" / "validity" / "validation.json").read_bytes())
    assert found["window"] == 64
    assert found["settings"]["pairs_for"] == {"longattn": 8}


def test_calibrate_and_compare_say_what_they_found(arguments, tmp_path, capsys):
    run, preset = str(tmp_path / "run"), tmp_path / "far.json"
    cli.launch(["run", *arguments, "--scorers", "longattn", "--scorers", "length"])
    words = ["--targets", "shuffled-16", "--pairs", "8", "--share", "1", "--skips", "0", "--folds", "2"]
    capsys.readouterr()
    assert cli.launch(["calibrate", "--output", run, *words, "--preset", str(preset), "--device", "cpu"]) == 0
    assert "held out" in capsys.readouterr().out
    assert json.loads(preset.read_bytes())["evidence"]["separations"][0]["control"] == "shuffled-16"
    assert cli.launch(["compare", run]) == 0
    assert "length, longattn" in capsys.readouterr().out


def test_inspect_makes_a_page_of_the_best_window_or_of_those_named(arguments, tmp_path, capsys):
    run = tmp_path / "run"
    cli.launch(["run", *arguments])
    capsys.readouterr()
    assert cli.launch(["inspect", str(run), "--longattn.layers", "1", "--longattn.distance", "20"]) == 0
    said = capsys.readouterr().out
    page = Path(said.split(" -> ")[1].strip())
    assert page.parent == run / "inspect"
    text = page.read_text(encoding="utf-8")
    assert "rank 1" in text
    assert "20 tokens back or more" in text
    again = page.read_bytes()
    command = shlex.split(html.unescape(text.split("longattn inspect ")[1].split("<")[0]))
    assert cli.launch(["inspect", *command, "--figures", str(tmp_path / "figures")]) == 0
    assert page.read_bytes() == again
    assert (tmp_path / "figures" / page.stem / "map.svg").exists()
    assert cli.launch(["inspect", str(run), "nobody@0"]) == 1
    assert "has no window 'nobody@0'" in capsys.readouterr().err


def test_inspect_takes_a_text(tiny_model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("essay.txt").write_text("far and near " * 20)
    words = ["--model.name", str(tiny_model_folder), "--window.length", "64"]
    assert cli.launch(["inspect", "essay.txt", "1", "5", "--top", "2", *words]) == 0
    assert len(list(Path("inspect").glob("essay.txt-*.html"))) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("a short text of its own"))
    assert cli.launch(["inspect", "-o", "page.html", "-", *words]) == 0
    assert "a short text of its own" in re.sub("<[^>]*>", "", Path("page.html").read_text(encoding="utf-8"))
    monkeypatch.setattr("sys.stdin", io.StringIO("a short text of its own"))
    assert cli.launch(["score", "-", *words]) == 0
    assert cli.launch(["inspect", "essay.txt", "last", *words]) == 1
    assert "named by number" in capsys.readouterr().err


def test_two_selections_are_compared_on_the_terminal_as_json_and_as_a_page(arguments, tmp_path, capsys):
    run, before = str(tmp_path / "run"), tmp_path / "before.parquet"
    cli.launch(["run", *arguments])
    before.write_bytes((tmp_path / "run" / "selection.parquet").read_bytes())
    cli.launch(["select", run, "--keep.share", "1"])
    capsys.readouterr()
    page, changes = tmp_path / "diff.html", tmp_path / "changes.parquet"
    assert cli.launch(["diff", str(before), run, "--output", str(page), "--changes", str(changes)]) == 0
    said = capsys.readouterr()
    assert "ranked high enough, but less was kept" in " ".join(said.out.split())
    assert str(page) in said.out
    assert "has no manifest beside it" in said.err
    assert "windows entered" in page.read_text(encoding="utf-8")
    assert changes.exists()
    assert cli.launch(["diff", str(before), run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sources"][0]["entered"] == len(found["windows"]) > 0
    assert cli.launch(["diff", str(tmp_path / "nothing"), run]) == 1
    assert "neither a run folder nor a selection file" in capsys.readouterr().err


def test_the_report_tries_other_choices_and_leaves_out_what_was_measured_otherwise(arguments, tmp_path, capsys):
    run, page = str(tmp_path / "run"), tmp_path / "run" / "report.html"
    cli.launch(["run", *arguments, "--scorers", "longattn", "--scorers", "random", "--scorers", "length"])
    text = page.read_text(encoding="utf-8")
    first = page.read_bytes()
    assert "alpha 1" in text
    assert '<th scope="row">random</th>' in text
    assert cli.launch(["report", run]) == 0
    assert page.read_bytes() == first
    cli.launch(["select", run, "--random.seed", "7"])
    capsys.readouterr()
    assert cli.launch(["report", run]) == 0
    assert "random was measured with other settings" in capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    # its table is still on disk, and is counted in the cost alone
    assert text.count('<th scope="row">random</th>') == 1
    assert '<th scope="row">length</th>' in text
    assert cli.launch(["report", run, "--timings"]) == 0
    assert "On this machine" in page.read_text(encoding="utf-8")


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "longattn", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == longattn.__version__


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_the_completion_for_bash_is_bash_and_completes_verbs(tmp_path, capsys):
    assert cli.launch(["completion", "bash"]) == 0
    script = tmp_path / "longattn.bash"
    script.write_text(capsys.readouterr().out)
    subprocess.run(["bash", "-n", str(script)], check=True)
    asking = f"source {script}; COMP_WORDS=(longattn qui); COMP_CWORD=1; _longattn; echo ${{COMPREPLY[@]}}"
    said = subprocess.run(["bash", "--norc", "-c", asking], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["quickstart"]


def test_completion_is_put_where_the_shell_looks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.launch(["completion", "fish", "--install"]) == 0
    path = Path(capsys.readouterr().out.split()[2].rstrip(";"))
    assert path.is_relative_to(tmp_path)
    assert "quickstart" in path.read_text()


@pytest.mark.parametrize("flags", [[], ["--install"]])
def test_completion_of_a_shell_that_cannot_be_seen_asks_for_its_name(flags, monkeypatch, capsys):
    def unseen():
        raise ShellDetectionError("Unable to detect shell type.")

    monkeypatch.setattr("cyclopts.completion.detect_shell", unseen)
    monkeypatch.setattr("cyclopts.completion.detect.detect_shell", unseen)
    assert cli.launch(["completion", *flags]) == 1
    assert "longattn completion bash" in capsys.readouterr().err
