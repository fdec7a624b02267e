"""Trials with inputs (goals I1, I3, I6, I7, N6): cut off, damaged, hostile; cut in pieces, moved and repeated."""

import bz2
import errno
import gzip
import io
import itertools
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from mutations import mutated
from pyarrow.fs import FileInfo, FileSystemHandler, LocalFileSystem, PyFileSystem
from tokenizers import Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from longattn import verbs
from longattn.corpus import list_files, list_units, read_unit, write_manifest
from longattn.errors import CorpusError
from longattn.recipes import Recipe
from longattn.records import Document, Reject
from longattn.settings import Compute, Corpus, Exporting, Model, Selecting, Windowing
from longattn.tokens import LLAMA3_SPLIT, QWEN2_SPLIT, Tokenized, Tokenizer
from longattn.windows import cut, window_starts

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def records(file: Path, **settings: object) -> list[Document | Reject]:
    corpus = Corpus(inputs=(str(file),), **settings)  # type: ignore[arg-type]
    return [record for unit in list_units(corpus) for record in read_unit(unit, corpus)]


def lines(count: int) -> list[bytes]:
    return [json.dumps({"text": f"{n} {n**5 % 9973} {n**7 % 99991} words"}).encode() + b"\n" for n in range(count)]


def manifest_of(file: Path) -> Corpus:
    corpus = Corpus(inputs=(str(file),), manifest=f"{file}.manifest")
    write_manifest(Path(f"{file}.manifest"), list_files(corpus, compare=False).files)
    return corpus


