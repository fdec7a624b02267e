"""Rows of a table, rows kept from earlier windows and rows projected just now: the same bits."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longattn import settings
from longattn.models import load_model, loading, resolve
from longattn.models import vocabulary as module
from longattn.models.base import LayerAttention
from longattn.models.first_layer import FirstLayer
from longattn.models.vocabulary import IDS_AT_ONCE, Projector, Vocabulary, open_table

V = 700
"""Ids of the models here: more than two products of IDS_AT_ONCE, and no multiple of it."""
FAMILIES = {
    "llama": {},
    "llama with biases": {"attention_bias": True},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
}


@pytest.fixture
def make(make_folder):
    def load(family: str = "llama", dtype: str = "bfloat16") -> FirstLayer:
        folder = make_folder(family.split()[0], vocab_size=V, **FAMILIES[family])
        model = settings.Model(name=str(folder), dtype=dtype)
        loaded = load_model(resolve(model), model, layers=(0,), window=64)
        assert isinstance(loaded, FirstLayer)
        return loaded

    return load


def ids_like(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, (count,), generator=torch.Generator().manual_seed(seed))


def rows_of(vocabulary: Vocabulary, ids: torch.Tensor) -> list[torch.Tensor]:
    heads, place = vocabulary.rows(ids)
    return [part[place] for part in heads]


def assert_equal_bits(some: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def table_files(cache: Path) -> list[Path]:
    return sorted(cache.glob("vocabulary/*/*"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_wherever_rows_come_from_they_are_the_same(make, family, dtype, monkeypatch):
    projector = make(family, dtype).projector
    every = open_table(projector, "hash", build=True)
    assert every is not None
    assert every.q.dtype == getattr(torch, dtype)
    kept = Vocabulary(projector)
    monkeypatch.setattr(module, "MAX_BYTES", 0)
    forgetful = Vocabulary(projector)
    for seed, count in enumerate([1, 3, 15, 64, 300, 2000]):
        ids = ids_like(count, seed)
        expected = rows_of(Vocabulary(projector, every), ids)
        assert_equal_bits(rows_of(kept, ids), expected)
        assert_equal_bits(rows_of(forgetful, ids), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_change_no_bit_of_queries_and_keys(make, dtype):
    model = make("qwen3", dtype)
    tokens, before = ids_like(64)[None], torch.get_num_threads()
    seen: list[LayerAttention] = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            fresh = replace(model, vocabulary=Vocabulary(model.projector))
            fresh.queries_and_keys(tokens, [0], seen.append)
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        assert_equal_bits([other.q, other.k], [seen[0].q, seen[0].k])


def test_the_embedded_model_has_the_same_bits_with_and_without_a_table(smollm2):
    model = settings.Model(dtype="bfloat16")
    first = load_model(smollm2, model, layers=(0,), window=3000)
    assert isinstance(first, FirstLayer)
    tokens = torch.randint(0, 49152, (1, 3000), generator=torch.Generator().manual_seed(1))
    some = torch.tensor([2999, 5, 700, 6])
    seen: list[LayerAttention] = []
    for way in (first, first.with_table(build=True)):
        way.queries_and_keys(tokens, [0], seen.append)
        way.queries_and_keys(tokens, [0], seen.append, rows=some)
    for other in seen[1:]:
        assert torch.equal(other.k, seen[0].k)
        assert torch.equal(other.q, seen[0].q if other.q.shape[1] == 3000 else seen[0].q[:, some])


def test_an_id_is_projected_once(make, monkeypatch):
    projected: list[int] = []
    original = Projector.__call__

    def count(self: Projector, ids: torch.Tensor):
        projected.extend(ids.tolist())
        return original(self, ids)

    model = make()
    monkeypatch.setattr(Projector, "__call__", count)
    for seed in range(4):
        model.vocabulary.rows(ids_like(200, seed))
    assert len(projected) == len(set(projected)) == len({int(i) for seed in range(4) for i in ids_like(200, seed)})


def test_a_table_is_only_made_when_that_is_allowed(make, cache):
    model = make()
    assert model.with_table(build=False) is model
    assert table_files(cache) == []
    built = model.with_table(build=True)
    (file,) = table_files(cache)
    assert {name: tuple(part.shape) for name, part in load_file(file).items()} == {"q": (V, 6, 8), "k": (V, 2, 8)}
    found = model.with_table(build=False)
    assert model.vocabulary not in (built.vocabulary, found.vocabulary)


def test_tables_of_other_models_and_types_are_other_files(make, cache):
    for name in ("one", "two"):
        open_table(make().projector, name, build=True)
    open_table(make(dtype="float32").projector, "one", build=True)
    assert len(table_files(cache)) == 3


def test_a_table_with_other_rounding_is_not_used(make, cache, caplog):
    model = make()
    model.with_table(build=True)
    (file,) = table_files(cache)
    table = load_file(file)
    table["k"][:, 1, 3] *= 1 + 2**-7
    save_file(table, file)
    with caplog.at_level(logging.WARNING):
        assert model.with_table(build=True) is model
    assert "other rounding" in caplog.text


def test_a_table_larger_than_the_limit_is_neither_kept_nor_written(make, cache, monkeypatch):
    model = make()
    monkeypatch.setattr(module, "MAX_BYTES", V * model.projector.bytes_per_id - 1)
    assert model.with_table(build=True) is model
    assert table_files(cache) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's account of the mapped file")
def test_a_table_is_mapped_not_copied(make, cache):
    heads = open_table(make().projector, "hash", build=True)
    assert heads is not None
    assert heads.q.sum() != 0
    (file,) = table_files(cache)
    mapped = Path("/proc/self/smaps").read_text().split(str(file))
    assert len(mapped) > 1
    for facts in mapped[1:]:
        dirty = {line.split(":")[0]: line.split()[1] for line in facts.splitlines()[1:20] if "kB" in line}
        assert dirty["Private_Dirty"] == "0"


@pytest.mark.parametrize(
    ("choice", "num_tokens", "made"),
    [
        ("auto", module.TOKENS_PER_ID * V - 1, False),
        ("auto", module.TOKENS_PER_ID * V, True),
        ("always", 0, True),
        ("never", 10**12, False),
    ],
)
def test_when_a_table_is_worth_it(make, cache, choice, num_tokens, made):
    loading.with_table(make(), choice, num_tokens)
    assert bool(table_files(cache)) == made


def test_a_table_that_is_there_is_used_however_small_the_corpus(make):
    model = make()
    model.with_table(build=True)
    assert loading.with_table(model, "auto", 0) is not model
    assert loading.with_table(model, "never", 0) is model


def test_a_product_has_one_shape(make, monkeypatch):
    """What equality of bits rests on: no product has more or fewer rows than another."""
    shapes = set()
    original = module.linear

    def record(hidden, weight, bias):
        shapes.add(len(hidden))
        return original(hidden, weight, bias)

    monkeypatch.setattr(module, "linear", record)
    model = make()
    for count in (1, 255, 256, 257, 2000):
        model.projector(ids_like(count))
    assert shapes == {IDS_AT_ONCE}
