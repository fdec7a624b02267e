"""What is fuzzed: for each reader of bytes that others wrote, good examples and a call that may only refuse them."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longattn.cli import launch
from longattn.corpus import REASONS, list_units, read_unit
from longattn.corpus.manifests import read_manifest
from longattn.errors import CorpusError, LongAttnError, ModelError, RunError
from longattn.expressions import column
from longattn.models.checkpoint import parse_config, parse_index
from longattn.models.gguf import convert_gguf
from longattn.models.weights import local_header
from longattn.presets import read_preset
from longattn.records import Document, Slice, WorkUnit
from longattn.seals import seal_json
from longattn.selection import Formula, select
from longattn.settings import Corpus, Selecting
from longattn.tables import RunFolder, check_seal, read_parquet, read_sealed
from longattn.testing import tiny_checkpoint
from longattn.tokens import Tokenizer

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}

LINES = (
    b'{"text": "a first document", "id": 1, "meta": {"a": [1, {"b": null}]}}\n'
    b'\xef\xbb\xbf\n{"text": "\\u00e9\\ud83d\\ude00", "id": "x", "n": 1e3}\r\n{"id": 18446744073709551617}\n'
)
"""Lines of JSON with some of what may be in them."""


@dataclass(frozen=True)
class Target:
    """One reader."""

    try_it: Callable[[bytes], object]
    """Returns, or raises one of ``refusals``; whatever else comes is a fault."""
    refusals: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]


def scratch() -> Path:
    """A folder for files that exist for one call, in memory where that can be."""
    global _scratch
    if _scratch is None:
        memory = Path("/dev/shm")
        _scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    return _scratch


_scratch: Path | None = None


def clean() -> None:
    """Remove what the targets have written."""
    global _scratch
    if _scratch is not None:
        shutil.rmtree(_scratch, ignore_errors=True)
        _scratch = None


def _in_file(name: str, look: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A call for bytes, from one for a file of this name."""

    def try_it(data: bytes) -> object:
        path = scratch() / name
        path.write_bytes(data)
        return look(path)

    return try_it


def _read_corpus(path: Path) -> None:
    """Every record is a document or has one of the reasons, read in one slice and in several."""
    for more in ({}, {"messages_field": "messages"}, {"join_by": "key", "source_field": "source"}):
        corpus = Corpus(inputs=(str(path),), max_doc_bytes=2**20, unit_bytes=200, **more)
        for unit in list_units(corpus):
            for record in read_unit(unit, corpus, ("*",)):
                assert isinstance(record, Document) or record.reason in REASONS, record


def _parquet_seeds() -> list[bytes]:
    rows = {
        "text": [f"{n} text" for n in range(20)],
        "id": [str(n) for n in range(20)],
        "meta": [{"a": [n]} for n in range(20)],
        "messages": [[{"role": "user", "content": "x"}]] * 20,
    }
    found = []
    for codec in ("none", "snappy", "zstd"):
        file = io.BytesIO()
        pq.write_table(pa.table(rows), file, row_group_size=10, compression=codec)
        found.append(file.getvalue())
    return found


@cache
def _model() -> Path:
    """A folder with a tiny model and its tokenizer."""
    return tiny_checkpoint(scratch() / "model", layers=1, heads=2, key_heads=1, head_size=4)


