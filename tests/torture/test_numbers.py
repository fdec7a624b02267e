"""Numbers under stress: what is not finite reaches no ranking, and how work is spread changes no bit (N2, N4)."""

import json
import shutil
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from longattn import asking, verbs
from longattn.errors import ModelError
from longattn.measuring import measure_windows
from longattn.models import load_model, resolve
from longattn.recipes import Recipe
from longattn.records import Window
from longattn.scorers import LongAttn, LongCE
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing

torch = pytest.importorskip("torch")
INLINE = Compute(workers=0, devices=("cpu",), threads=1)
LENGTH = 64


def windows(rng, count: int) -> list[Window]:
    tokens = [np.array([rng.randrange(256) for _ in range(LENGTH)], dtype=np.uint32) for _ in range(count)]
    return [Window(str(n), "all", 0, one, 0, LENGTH, LENGTH) for n, one in enumerate(tokens)]


def bits(columns) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(column).tobytes() for name, column in columns.items()}


def test_weights_that_are_no_numbers_are_refused_by_name(tiny_model_folder, tmp_path, trials):
    """N4. A NaN or infinity at a random place of a random tensor, of those that are loaded."""
    from safetensors.torch import load_file, save_file

    rng, wanted, passed = trials.random(), trials.number(100, 6), 0
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    names = [name for name in sorted(tensors) if "embed_tokens" in name or "layers.0" in name]
    for _ in range(wanted):
        name = rng.choice(names)
        changed = {key: tensor.clone() for key, tensor in tensors.items()}
        changed[name].view(-1)[rng.randrange(changed[name].numel())] = rng.choice([np.nan, np.inf, -np.inf])
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        checkpoint = resolve(Model(name=str(folder)))
        try:
            load_model(checkpoint, Model(), layers=[0], window=LENGTH, predicts=True, device="cpu")
        except ModelError as error:
            passed += name.removeprefix("model.") in str(error) and "1 values that are not finite" in str(error)
    trials.count("N4", "NaN or infinity in a weight: refused, tensor named", wanted, passed)


@pytest.mark.parametrize("backend", ["reference", "blocked", "native"])
def test_activations_that_are_no_numbers_leave_a_window_without_values(tiny_model_folder, trials, monkeypatch, backend):
    """N4. A NaN or infinity at a random place of a layer's queries or keys: that window, and no other, has none."""
    checkpoint = resolve(Model(name=str(tiny_model_folder)))
    model = load_model(checkpoint, Model(), layers=[0], window=LENGTH, device="cpu")
    scorer, rng = LongAttn(backend=backend).for_length(LENGTH), trials.random()
    given = windows(rng, 4)
    expected = measure_windows([scorer], model, given)["longattn"]
    wanted, passed = trials.number(300, 15), 0
    show = asking._Layers.show
    for _ in range(wanted):
        victim, where, value = rng.choice(given), rng.choice("qk"), rng.choice([np.nan, np.inf, -np.inf])
        place = rng.random()

        def poisoned(self, attention, shown, victim=victim, where=where, value=value, place=place):
            if self.window is victim:
                tensor = getattr(attention, where).clone()
                tensor.view(-1)[int(place * tensor.numel())] = value
                attention = attention._replace(**{where: tensor})
            show(self, attention, shown)

        with monkeypatch.context() as patch:
            patch.setattr(asking._Layers, "show", poisoned)
            found = measure_windows([scorer], model, given)["longattn"]
        hit = given.index(victim)
        others = np.arange(len(given)) != hit
        passed += all(
            bits({"": found[n][others]}) == bits({"": expected[n][others]})
            and (found[n].dtype.kind != "f" or bool(np.isnan(found[n][hit]).all()))
            for n in found
        )
    trials.count("N4", f"NaN or infinity in queries or keys, {backend} kernel", wanted, passed)


class Short(NamedTuple):
    """A device that has room for so many tokens at once."""

    tokens: int
    error: type[BaseException]
    message: str