def refused(corpus: Corpus) -> bool:
    try:
        list_units(corpus)
    except CorpusError as error:
        return "bytes, listed with" in str(error)
    return False


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("frames", [1, 4])
def test_a_packed_file_that_is_cut_off_is_seen_to_be(trials, tmp_path, suffix, frames):
    """At a border nothing in the file tells; the manifest always does."""
    content = lines(40)
    packed = [PACK[suffix](b"".join(content[i::frames])) for i in range(frames)]
    file = tmp_path / f"a.jsonl{suffix}"
    data = b"".join(packed)
    borders = set(itertools.accumulate(map(len, packed)))
    near = {border + step for border in borders for step in (-2, -1, 1, 2, 5, 11)} & set(range(1, len(data)))
    cuts = {len(data) * i // trials.number(200, 8) for i in range(trials.number(200, 8))} | near
    file.write_bytes(data)
    corpus, whole = manifest_of(file), records(file)
    assert len(whole) == 40
    seen = listed = 0
    for at in sorted(cuts - borders):
        file.write_bytes(data[:at])
        *before, last = records(file)
        seen += before == whole[: len(before)] and isinstance(last, Reject)
        listed += refused(corpus)
    trials.count("I1", f"{suffix} of {frames} frames cut inside a frame", len(cuts - borders), seen)
    for at in sorted(borders - {len(data)}):
        file.write_bytes(data[:at])
        assert all(isinstance(record, Document) for record in records(file)), "a border is no longer silent: say so"
        listed += refused(corpus)
    trials.count("I1", f"{suffix} of {frames} frames cut anywhere, with a manifest", len(cuts | borders) - 1, listed)


def test_a_parquet_file_that_is_cut_off_is_seen_to_be(trials, tmp_path):
    file = tmp_path / "a.parquet"
    texts = [f"{n} {n**5 % 9973} words" for n in range(600)]
    pq.write_table(pa.table({"text": texts}), file, row_group_size=100)
    data, number = file.read_bytes(), trials.number(400, 40)
    corpus = manifest_of(file)
    seen = listed = 0
    for i in range(number):
        file.write_bytes(data[: len(data) * i // number])
        found = records(file)
        seen += isinstance(found[-1], Reject) and all(
            record.text == texts[record.position] for record in found if isinstance(record, Document)
        )
        listed += refused(corpus)
    trials.count("I1", "Parquet cut off", number, seen)
    trials.count("I1", "Parquet cut off, with a manifest", number, listed)


def test_bytes_changed_in_place_are_seen_with_a_manifest(trials, tmp_path):
    """Size and times stay; of a format without checksums of its own, nothing else could tell."""
    file, random = tmp_path / "a.jsonl", trials.random()
    data, number = b"".join(lines(100)), trials.number(200, 20)
    file.write_bytes(data)
    corpus, stat, seen = manifest_of(file), file.stat(), 0
    for i in range(number):
        changed = bytearray(data)
        changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
        file.write_bytes(changed)
        # another time for each trial, since a process hashes a file once
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + i))
        found = [record for unit in list_units(corpus) for record in read_unit(unit, corpus)]
        seen += [getattr(record, "reason", None) for record in found] == ["not_as_listed"]
    trials.count("I1", "one bit of a plain file, with a manifest", number, seen)


# Mutations of whole files: every answer is a document or a reject, whatever the bytes.


def seeds(folder: Path) -> dict[str, bytes]:
    """One small good file of each kind."""
    content = b"".join(lines(30)) + b'{"text": "a", "id": 5, "meta": {"a": [1, {"b": null}]}}\n'
    found = {".jsonl": content} | {f".jsonl{suffix}": pack(content) for suffix, pack in PACK.items()}
    rows = {
        "text": [f"{n} text" for n in range(200)],
        "id": [str(n) for n in range(200)],
        "meta": [{"a": [n]} for n in range(200)],
        "messages": [[{"role": "user", "content": "x"}]] * 200,
    }
    for name, codec in {"a": "snappy", "b": "zstd", "c": "none"}.items():
        pq.write_table(pa.table(rows), folder / f"seed-{name}", row_group_size=50, compression=codec)
        found[f".{name}.parquet"] = (folder / f"seed-{name}").read_bytes()
    return found | {".txt": content, ".txt.gz": gzip.compress(content)}


_BATCH = 2000
READ_ALL = """
import faulthandler, resource, signal, sys, time
from pathlib import Path
from longattn.corpus import REASONS, list_units, read_unit
from longattn.records import Document
from longattn.settings import Corpus

faulthandler.enable()
resource.setrlimit(resource.RLIMIT_CPU, (1800, 1800))
slowest = 0.0
names = sys.stdin.read().split()
for name in names:
    # of the process's own time, since others may take the machine's
    signal.setitimer(signal.ITIMER_PROF, 10)
    began = time.process_time()
    print(name, end=" ", flush=True)
    for settings in ({}, {"messages_field": "messages"}) if name.endswith(".parquet") else ({},):
        corpus = Corpus(inputs=(name,), max_doc_bytes=2**20, **settings)
        for unit in list_units(corpus):
            for record in read_unit(unit, corpus, ("*",)):
                assert isinstance(record, Document) or record.reason in REASONS, record
    signal.setitimer(signal.ITIMER_PROF, 0)
    slowest = max(slowest, time.process_time() - began)
    print("ok", flush=True)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(f"slowest {slowest:.2f} s, peak {peak} MiB", file=sys.stderr)
assert peak < 1024, peak
"""


def read_in_child(names: list[Path]) -> tuple[int, str]:
    """How many of the files another process read to the end, and what it said; ten seconds for one end it."""
    run = subprocess.run(
        [sys.executable, "-c", READ_ALL], input="\n".join(map(str, names)), capture_output=True, text=True, check=False
    )
    return run.stdout.count(" ok\n") if run.returncode else len(names), f"{run.stdout[-200:]} {run.stderr[-2000:]}"


class FailingDisk(FileSystemHandler):
    """The local file system, whose read of number ``at`` fails; reading on works again."""

    def __init__(self, at: int) -> None:
        self.at, self.reads, self.local = at, 0, LocalFileSystem()

    def read(self, read: Callable[..., bytes], *size: int) -> bytes:
        self.reads += 1
        if self.reads == self.at:
            raise OSError(errno.EIO, "Input/output error")
        return read(*size)

    def opened(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(FailingFile(self, path), "r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.opened(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self.opened(path)

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return self.local.get_file_info(paths)

    def get_type_name(self) -> str:
        return "failing"

    def _unused(self, *_: object) -> None:
        raise NotImplementedError

    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = delete_root_dir_contents = _unused
    get_file_info_selector = move = normalize_path = open_append_stream = open_output_stream = _unused


class FailingFile:
    """A file of a :class:`FailingDisk`."""

    def __init__(self, disk: FailingDisk, path: str) -> None:
        self.disk, self.file = disk, io.FileIO(path)

    def read(self, *size: int) -> bytes:
        return self.disk.read(self.file.read, *size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_read_that_fails_loses_nothing(trials, tmp_path, tiny_model_folder, monkeypatch):
    """R5. The run ends with the file's name, and the same command gives what an undisturbed one does: no reject."""
    folder = tmp_path / "in"
    folder.mkdir()
    content = b"".join(lines(60))
    texts = [json.loads(line)["text"] * 4 for line in lines(40)]
    for i in range(3):
        (folder / f"{i}.jsonl").write_bytes(content)
        (folder / f"{i}.jsonl.gz").write_bytes(gzip.compress(content))
        (folder / f"{i}.jsonl.xz").write_bytes(lzma.compress(content))
        pq.write_table(pa.table({"text": texts}), folder / f"{i}.parquet", row_group_size=10)
        (folder / f"{i}.txt").write_text(" ".join(texts))
    recipe = Recipe(
        corpus=Corpus(inputs=(str(folder),), source="all"),
        window=Windowing(length=16),
        model=Model(name=str(tiny_model_folder)),
        scorers=("length",),
    )

    def measured(output: Path) -> dict[str, bytes]:
        verbs.measure(recipe, output, Compute(workers=0, devices=("cpu",)))
        return {path.name: path.read_bytes() for path in sorted(output.glob("tables/*/unit-*"))}

    def on_a_disk_that_fails(at: int) -> FailingDisk:
        disk = FailingDisk(at)
        monkeypatch.setattr("longattn.corpus.files.resolve", lambda file: (PyFileSystem(disk), file))
        return disk

    disk = on_a_disk_that_fails(0)
    expected = measured(tmp_path / "calm")
    number, ended, passed = trials.number(50, 5), 0, 0
    for place in range(number):
        output = tmp_path / f"run {place}"
        on_a_disk_that_fails(1 + disk.reads * place // number)
        try:
            found = measured(output)
        except OSError as error:
            told = (error.errno, Path(error.filename).parent) == (errno.EIO, folder)
            ended += told
            found = measured(output) if told else {}
        passed += found == expected
    # what is only a look ahead is read again
    assert ended > number / 2
    trials.count("R5", "a read of an input fails", number, passed)


def test_changed_files_end_in_documents_and_rejects(trials, tmp_path):
    """In a process of their own, so that a signal, a hang or a gigabyte would be seen."""
    random, number = trials.random(), trials.number(100_000, 300)
    good = seeds(tmp_path)
    passed, said = 0, ""
    for start in range(0, number, _BATCH):
        names = []
        for i in range(start, min(start + _BATCH, number)):
            suffix = random.choice(sorted(good))
            names.append(tmp_path / f"{i}{suffix}")
            names[-1].write_bytes(mutated(good[suffix], random))
        done, told = read_in_child(names)
        passed += done
        said += told if done < len(names) else ""
        for name in names:
            name.unlink()
    assert passed == number, said
    trials.count("I3", "a structured change of an input file", number, passed)


# Documents cut in pieces have the tokens of whole ones.

WORDS = ["The", "cat's", "12", "hats,", "don't", "3.14", "über", "naïve", "Straße", "x=y;", "<b>été</b>"]
WORDS += ["東京。\nタワー", "здравствуй", "👩\u200d👩\u200d👧", "１２", "½", "e\u0301"]
TRAINING = [
    " ".join(WORDS),
    "  if x:\n\treturn y\n\n\n  # done\r\n",
    "aaaa bbbb  cccc\nab.\ncd",
    "東京。\n東京！\n",
] * 4


def byte_level(*steps: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    if normalizer is not None:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    backend.train_from_iterator(TRAINING, trainer)
    return backend


def isolated(pattern: str) -> list[pre_tokenizers.PreTokenizer]:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [pre_tokenizers.Split(Regex(pattern), "isolated"), words]


def sentencepiece() -> Backend:
    """As SentencePiece learns it: words apart, bytes for characters it does not know, a blank put before a text."""
    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "</s>", *every_byte], show_progress=False)
    backend.train_from_iterator([text.replace("東", "") for text in TRAINING], trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = state["added_tokens"][:2]
    backend = Backend.from_str(json.dumps(state))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = None  # type: ignore[assignment]
    return backend


def pieces(words: list[str], inside: str = "") -> list[str]:
    """Pieces of up to three characters; a trainer draws lots, so that no seed would repeat its trials."""
    places = [(word, i, i + n) for word in words for i in range(len(word)) for n in (1, 2, 3)]
    return sorted({(inside if i else "") + word[i:j] for word, i, j in places})


def unigram() -> Backend:
    words = ["▁" + word for text in TRAINING for word in text.split(" ") if word]
    scored = [(piece, -2.0 - len(piece) ** 0.5) for piece in pieces(words)]
    backend = Backend(models.Unigram([("<unk>", -20.0), *scored], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return backend


def wordpiece() -> Backend:
    words = [word.lower() for text in TRAINING for word in text.split()]
    vocabulary = {piece: number for number, piece in enumerate(["[UNK]", *pieces(words, "##")])}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


FAMILIES: dict[str, tuple[Callable[[], Backend], bool]] = {
    "byte-level BPE (GPT-2)": (lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)), True),
    "byte-level BPE (Llama 3)": (lambda: byte_level(*isolated(LLAMA3_SPLIT)), True),
    "byte-level BPE (Qwen 2)": (lambda: byte_level(*isolated(QWEN2_SPLIT), normalizer=normalizers.NFC()), True),
    "SentencePiece BPE (Llama 2)": (sentencepiece, True),
    "Unigram": (unigram, False),
    "WordPiece": (wordpiece, False),
}
"""Each with whether its documents are cut; the others are encoded whole, and refused beyond a length."""

SIGNS = [
    "a",
    "Z",
    "é",
    "東",
    "1",
    "½",
    "'s",
    ".",
    "。",
    "!",
    '"',
    "\n",
    "\r\n",
    "\t",
    " ",
    "  ",
    "\u3000",
    "\u0301",
    "▁",
]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.sampled_from(SIGNS),
        st.sampled_from(
            [".\n", "!\n", ".\nb", " \n", "。\n東", "<|end|>", "</s>", "<unk>", "<0x41>", "\u0085", "\u180e"]
        ),
        st.builds(lambda sign, count: sign * count, st.sampled_from(SIGNS), st.integers(2, 40)),
        # all planes
        st.text(max_size=4),
    ),
    max_size=25,
).flatmap(lambda words: st.sampled_from([" ", "", "\n", " \n"]).map(lambda blank: blank.join(words)))


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_have_the_tokens_of_the_whole(trials, family):
    make, is_cut = FAMILIES[family]
    # as it is read back: a score may differ in its last digit, and with it which of two equal ways is taken
    backend = Backend.from_str(make().to_str())
    backend.encode_special_tokens = True
    tokenizers = [Tokenizer(backend.to_str().encode(), piece_chars=size) for size in (1, 7)]
    assert (len(list(tokenizers[0]._pieces("one two three"))) > 1) == is_cut
    counts = {"made": 0, "same": 0}

    @seed(trials.seed)
    @hypothesis_settings(
        max_examples=trials.number(10_000, 60), database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(text=TEXTS)
    def compare(text: str) -> None:
        expected = backend.encode(text, add_special_tokens=False)
        counts["made"] += 1
        for tokenizer in tokenizers:
            found = tokenizer.encode(text)
            spans = list(zip(found.char_starts.tolist(), found.char_ends.tolist(), strict=True))
            assert found.ids.tolist() == expected.ids, text
            assert spans == expected.offsets, text
        counts["same"] += 1

    compare()
    trials.count("I6", f"{family}: a text in pieces and whole", counts["made"], counts["same"])


# Windows are slices of the document's own tokens.


def test_windows_are_where_algorithm_1_puts_them(trials):
    """Documents of W-1, W, W+1, 2W-1, ... tokens, and of any other length, against a count written another way."""
    random, number, passed = trials.random(), trials.number(10_000, 1000), 0
    for _ in range(number):
        length = random.randint(1, 40)
        count = max(0, random.choice([random.randint(0, 400), length * random.randint(0, 9) + random.randint(-1, 1)]))
        ids = np.array([random.randrange(2**17) for _ in range(count)], np.uint32)
        ends = np.array(sorted(random.randrange(1000) for _ in range(count)), np.uint32)
        tokenized = Tokenized.of((ids, np.concatenate([ends[:1] * 0, ends[:-1]]), ends))
        found = cut(Document("d", "s", "x" * 1000, "f", 0), tokenized, length)
        expected = _starts_by_taking_turns(count, length)
        passed += [window.start for window in found] == expected and all(
            window.tokens.tolist() == ids[window.start : window.start + length].tolist()
            and (window.char_start, window.char_end)
            == (tokenized.char_starts[window.start], ends[window.start + length - 1])
            and window.doc_tokens == count
            for window in found
        )
    trials.count("I7", "a document's windows, ids and spans", number, passed)


def _starts_by_taking_turns(count: int, length: int) -> list[int]:
    """From the front and the back by turns while two more fit; what is left between gets one in its middle."""
    front, back, starts = 0, count, set()
    if count < length:
        return []
    total = (count + length - 1) // length
    while total >= 2:
        starts |= {(front, 0), (back - length, 1)}
        front, back, total = front + length, back - length, total - 2
    if total:
        starts.add(((count - length) // 2, 2))
    return sorted(start for start, _ in starts)


def test_exported_tokens_are_the_documents_own(trials, tmp_path, tiny_model_folder):
    """Through a whole run: plan, cut, measure, select, export."""
    random, number = trials.random(), trials.number(3000, 60)
    alphabet = "ab c\n.é東👩"
    texts = {f"{n}": "x" + "".join(random.choices(alphabet, k=random.randint(1, 260))) for n in range(number)}
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items())
    )
    recipe = Recipe(
        corpus=Corpus(inputs=(str(tmp_path / "a.jsonl"),), unit_bytes=20_000),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("random",),
        keep=Selecting(weights={"random": 1.0}, share=1.0, max_overlap=1.0),
        write=Exporting(content="both"),
    )
    run = tmp_path / "run"
    verbs.measure(recipe, run, Compute(workers=0, devices=("cpu",)))
    verbs.select(recipe, run)
    verbs.export_selection(recipe, run)
    rows = pq.read_table(run / "export" / "data").to_pylist()
    backend = Backend.from_file(str(tiny_model_folder / "tokenizer.json"))
    same = 0
    for row in rows:
        whole = backend.encode(texts[row["doc_id"]], add_special_tokens=False)
        ids = whole.ids[row["start"] : row["start"] + 64]
        begin, end = whole.offsets[row["start"]][0], whole.offsets[row["start"] + 63][1]
        same += row["input_ids"] == ids and row["text"] == texts[row["doc_id"]][begin:end]
    expected = sum(
        len(window_starts(len(backend.encode(text, add_special_tokens=False).ids), 64)) for text in texts.values()
    )
    assert len(rows) == expected
    trials.count("I7", "a selected window's ids and text, exported", expected, same)


# What stands around a window changes nothing in it.


def measured(folder: Path, texts: dict[str, str], model: Path) -> dict[str, dict[str, object]]:
    """The columns of each window, by document and start."""
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"id": id, "text": t}) + "\n" for id, t in texts.items()))
    scorers = ("longattn", "longce", "repetition")
    recipe = Recipe(
        corpus=Corpus(inputs=(str(folder / "a.jsonl"),)),
        window=Windowing(length=64),
        model=Model(name=str(model)),
        scorers=scorers,
    )
    verbs.measure(recipe, folder / "run", Compute(workers=0, devices=("cpu",), threads=1))
    found: dict[str, dict[str, object]] = {}
    tables = json.loads((folder / "run" / "manifest.json").read_bytes())["tables"]
    for name in scorers:
        for file in (folder / "run" / "tables" / tables[name]["folder"]).glob("*.parquet"):
            for row in pq.read_table(file).to_pylist():
                found.setdefault(row.pop("window_id"), {}).update(row)
    return found


