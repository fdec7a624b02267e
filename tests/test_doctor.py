"""What is examined before a run, and what is said of it; log lines and metrics of one that works."""

import json
import logging
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pytest

from longattn import cli
from longattn.attention import native
from longattn.doctor import EXTRAS, check_installation, check_model, check_output, examine
from longattn.engines.metrics import METRICS, Metrics
from longattn.engines.progress import State, StatusFile, read_progress
from longattn.logs import JsonLines, OneLine
from longattn.records import Slice, WorkUnit
from longattn.settings import Model
from longattn.tables import RunFolder


def test_a_good_installation_with_a_good_model_and_folder_has_nothing_to_mend(tiny_model_folder, tmp_path):
    findings = examine(Model(name=str(tiny_model_folder)), 64, tmp_path / "new")
    assert "fail" not in {finding.outcome for finding in findings}
    assert {"python", "kernel", "devices", "model", "tokenizer", "weights", "output", "lock"} <= {
        f.what for f in findings
    }
    assert not (tmp_path / "new").exists()


def test_every_extra_for_users_is_looked_at():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert EXTRAS.keys() == project["optional-dependencies"].keys() - {"dev", "assurance"}


def test_a_model_that_is_none_fails_with_advice(tmp_path):
    [finding] = check_model(Model(name=str(tmp_path / "nothing")), 64)
    assert (finding.outcome, finding.what) == ("fail", "model")
    assert finding.advice


def test_a_kernel_that_cannot_run_is_a_finding_and_no_traceback(monkeypatch):
    if not native.instruction_sets():
        pytest.skip("the native kernel is not built")
    monkeypatch.setenv("LONGATTN_ISA", "sse9")
    found = {one.what: one for one in check_installation()}
    assert found["kernel"].outcome == "fail"
    assert "got 'sse9'" in found["kernel"].found
    assert found["devices"].outcome == "pass"


def test_a_folder_that_cannot_be_used_or_is_used_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    [finding] = check_output(tmp_path / "file" / "run")
    assert finding.outcome == "fail"
    with RunFolder(tmp_path / "run").lock():
        found = {one.what: one for one in check_output(tmp_path / "run")}
    assert (found["output"].outcome, found["lock"].outcome) == ("pass", "warn")
    assert "in use by process" in found["lock"].found


def test_a_damaged_run_is_a_finding_among_others(tmp_path):
    run, unit = RunFolder(tmp_path), WorkUnit((Slice("a.jsonl", 1, ""),))
    table = run.table("length", {"scorer": "length"})
    run.write_plan([unit])
    run.update_manifest(tables={"length": {"folder": table.folder.name, "settings": table.settings}})
    table.commit(unit.id, pa.table({"window_id": ["a"]}), {}, {})
    last = list(check_output(tmp_path))[-1]
    assert (last.outcome, last.found) == ("pass", "1 of 1 units, 0 damaged")
    table.file(unit.id).write_bytes(b"other bytes")
    last = list(check_output(tmp_path))[-1]
    assert (last.outcome, last.found) == ("fail", "1 of 1 units, 1 damaged")
    assert "verify" in last.advice


def test_the_verb_says_pass_warn_or_fail_and_exits_accordingly(tiny_model_folder, tmp_path, capsys):
    words = ["doctor", "--model.name", str(tiny_model_folder), "--window", "64", "--output", str(tmp_path)]
    assert cli.launch([*words, "--json"]) == 0
    assert {one["outcome"] for one in json.loads(capsys.readouterr().out)} <= {"pass", "warn"}
    assert cli.launch(["doctor", "--model.name", str(tmp_path / "nothing")]) == 1
    assert any(line.startswith("fail  model") for line in capsys.readouterr().out.splitlines())


def record(message: str, **more) -> logging.LogRecord:
    made = logging.LogRecord("longattn.test", logging.WARNING, __file__, 1, message, (), None)
    made.__dict__.update(more)
    return made


def test_log_lines_hold_no_character_that_acts_on_a_terminal():
    hostile = "a\x1b[31mred\r\n\u202efdp.exe \x07"
    for line in (OneLine().format(record(hostile)), json.loads(JsonLines().format(record(hostile)))["message"]):
        assert line.isprintable()
        assert "fdp.exe" in line


def test_a_traceback_in_the_log_keeps_its_lines_and_nothing_that_acts():
    try:
        raise ArithmeticError("a\x1b[31mred\u202e")
    except ArithmeticError:
        first, *lines = OneLine().format(record("trouble", exc_info=sys.exc_info())).split("\n")
    assert (first, lines[-1]) == ("trouble", "ArithmeticError: a [31mred ")
    assert all(map(str.isprintable, lines))


def test_a_json_line_is_an_object_with_facts_and_an_exception():
    try:
        raise ArithmeticError("no number")
    except ArithmeticError:
        line = JsonLines().format(record("trouble", facts={"windows": 3}, exc_info=sys.exc_info()))
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["message"], found["facts"]) == ("warning", "trouble", {"windows": 3})
    assert "ArithmeticError: no number" in found["exception"]


def test_metrics_are_a_prometheus_text_file_with_escaped_labels(tmp_path):
    state = State(3, 1, 100, 50.0, rejects={"bad_json": 2})
    for shard in ("0/2", "1/2", None):
        Metrics(tmp_path / "a.prom", tmp_path / 'r"u\\n', shard).end(state, "done", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-0-of-2.prom", "a-1-of-2.prom", "a.prom"]
    lines = (tmp_path / "a-1-of-2.prom").read_text().splitlines()
    run = str(tmp_path / 'r"u\\n').replace("\\", "\\\\").replace('"', '\\"')
    assert f'longattn_units{{run="{run}",shard="1/2"}} 3' in lines
    assert f'longattn_rejected_by_reason{{run="{run}",shard="1/2",reason="bad_json"}} 2' in lines
    assert f'longattn_phase{{run="{run}",shard="1/2",phase="done"}} 1' in lines
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} >= {f"longattn_{name}" for name in METRICS}


@pytest.mark.parametrize(("shard", "name"), [(None, "progress.json"), ("1/2", "progress-1-of-2.json")])
def test_what_an_attempt_said_can_be_read_by_others(tmp_path, shard, name):
    status = StatusFile(tmp_path, "embedded", shard)
    status.update(State(3, 1, 100, 50.0, tokens=7))
    status.end(State(3, 3, 100, 100.0), "failed", "the disk is full")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    [said] = read_progress(tmp_path)
    assert (said["format"], said["phase"], said["message"]) == (1, "failed", "the disk is full")
    (tmp_path / "progress-old.json").write_text('{"format": 0}')
    (tmp_path / "progress-torn.json").write_text('{"form')
    assert read_progress(tmp_path) == [said]