def _gguf_seed() -> bytes:
    """A model of one layer that can be converted."""
    import gguf
    from tokenizers import pre_tokenizers

    path = scratch() / "seed.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    facts = {"block_count": 1, "context_length": 64, "embedding_length": 8, "feed_forward_length": 16}
    facts |= {"attention.head_count": 2, "attention.head_count_kv": 1, "attention.key_length": 4}
    for name, value in facts.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(tokens), 8), "output_norm": (8,)}
    shapes |= {"blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,)}
    shapes |= {"blk.0.attn_q": (8, 8), "blk.0.attn_k": (4, 8), "blk.0.attn_v": (4, 8), "blk.0.attn_output": (8, 8)}
    shapes |= {"blk.0.ffn_gate": (16, 8), "blk.0.ffn_up": (16, 8), "blk.0.ffn_down": (8, 16)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _convert(path: Path) -> None:
    """Without the cache, which would fill with what is tried."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder, _cache_in(folder):
        convert_gguf(path)


@contextlib.contextmanager
def _cache_in(folder: str) -> Any:
    before = os.environ.get("LONGATTN_CACHE")
    os.environ["LONGATTN_CACHE"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["LONGATTN_CACHE"]
        else:
            os.environ["LONGATTN_CACHE"] = before


def _tokenize(path: Path) -> None:
    """A tokenizer that can be loaded also encodes, or refuses the text, and its spans lie in the text."""
    tokenizer = Tokenizer.load(path)
    text = "Two words, 12 signs\nand a é — 語 😀"
    try:
        tokens = tokenizer.encode(text)
    except ValueError:
        return
    assert len(tokens.ids) == len(tokens.char_starts) == len(tokens.char_ends)
    assert not len(tokens.ids) or int(tokens.ids.max()) < tokenizer.vocab_size
    assert not len(tokens.ids) or int(tokens.char_ends.max()) <= len(text)


def _tokenizer_seeds() -> list[bytes]:
    import tokenizers
    from tokenizers import models, pre_tokenizers

    pieces = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    unigram = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.0)], unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    return [(_model() / "tokenizer.json").read_bytes(), pieces.to_str().encode(), unigram.to_str().encode()]


@cache
def _run() -> RunFolder:
    """Tables of a few windows."""
    run = RunFolder(scratch() / "run")
    windows, scores = run.table("windows", {}), run.table("s", {"scorer": "s"})
    ids = [f"d@{start}" for start in range(0, 80, 10)]
    of_all = {"doc_id": ["d"] * 8, "source": ["a", "b"] * 4, "file": ["f"] * 8, "position": range(8)}
    places = {"start": range(0, 80, 10), "num_tokens": pa.array([10] * 8, pa.int32()), "doc_tokens": [80] * 8}
    spans = {"char_start": range(0, 80, 10), "char_end": range(10, 90, 10), "overlap": pa.array([0] * 8, pa.int32())}
    windows.commit("0", pa.table({"window_id": ids, **of_all, **places, **spans}), {}, {})
    scores.commit("0", pa.table({"window_id": ids, "x": [float(n) for n in range(8)]}), {}, {})
    run.write_plan([WorkUnit((Slice("f", 100, "2026-01-01", "a", "/"), Slice("g", 5, "", None, "", 1, 2, 3, "00")))])
    run.update_manifest(ledger={"documents": 8}, versions={"longattn": "0"})
    return run


def _condition(data: bytes) -> None:
    """A condition keeps the windows it holds for, or is refused."""
    run = _run()
    formulas = {"s": Formula(run.table("s", {"scorer": "s"}), column("x"))}
    rule = Selecting(weights={"s": 1.0}, where=data.decode(errors="replace"))
    select(["0"], run.table("windows", {}), formulas, rule, scratch() / "out" / "selection.parquet", threads=1)


def _settings(suffix: str) -> Callable[[bytes], None]:
    """A settings file is understood, or refused in a line that is no name of a Python error."""

    def try_it(data: bytes) -> None:
        path = scratch() / f"settings.{suffix}"
        path.write_bytes(data)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = launch(
                    ["--config", str(path), "plan", str(scratch() / "nowhere"), "-o", str(scratch() / "plan")]
                )
            except SystemExit as end:
                code = end.code
        assert code in (0, 1, 2), code
        assert "(--debug shows where)" not in err.getvalue(), err.getvalue()

    return try_it


SETTINGS_TOML = b"""
scorers = ["length", "longattn"]
[corpus]
text_field = "content"
max_doc_bytes = 1000
[window]
length = 64
[keep]
share = 0.25
weights = {length = 1.0}
quotas = {books = 0.5}
"""


def _plan(path: Path) -> None:
    RunFolder(path.parent).plan()


def _sealed_table(path: Path) -> None:
    check_seal(path)
    read_parquet(path)


def _sealed_seeds() -> list[bytes]:
    run = _run()
    receipt = run.table("s", {"scorer": "s"}).receipt("0")
    assert receipt is not None
    return [seal_json(asdict(receipt)), (run.root / "manifest.json").read_bytes()]


MANIFEST = (
    b'{"file": "a.jsonl", "size": 3, "sha256": "'
    + b"0" * 64
    + b'"}\n'
    + b"1" * 64
    + b"  b.jsonl\n"
    + b"2" * 64
    + b" *c\n"
)

CORPUS, MODEL, RUN = (CorpusError,), (ModelError,), (RunError,)

TARGETS = {
    "jsonl": Target(_in_file("a.jsonl", _read_corpus), CORPUS, lambda: [LINES]),
    "text": Target(_in_file("a.txt", _read_corpus), CORPUS, lambda: ["é\n語".encode()]),
    **{
        f"jsonl.{name}": Target(
            _in_file(f"a.jsonl.{name}", _read_corpus),
            CORPUS,
            lambda pack=pack: [pack(LINES), pack(LINES) + pack(b"{}\n")],
        )
        for name, pack in PACKED.items()
    },
    "parquet": Target(_in_file("a.parquet", _read_corpus), CORPUS, _parquet_seeds),
    "manifest": Target(_in_file("sums", read_manifest), CORPUS, lambda: [MANIFEST]),
    "safetensors": Target(
        _in_file("m.safetensors", local_header), MODEL, lambda: [(_model() / "model.safetensors").read_bytes()]
    ),
    "gguf": Target(_in_file("m.gguf", _convert), MODEL, lambda: [_gguf_seed()]),
    "tokenizer.json": Target(_in_file("tokenizer.json", _tokenize), MODEL, _tokenizer_seeds),
    "config.json": Target(
        lambda data: parse_config("m", data), MODEL, lambda: [(_model() / "config.json").read_bytes()]
    ),
    "index.json": Target(
        lambda data: parse_index("m", data), MODEL, lambda: [b'{"weight_map": {"a": "model-1.safetensors"}}']
    ),
    "preset": Target(
        _in_file("p.json", lambda path: read_preset(str(path), ["heads"])), (LongAttnError,), lambda: [b'{"heads": []}']
    ),
    "condition": Target(
        _condition,
        (ValueError,),
        lambda: [b"x > 3 AND source = 'a'", b"doc_tokens / 2 > start -- c", b"s.x IS NOT NULL OR abs(start) IN (1, 2)"],
    ),
    "settings.toml": Target(_settings("toml"), (), lambda: [SETTINGS_TOML]),
    "settings.yaml": Target(
        _settings("yaml"),
        (),
        lambda: [b"scorers: [length]\nkeep: {share: 0.25, weights: {length: 1}}\nwindow:\n  length: 64\n"],
    ),
    "sealed.json": Target(_in_file("receipt.json", read_sealed), RUN, _sealed_seeds),
    "plan.parquet": Target(_in_file("plan.parquet", _plan), RUN, lambda: [(_run().root / "plan.parquet").read_bytes()]),
    "unit.parquet": Target(
        _in_file("unit.parquet", _sealed_table),
        RUN,
        lambda: [_run().table("s", {"scorer": "s"}).file("0").read_bytes()],
    ),
}


def check(name: str, data: bytes) -> bool:
    """Give bytes to a target; whether it took them. Raises what is neither an answer nor a refusal."""
    target = TARGETS[name]
    try:
        target.try_it(data)
    except target.refusals:
        return False
    return True