@pytest.mark.parametrize(
    "short",
    [
        Short(200, MemoryError, ""),
        Short(
            200,
            RuntimeError,
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        ),
        Short(64, torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=["host", "torch on a CPU", "CUDA"],
)
@pytest.mark.parametrize("scorer", [LongAttn(), LongCE()], ids=["attention", "predictions"])
def test_memory_that_runs_out_halves_the_batch_and_changes_no_attention(
    tiny_model_folder, trials, monkeypatch, caplog, short, scorer
):
    """Of attention not a bit; log-probabilities by rounding, since matrix products are added up in another order."""
    checkpoint = resolve(Model(name=str(tiny_model_folder)))
    model = load_model(
        checkpoint, Model(), layers=[0], window=LENGTH, predicts=isinstance(scorer, LongCE), device="cpu"
    )
    scorer, given = scorer.for_length(LENGTH), windows(trials.random(), 9)
    expected = measure_windows([scorer], model, given)[scorer.name]
    look = asking.look_together

    def cramped(asks, model, batch):
        if sum(len(window.tokens) for window in batch) > short.tokens:
            raise short.error(short.message)
        return look(asks, model, batch)

    monkeypatch.setattr(asking, "look_together", cramped)
    monkeypatch.setattr(asking, "TOKENS_AT_ONCE", asking.TOKENS_AT_ONCE)
    found = measure_windows([scorer], model, given)[scorer.name]
    if isinstance(scorer, LongAttn):
        assert bits(found) == bits(expected)
    else:
        assert all(found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5) for name in found)
    assert "out of memory on cpu: at most" in caplog.text
    assert short.tokens >= asking.TOKENS_AT_ONCE


def test_memory_that_does_not_hold_one_window_is_an_error(tiny_model_folder, trials, monkeypatch):
    checkpoint = resolve(Model(name=str(tiny_model_folder)))
    model = load_model(checkpoint, Model(), layers=[0], window=LENGTH, device="cpu")

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(asking, "look_together", full)
    monkeypatch.setattr(asking, "TOKENS_AT_ONCE", asking.TOKENS_AT_ONCE)
    with pytest.raises(MemoryError):
        measure_windows([LongAttn().for_length(LENGTH)], model, windows(trials.random(), 3))


def test_how_the_work_is_spread_changes_no_bit(tiny_model_folder, tmp_path, trials):
    """N2. Unit sizes, order of inputs, batches and history at random; `test_run.py` has workers, shards and threads."""
    rng = trials.random()
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        texts = [" ".join(str(rng.random()) for _ in range(9)) for _ in range(6)]
        lines = [json.dumps({"id": f"{number}-{d}", "text": text}) + "\n" for d, text in enumerate(texts)]
        (folder / f"{number}.jsonl").write_text("".join(lines))
    base = Recipe(
        corpus=Corpus(inputs=(str(folder),), source="all"),
        window=Windowing(length=LENGTH),
        model=Model(name=str(tiny_model_folder)),
        keep=Selecting(share=0.4),
    )

    def selected(recipe: Recipe, name: str, limit: int | None = None) -> bytes:
        if limit:
            verbs.measure(recipe, tmp_path / name, replace(INLINE, limit=limit))
        verbs.measure(recipe, tmp_path / name, INLINE)
        verbs.select(recipe, tmp_path / name)
        return (tmp_path / name / "selection.parquet").read_bytes()

    expected, wanted, passed = selected(base, "calm"), trials.number(40, 3), 0
    before = asking.TOKENS_AT_ONCE
    try:
        for trial in range(wanted):
            files = sorted(map(str, folder.iterdir()))
            rng.shuffle(files)
            corpus = replace(base.corpus, inputs=tuple(files), unit_bytes=rng.choice([200, 500, 1000, 10**6]))
            asking.TOKENS_AT_ONCE = rng.choice([1, 128, 192, 512, 4096])
            passed += selected(replace(base, corpus=corpus), f"run {trial}", rng.choice([None, 1, 7])) == expected
    finally:
        asking.TOKENS_AT_ONCE = before
    trials.count("N2", "other units, order, batches and history", wanted, passed)


@pytest.mark.parametrize("documents", [["aaaa"], ["a" * LENGTH], ["a" * LENGTH] * 5], ids=["none", "one", "equal"])
def test_sources_without_spread_have_defined_results(tiny_model_folder, tmp_path, documents):
    """A source without a window, with one, and with equal ones: standardised scores are 0, ties break by id."""
    lines = "".join(f'{{"id": "{n}", "text": "{text}"}}\n' for n, text in enumerate(documents))
    (tmp_path / "in.jsonl").write_text(lines)
    recipe = Recipe(
        corpus=Corpus(inputs=(str(tmp_path / "in.jsonl"),), source="all"),
        window=Windowing(length=LENGTH),
        model=Model(name=str(tiny_model_folder)),
        keep=Selecting(count=2),
    )
    verbs.measure(recipe, tmp_path / "run", INLINE)
    notes = verbs.select(recipe, tmp_path / "run").notes
    rows = pq.read_table(tmp_path / "run" / "selection.parquet").to_pylist()
    whole = [n for n, text in enumerate(documents) if len(text) >= LENGTH]
    assert [row["score"] for row in rows] == [0.0] * len(whole)
    assert [row["doc_id"] for row in rows if row["kept"]] == [str(n) for n in whole[:2]]
    assert bool(notes) == (len(whole) != 1)
