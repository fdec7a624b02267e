"""The documentation's commands run: every page from its first to its last, in a folder with the files that it names."""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.test_docs import PAGES, ROOT, blocks

from longattn import cli, quickstart
from longattn.evals.questions import made_up_hotpot, made_up_squad
from longattn.presets import read_preset
from longattn.recipes import Recipe
from longattn.settings import Corpus, Model, Windowing
from longattn.testing import tiny_checkpoint

WINDOW = 64


class StandIn(NamedTuple):
    """What takes the place of words of a command, by a pattern that is looked for in ``PAGE: COMMAND``."""

    pattern: str
    instead: str
    why: str


class Parsed(NamedTuple):
    """Commands that are parsed and not run, by a pattern that is looked for in ``PAGE: COMMAND``."""

    pattern: str
    why: str


SMALL = "--scale 0.0001 --length 128 --budgets 2560 --seeds 1 --no-smollm2"
"""Of ``reproduce --tier 2``."""

STAND_INS = (
    StandIn(r"hf://meta-llama/Llama-3\.1-\d+B", "MODEL", "no network; MODEL is a random Llama of two layers"),
    StandIn(r"(?<=--window.length )8192|(?<=--window )8192", f"{WINDOW}", "the texts are short"),
    StandIn(r"books/17@8192", "0@64", "a window that there is"),
    StandIn(r"--longattn.layers 15", "--longattn.layers 1", "the model has two layers"),
    StandIn(r"--longattn.distance 1024", "--longattn.distance 16", "the texts are short"),
    StandIn(r"/var/lib/", "", "nothing is written outside of the test's folder"),
    StandIn(r"/shared/", "shared/", "a folder below this one stands for the cluster's"),
    StandIn(r"--tokens 5000000000", f"--tokens {20 * WINDOW}", "as many tokens as there are"),
    StandIn(r"(?<=BASE --length )32768", "256", "the texts are short"),
    StandIn(r"--lengths 4096 --lengths 32768 --samples 500", "--lengths 1024 --lengths 2048 --samples 1", "seconds"),
    StandIn(r"--samples 20 --batch 10", "--samples 1 --batch 10", "seconds"),
    StandIn(r"--lengths 8192", "--lengths 2048", "seconds"),
    StandIn(r": unshare --net ", ": ", "taking the network away needs rights"),
    StandIn(r": (accelerate launch|torchrun --nproc-per-node 8) -m ", ": ", "launchers start a process per device"),
    StandIn(r"--ray-address auto", "--ray-workers 1", "no cluster: Ray is started on this machine"),
    StandIn(r"minio:9000", "$AWS_SERVER", "moto's server on this machine"),
    StandIn(r"smollm2-far", "far.json", "the preset is SmolLM2's own; far.json is the same of a model of two layers"),
    StandIn(r"code=src/ docs=docs/ (?=prose)", "", "texts of these are short"),
    StandIn(r"(?<=--tier 2) --output", f" {SMALL} --output", "an hour"),
    StandIn(r"LLAMA(-1B)? ", "MODEL ", "a random Llama of two layers"),
    StandIn(r"--length 8192 --budgets 100000000 --device cuda:0", SMALL, "days of a GPU"),
)

PARSED = (
    Parsed(r": (pip|pipx|git|make) ", "installs, or needs the network"),
    Parsed(r": docker ", "needs Docker"),
    Parsed(r"kernels.md: (aarch64-linux-gnu|qemu)", "needs a compiler for another machine"),
    Parsed(r": longattn reproduce --output TIER1 ", "minutes; tests/reproduce/test_tier1.py does it with one seed"),
    Parsed(r": longattn eval suite ", "needs data sets"),
    Parsed(r": (TRITON_INTERPRET=0 )?(python benchmarks/|pytest )", "takes minutes, or a GPU"),
)

# what a page takes as done
BEFORE = {
    "report.md": ("longattn validate --output RUN --pairs 4 --controls spliced-8", "cp -r RUN/validity elsewhere"),
    "stacks.md": ("longattn export RUN --write.format hf --write.content tokens --write.labels",),
}