def test_scores_depend_on_the_window_alone(trials, tmp_path, tiny_model_folder):
    """Among other windows, before another end of the document, and under another name: the same numbers, to the bit."""
    random, number = trials.random(), trials.number(100, 8)

    def words(count: int) -> str:
        return "".join(random.choices("abcdefgh  .,\n", k=count - 1)) + "x"

    begin = {f"{n}": words(64) for n in range(number)}
    alone = measured(tmp_path / "alone", begin, tiny_model_folder)
    mates = measured(
        tmp_path / "mates",
        {f"new {n}": words(100) for n in range(7)} | dict(reversed(begin.items())),
        tiny_model_folder,
    )
    ends = measured(
        tmp_path / "ends", {id: text + words(64 + 10 * int(id) % 60) for id, text in begin.items()}, tiny_model_folder
    )
    twice = measured(tmp_path / "twice", begin | {f"again {id}": text for id, text in begin.items()}, tiny_model_folder)
    ids = [f"{id}@0" for id in begin]
    trials.count("N6", "windows among others", number, sum(alone[id] == mates[id] for id in ids))
    trials.count("N6", "text outside of the window changed", number, sum(alone[id] == ends[id] for id in ids))
    trials.count("N6", "a document twice", number, sum(alone[id] == twice[id] == twice[f"again {id}"] for id in ids))
