"""What shards and workers add up to for whoever watches."""

import json

from longattn import cli
from longattn.engines.progress import State, StatusFile, read_progress
from longattn.engines.watching import together
from longattn.recipes import Recipe
from longattn.settings import Compute, Corpus, Model, Windowing


def say(folder, shard, phase="running", engine="embedded", **facts):
    state = State(units=10, units_done=4, num_bytes=1000, bytes_done=400.0, **facts)
    StatusFile(folder, engine, shard).end(state, phase, "the disk is full" if phase == "failed" else "")


def age(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def test_shards_are_added_up(tmp_path):
    say(tmp_path, "0/4", windows=5, tokens=100, rejects={"empty": 2}, units_failed=1)
    say(tmp_path, "1/4", "failed", windows=2, rejects={"empty": 1, "bad_json": 3})
    say(tmp_path, "2/4")
    age(tmp_path, "progress-0-of-4.json", elapsed=10.0, tokens_per_second=10.0)
    age(tmp_path, "progress-2-of-4.json", updated=1.0)
    found = together(read_progress(tmp_path))
    assert (len(found.running), len(found.ended), len(found.silent), found.not_begun) == (1, 1, 1, 1)
    assert (found.sum("windows"), found.sum("units_failed"), found.tokens_per_second) == (7, 1, 10.0)
    assert found.rejects == {"empty": 3, "bad_json": 3}
    # 600 bytes are left of each of three shards and 1,000 of the fourth, at 400 bytes in 10 seconds
    assert found.seconds_left == 2800 / 40
    text = "\n".join(found.lines())
    assert "4 shards: 1 running, 1 ended, 1 silent, 1 not begun" in text
    assert "rejected: 3 bad_json, 3 empty" in text
    assert [attempt["shard"] for attempt in found.worth_a_line] == ["0/4", "1/4", "2/4"]


def test_of_many_shards_those_are_named_that_went_wrong(tmp_path):
    for number in range(12):
        say(tmp_path, f"{number}/12", "failed" if number == 7 else "done")
    assert [attempt["shard"] for attempt in together(read_progress(tmp_path)).worth_a_line] == ["7/12"]


def test_shards_of_another_division_are_no_part_of_it(tmp_path):
    say(tmp_path, "0/2", "done")
    say(tmp_path, None, "done")
    age(tmp_path, "progress-0-of-2.json", updated=1.0)
    age(tmp_path, "progress.json", updated=2.0)
    say(tmp_path, "2/3")
    assert [attempt["shard"] for attempt in together(read_progress(tmp_path)).attempts] == ["2/3"]


def test_workers_of_ray_are_named(tmp_path):
    workers = [
        {"host": "node7", "pid": 12, "units": ["a", "b"], "windows": 3, "tokens": 9},
        {"host": None, "pid": None, "units": [], "windows": 0, "tokens": 0},
    ]
    say(tmp_path, None, engine="ray", workers=workers)
    assert list(together(read_progress(tmp_path)).workers()) == [
        "worker 12 on node7: 3 windows, 2 units in hand",
        "a worker that Ray has not started yet",
    ]


def test_nobody_has_worked_yet(tmp_path):
    assert list(together(read_progress(tmp_path)).lines()) == []


def test_the_verb_shows_it(tmp_path, tiny_model_folder, capsys):
    from longattn import verbs

    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "some text " * 30}) + "\nbroken\n")
    recipe = Recipe(
        corpus=Corpus(inputs=(str(tmp_path / "a.jsonl"),)),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("length",),
    )
    verbs.measure(recipe, tmp_path / "run", Compute(workers=0, shard="0/2"))
    assert cli.launch(["status", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "2 shards: 0 running, 1 ended, 0 silent, 1 not begun" in out
    assert "rejected: 1 bad_json" in out