# what ends otherwise than well, and is meant to
EXIT_CODES: dict[str, int] = {}

VARIABLES = {
    "LONGATTN_WINDOW_LENGTH": str(WINDOW),
    "LONGATTN_WORKERS": "0",
    "LONGATTN_DEVICES": "cpu",
    "LONGATTN_TRAIN_BATCH_TOKENS": str(4 * WINDOW),
    # the default is a layer of a deeper model
    "LONGATTN_CONTEXT_DEPENDENCY_LAYER": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Settings of a laptop's size, which the flags of a command win over."""

VARIABLES_OF = {
    "calibrate": {"LONGATTN_PAIRS": "4", "LONGATTN_RESAMPLES": "50"},
    "eval": {"LONGATTN_SAMPLES": "1"},
    "recipe": {"LONGATTN_TRAIN_BATCH_TOKENS": str(64 * WINDOW)},
    "validate": {"LONGATTN_PAIRS": "8", "LONGATTN_RESAMPLES": "50"},
    "mix": {"LONGATTN_LENGTH": str(WINDOW), "LONGATTN_TOKENS": str(30 * WINDOW)},
}
"""Those of one verb, whose names would mean something else to others."""


def commands(page: Path) -> Iterator[str]:
    """The command lines of a page in order, continued ones as one."""
    for block in blocks(page, "sh"):
        yield from filter(None, re.sub(r"\\\n *", "", block).splitlines())


LINES = [f"{page.name}: {line}" for page in PAGES for line in commands(page)]


def expected_code(place: str) -> int:
    return next((code for pattern, code in EXIT_CODES.items() if re.search(pattern, place)), 0)


def only_parsed(place: str) -> bool:
    return any(re.search(one.pattern, place) for one in PARSED)


def text(seed: int, words: int = 120) -> str:
    """Words in no order that means anything, about five bytes each."""
    rng = random.Random(seed)
    known = ("far", "near", "token", "window", "reads", "looks", "back", "there", "again", "boat", "fog", "harbour.")
    return " ".join(rng.choices(known, k=words))


def write(path: Path, content: str) -> None:
    """Write a text, compressed as its name says, into a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # by its name, as pyarrow knows it
    with pa.output_stream(path) as file:
        file.write(content.encode())


def write_models(here: Path) -> None:
    """Random models of two layers under the names of the pages, and what calibration says of one."""
    heads = {"layers": [1], "heads": [[1, 0]], "skip_first": 4}
    write(here / "far.json", json.dumps(read_preset("smollm2-far", ()) | heads))
    for name in ("MODEL", "CHECKPOINT", "BASE", "long", "short", "FOLDER"):
        tiny_checkpoint(here / name, max_position_embeddings=2**17, eos_token_id=0)
    tiny_checkpoint(here / "Meta-Llama-3-8B", rope_theta=500_000.0, max_position_embeddings=8192)
    scaled = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled["original_max_position_embeddings"] = 8192
    tiny_checkpoint(here / "Llama-3.1-8B", rope_theta=500_000.0, max_position_embeddings=2**17, rope_scaling=scaled)


def documents_of(name: str) -> int:
    """Documents of a corpus; `calibrate` splices eight of one part of it."""
    return 20 if name in ("data/books.jsonl.zst", "data/code") else 5


def write_texts(here: Path) -> None:
    """The corpora that pages read."""
    corpora: dict[str, dict[str, object]] = {
        "data/books.jsonl.zst": {},
        "data/books/a.jsonl.zst": {},
        "wiki/a.jsonl.zst": {},
        "short/refinedweb/a.jsonl.zst": {},
        "short/github/a.jsonl": {},
        "data/datatrove/a.jsonl.gz": {"metadata": {"source": "web"}},
        "data/juicer.jsonl": {"meta": {"source": "web"}, "__dj__stats__": {"words": 3}},
        "data/dolma/documents/a.jsonl.gz": {"source": "web"},
        "data/wiki/documents/a.jsonl.gz": {"source": "web"},
    }
    for number, (name, more) in enumerate(corpora.items()):
        lines = [
            json.dumps({"id": f"{i}", "text": text(20 * number + i), **more}) + "\n" for i in range(documents_of(name))
        ]
        write(here / name, "".join(lines))
    for number, name in enumerate(("data/code", "src", "manual", "docs", "held-out", "shared/books", "ESSAYS")):
        for i in range(documents_of(name)):
            write(here / name / f"{i}.txt", text(1000 + 20 * number + i, words=4000 if name == "ESSAYS" else 120))
    for seed, name in enumerate(("data/a.parquet", "short/wiki/a.parquet")):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": ["a", "b"], "text": [text(2000 + seed), text(3000 + seed)]}), here / name)
    write(here / "essay.txt", text(0, words=2000))
    books = [text(4000 + i, words=1500) for i in range(40)]
    write(here / "books.jsonl", "".join(json.dumps({"text": book}) + "\n" for book in books))
    for i, book in enumerate(books):
        write(here / f"books/{i}.txt", book)


def write_samples(here: Path) -> None:
    """Instruction samples, and the questions of two tasks."""
    asked = {"context": text(0, words=30), "instruction": "What was under the fog?", "response": "the boat"}
    write(here / "samples.jsonl", json.dumps({"id": "s", **asked}))
    said = [("user", f"{asked['context']}\n\n{asked['instruction']}"), ("assistant", asked["response"])]
    messages = [{"role": role, "content": content} for role, content in said]
    write(here / "chat.jsonl", json.dumps({"id": "c", "messages": messages}))
    write(here / "dev-v2.0.json", json.dumps(made_up_squad()))
    write(here / "hotpot_dev_distractor_v1.json", json.dumps(made_up_hotpot()))


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """A folder with what the pages name: texts, models, and RUN, which was measured and exported."""
    here = tmp_path_factory.mktemp("documented")
    write_models(here)
    write_texts(here)
    write_samples(here)
    write(here / "mix.toml", blocks(ROOT / "docs/mixing.md", "toml")[0])
    with pytest.MonkeyPatch.context() as patch:
        small(patch, here)
        sources = "books=data/books.jsonl.zst code=data/code/ arxiv=manual/ pg19=held-out/"
        rule = "--scorers longattn --scorers length --keep.share 0.5 --write.content tokens"
        assert execute(f"longattn run {sources} --output RUN {rule}") == 0
        shutil.copytree("RUN", "OTHER")
        assert execute("longattn select OTHER --longattn.alpha 1") == 0
        shutil.copytree("RUN/export", "HELD")
        rows = pq.read_table("RUN/selection.parquet", columns=["window_id"])
        pq.write_table(rows.append_column("quality", pa.array([0.5] * len(rows))), "quality.parquet")
    return here


def small(patch: pytest.MonkeyPatch, here: Path) -> None:
    """Work in a folder, with settings of a laptop's size."""
    patch.chdir(here)
    for name, value in VARIABLES.items():
        patch.setenv(name, value)
    # where `completion --install` goes, and for which shell: tests are not always called from one
    patch.setenv("HOME", str(here))
    patch.setenv("BASH_VERSION", "5.2")
    patch.setenv("LONGATTN_MODEL_NAME", "MODEL")
    patch.setenv("LONGATTN_CACHE", str(here / "cache"))
    patch.setenv("HF_HOME", str(here / "hub"))
    # quickstart takes no settings
    modules = [{"id": f"{i}", "book": f"{i}", "text": text(i)} for i in range(5)]
    patch.setattr(quickstart, "code", lambda: iter(modules))
    patch.setattr(quickstart, "topics", dict(sorted(quickstart.topics.items())[:3]))
    recipe = Recipe(corpus=Corpus(join_by="book"), model=Model(name="MODEL"), window=Windowing(length=WINDOW))
    patch.setattr(quickstart, "choose_kit", lambda _: quickstart.Kit(recipe, quickstart.ATTENTION))


def adapted(place: str) -> str:
    for one in STAND_INS:
        place = re.sub(one.pattern, one.instead, place)
    return place.split(": ", 1)[1]


def execute(line: str) -> int:
    """Run a command line as a shell would: its ``longattn`` in this process."""
    if not line.startswith("longattn "):
        return subprocess.run(shlex.split(line), check=False).returncode
    line, _, target = line.partition(" > ")
    words = [one for word in shlex.split(os.path.expandvars(line), comments=True)[1:] for one in expanded(word)]
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in VARIABLES_OF.get(words[0], {}).items():
            patch.setenv(name, value)
        output = stack.enter_context(Path(target).open("w")) if target else sys.stdout
        stack.enter_context(contextlib.redirect_stdout(output))
        try:
            return cli.launch(words)
        except SystemExit as stop:
            return int(stop.code or 0)


def expanded(word: str) -> list[str]:
    """The files that a shell makes of a word, or the word where there are none."""
    return (sorted(map(str, Path().glob(word))) if "*" in word else []) or [word]


@pytest.fixture
def services(request, page, monkeypatch):
    """Start what the commands of a page reach: an object store with its buckets, or Ray."""
    lines = [line for line in commands(page) if not only_parsed(f"{page.name}: {line}")]
    if any("--engine ray" in line for line in lines):
        request.getfixturevalue("ray")
    if any("s3://" in line for line in lines):
        store = request.getfixturevalue("object_store")
        server = store.options.split("=")[1].split("&")[0]
        for name, value in {"ENDPOINT_URL": f"http://{server}", "SERVER": server, "REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        store.create("results")
        store.create("corpus")
        return store
    return None


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES if blocks(page, "sh")])
def test_the_commands_of_a_page_run(page, laid_out, services, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    shutil.copytree(laid_out, here, symlinks=True)
    if services is not None:
        services.put("books/part-0.jsonl.zst", (here / "data/books/a.jsonl.zst").read_bytes())
    small(monkeypatch, here)
    for line in BEFORE.get(page.name, ()):
        assert execute(line) == 0
    for line in commands(page):
        place = f"{page.name}: {line}"
        if only_parsed(place):
            continue
        capsys.readouterr()
        code = execute(adapted(place))
        said = capsys.readouterr()
        assert code == expected_code(place), f"{place}\n{said.out[-3000:]}\n{said.err[-3000:]}"


def test_every_entry_of_the_tables_is_needed():
    """An entry that no command matches speaks of a command that is gone."""
    patterns = [one.pattern for one in (*STAND_INS, *PARSED)] + list(EXIT_CODES)
    assert not [pattern for pattern in patterns if not any(re.search(pattern, place) for place in LINES)]
    assert set(BEFORE) <= {page.name for page in PAGES}


def test_blocks_are_of_languages_that_are_tested():
    """Python and shell are run, TOML is what `mix` reads, YAML what accelerate reads, JSON a preset."""
    known = {"python", "sh", "toml", "yaml", "json"}
    for page in PAGES:
        named = re.findall(r"^ *```(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(named) <= known, f"{page.name} has blocks that nothing tests: {set(named) - known}"


def test_accelerate_reads_the_configuration(tmp_path):
    """The blocks are parts of one file."""
    content = "\n".join(blocks(ROOT / "docs/training.md", "yaml"))
    config = pytest.importorskip("accelerate.commands.config.config_args")
    (tmp_path / "config.yaml").write_text("compute_environment: LOCAL_MACHINE\n" + content)
    read = config.load_config_from_file(str(tmp_path / "config.yaml"))
    assert read.fsdp_config["fsdp_version"] == 2
    assert read.parallelism_config["parallelism_config_cp_size"] == 2


@pytest.mark.parametrize("content", blocks(ROOT / "docs/scorers/heads.md", "json"))
def test_the_preset_that_is_shown_is_read(content, tmp_path):
    (tmp_path / "heads.json").write_text(content)
    assert read_preset(str(tmp_path / "heads.json"), ("model", "heads"))["heads"][0] == [18, 6, 1.0]
