"""Trials of security (goals S2 to S5): hostile models, names and texts; no network, no secret written down."""

import ast
import base64
import hashlib
import itertools
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import html5lib
import pytest
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import longattn
from longattn import verbs
from longattn.recipes import Recipe
from longattn.report.text import visible
from longattn.settings import Compute, Corpus, Exporting, Model, Selecting, Windowing
from longattn.testing import tiny_checkpoint
from longattn.validity.comparing import Agreement, Comparison, Disagreement
from longattn.validity.page import write_comparison, write_validation
from longattn.validity.statistics import Estimate
from longattn.validity.validating import Reading, Separation, Validation

# What a hostile model directory holds, and what is said of it. CANARY is a file that must never appear.

CODE = "__import__('pathlib').Path(CANARY).touch()"
PICKLE = b"cos\nsystem\n(S'touch CANARY'\ntR."
HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def header(content: object, body: bytes = bytes(8)) -> bytes:
    encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(encoded).to_bytes(8, "little") + encoded + body


def weights(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content) and None


def config(**facts: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | facts))

    return change


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "tokenizer.json"
        spec = json.loads(path.read_bytes())
        change(spec)
        path.write_text(json.dumps(spec))

    return changed


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(PICKLE)


def with_files(**contents: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name, content in contents.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name.replace("__", ".")).write_text(text)

    return change


def sparse(name: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(size)

    return change


def pipe(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def device(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")

    return change


def index(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))

    return change


def large_header(folder: Path) -> None:
    """A header of 100 MB, as the format allows: most of it is a hole in the file."""
    with (folder / "model.safetensors").open("wb") as file:
        file.write((100_000_000).to_bytes(8, "little"))
        file.truncate(100_000_016)


def gguf(*fields: bytes, tensors: int = 0, count: int | None = None, tail: bytes = b"") -> Callable[[Path], None]:
    """A GGUF file in place of the folder's content; ``resolve`` is given the file."""
    number = len(fields) if count is None else count
    content = b"GGUF" + struct.pack("<IQQ", 3, tensors, number) + b"".join(fields) + tail
    return lambda folder: (folder / "model.gguf").write_bytes(content) and None


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(shape: tuple[int, ...], offset: int) -> bytes:
    return text(b"t") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)


def large_array(folder: Path) -> None:
    """A list of 2**30 numbers, in a file of a gigabyte that is a hole."""
    gguf(text(b"k") + struct.pack("<IIQ", 9, 0, 2**30))(folder)
    sparse("model.gguf", 2**30 + 4096)(folder)


def as_split(pattern: str) -> Callable[[dict[str, Any]], object]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return lambda spec: spec.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [step, words]})


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights as pickle": (pickled, "run any code"),
    "code of its own": (config(auto_map={"AutoModel": "evil.M"}), "remote code is never run"),
    "code of its own, in a part": (config(text_config={"auto_map": {"AutoModel": "evil.M"}}), "remote code is never"),
    "a kernel of a repository": (config(_attn_implementation_internal="evil/kernel"), "never loaded"),
    "a kernel, by its public name": (config(attn_implementation="evil/kernel:f"), "never loaded"),
    "kernels of experts": (config(experts_implementation={"": "evil/kernel"}), "never loaded"),
    "weights elsewhere": (config(transformers_weights="pytorch_model.bin"), "never loaded"),
    "an adapter beside it": (with_files(adapter_config__json={"base_model_name_or_path": "/"}), "merge it"),
    "code in a chat template": (
        with_files(tokenizer_config__json={"chat_template": "{{ ''.__class__.mro()[1].__subclasses__() }}" + CODE}),
        "",
    ),
    "code of a tokenizer": (
        with_files(tokenizer_config__json={"auto_map": {"AutoTokenizer": ["evil.T", None]}}, evil__py=CODE),
        "",
    ),
    "a header of 100 MB": (large_header, "model.max_header_bytes"),
    "a header longer than the file": (weights(b"\xff" * 7 + b"\x7f" + bytes(100)), "the file has"),
    "a header nested deeply": (weights(header(b"[" * 200_000)), "not a whole safetensors"),
    "a tensor named twice": (weights(header(b'{"a":%b,"a":%b}' % ((json.dumps(HEADER["a"]).encode(),) * 2))), "twice"),
    "tensors that overlap": (weights(header(HEADER | {"b": HEADER["a"]})), "a hole or an overlap"),
    "a hole between tensors": (
        weights(header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})),
        "a hole or an overlap",
    ),
    "a negative place": (
        weights(header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}})),
        "whole numbers from 0",
    ),
    "a shape that overflows": (
        weights(header({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}})),
        "does not take 8 bytes",
    ),
    "an unknown type": (
        weights(header({"a": {"dtype": "PY", "shape": [8], "data_offsets": [0, 8]}})),
        "unknown type",
    ),
    "a file after the tensors": (weights(header(HEADER, bytes(8) + b"PK\3\4")), "its tensors end at"),
    "an index that leads out": (index("../outside.safetensors"), "no safetensors file beside it"),
    "weights linked to a device": (device("model.safetensors"), "no regular file"),
    "a config that is a pipe": (pipe("config.json"), "no regular file"),
    "a config nested deeply": (with_files(config__json="[" * 200_000), "is not JSON"),
    "a config of a gigabyte": (sparse("config.json", 2**30), "model.max_header_bytes"),
    "a billion layers": (config(num_hidden_layers=10**9), "num_hidden_layers in config.json is 1000000000"),
    "a hidden size of ten million": (config(hidden_size=10**7, head_dim=10**6), "has shape|describes"),
    "positions that are no numbers": (config(rope_scaling={"rope_type": "yarn", "factor": "x"}), "config.json"),
    "a tokenizer of a gigabyte": (sparse("tokenizer.json", 2**30), "model.max_tokenizer_bytes"),
    "merges in a circle": (
        tokenizer(lambda spec: spec["model"].update(merges=[["a", "b"], ["ab", "a"], ["b", "ab"]])),
        r"not a tokenizer\.json",
    ),
    "tokens beyond the model": (tokenizer(lambda spec: spec["model"]["vocab"].update(ab=2**31)), "embeds only 256"),
    "a pattern without end": (tokenizer(as_split("(a+)+b")), "the tokenizer fails"),
    "GGUF: 2**63 fields": (gguf(count=2**63), "it ends before"),
    "GGUF: a string of 2**60": (gguf(struct.pack("<Q", 2**60)), "it ends before"),
    "GGUF: a list of 2**30": (large_array, "model.max_header_bytes"),
    "GGUF: a tensor beyond the file": (gguf(tensors=1, tail=tensor((4,), 2**62)), "it ends before"),
    "GGUF: a shape that overflows": (gguf(tensors=1, tail=tensor((2**63,) * 4, 0)), "not a GGUF file"),
}
"""What is done to a good model's folder, and what the refusal says; empty where it is ignored and the model works."""

OPEN = """
import json, os, resource, sys, time
import torch
import transformers
from transformers import LlamaModel, LlamaForCausalLM
from longattn import settings
from longattn.models import load_model, resolve
from longattn.tokens import Tokenizer

WATCHED = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.", "pty.", "urllib.", "ftplib.")
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith((*WATCHED, "pickle.find_class")) else None)


def open_all(name):
    checkpoint = resolve(settings.Model(name=name))
    Tokenizer.load(checkpoint.tokenizer_file).encode("a" * 60)
    for layers, predicts in (((0,), False), ("all", True)):
        load_model(checkpoint, settings.Model(name=name), layers=layers, window=64, predicts=predicts)


for name in sys.stdin.read().split("\\n"):
    os.access("/next", os.F_OK)  # to be seen among the calls to the kernel
    began, said = time.process_time(), ""
    try:
        open_all(name)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps([name, said, time.process_time() - began, seen, peak]), flush=True)
    seen.clear()
os.access("/next", os.F_OK)
"""


def open_models(folder: Path, changes: Iterable[Callable[[Path], None]], *under: str) -> list[list[Any]]:
    """What a process says of a good model and of those that were changed; ``under`` is the command it is started by.

    Each is resolved, its tokenizer used and it is loaded in both ways. None may leave the file ``canary``.
    """
    names = []
    for number, change in enumerate([lambda model: None, *changes]):
        model = tiny_checkpoint(folder / f"model-{number}")
        change(model)
        for file in filter(Path.is_file, model.iterdir()):
            if file.stat().st_size < 10_000:
                file.write_bytes(file.read_bytes().replace(b"CANARY", str(folder / "canary").encode()))
        names.append(str(model / "model.gguf" if (model / "model.gguf").exists() else model))
    run = subprocess.run(
        [*under, sys.executable, "-c", OPEN],
        input="\n".join(names),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LONGATTN_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "RUST_BACKTRACE": "0"},
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert not (folder / "canary").exists()
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_hostile_models_are_refused_and_run_nothing(trials, tmp_path):
    """No process or socket goes unseen by Python's own hook."""
    (_, said, _, _, base), *found = open_models(tmp_path, (change for change, _ in HOSTILE.values()))
    assert said == "", "the model itself is good"
    passed = 0
    for (what, (_, expected)), (_, said, seconds, seen, peak) in zip(HOSTILE.items(), found, strict=True):
        refused = bool(re.search(expected, said)) if expected else said == ""
        good = refused and seconds < 5 and not seen and peak < base + 600
        passed += good
        assert good, f"{what}: {said or 'accepted'}, {seconds:.1f} s, {seen}, peak {peak} MiB, before {base} MiB"
    assert len(HOSTILE) >= 25
    trials.count("S2", "a hostile model directory", len(HOSTILE), passed)


def test_hostile_models_start_no_program_and_open_no_socket(trials, tmp_path):
    """As the kernel sees it: no library can go behind that."""
    calls = tmp_path / "calls"
    look = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-o", str(calls)]
    look += ["-e", "trace=execve,execveat,socket,?access,faccessat,?faccessat2"]
    require(look, "strace is not installed, or may not look at a process here")
    changes = [change for change, _ in HOSTILE.values()][: trials.number(len(HOSTILE), 4)]
    open_models(tmp_path, changes, *look)
    before, *parts = re.split(r".*access.*\"/next\".*\n", calls.read_text(encoding="utf-8", errors="replace"))
    assert "execve(" in before, "the process itself is not among what was seen"
    # the first is the good model, after the last marker the process ends
    each = parts[1:-1]
    passed = sum(not re.search(r"(execve|execveat|socket)\(", part) for part in each)
    assert len(each) == len(changes)
    trials.count("S2", "a hostile model directory, no program and no socket by strace", len(changes), passed)


def require(command: list[str], otherwise: str) -> None:
    """Skip a test where a program cannot be started by this command, because of ``otherwise``."""
    try:
        can = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        can = False
    if not can:
        pytest.skip(otherwise)


UNSAFE = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "subprocess", "pty", "code"}


def test_nothing_in_the_package_unpickles_evaluates_or_starts_a_program():
    """Neither by name nor by import; worker processes are multiprocessing's, which trusts only what this run sends."""
    found = []
    for file in sorted(Path(longattn.__file__).parent.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        # which shell completion is written for
        told = [n.keywords for n in nodes if isinstance(n, ast.Call) and "_completion" in ast.unparse(n.func)]
        for node in nodes:
            match node:
                case ast.keyword() if any(node in keywords for keywords in told):
                    continue
                case ast.Import(names=names):
                    used = {alias.name.partition(".")[0] for alias in names} & UNSAFE
                case ast.ImportFrom(module=str(module)):
                    used = {module.partition(".")[0]} & UNSAFE
                case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__" as name)):
                    used = {name}
                case ast.Call(func=ast.Attribute(value=ast.Name(id="torch" | "np" | "numpy"), attr="load" as name)):
                    used = {name}
                case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen" as name)):
                    used = {name}
                case ast.Call(func=ast.Attribute(value=ast.Name(id="yaml"), attr="load" | "unsafe_load" as name)):
                    used = {name}
                case ast.keyword(value=ast.Constant(value=False)):
                    continue
                case ast.keyword(arg="trust_remote_code" | "allow_pickle" | "shell" as name):
                    used = {name}
                case _:
                    continue
            found += [f"{file.name}:{getattr(node, 'lineno', '?')} {name}" for name in used]
    assert found == []


# Ids, names and texts of a corpus that try to get out: of the output folder, of a page, of a line of a log.

WAYS_OUT = ['">', "'>", "`>", "</pre>", "</style>", "</title>", "-->", "]]>", "</svg>", "\u2028", "}}", "](", "|\n"]
PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<!--",
    "<![CDATA[",
    "<?xml ?>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    " onmouseover=alert(1) x=",
    "<a href=javascript:alert(1)>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content=0>",
    "<style>@import '//evil.example'</style>",
    "<link rel=stylesheet href=//evil.example>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;script&gt;&#60;script&#62;",
    "<details open ontoggle=alert(1)>",
    "![x](//evil.example/x.png)",
    "[x](javascript:alert(1))",
    "\x1b]0;title\x07\x1b[31m\x9b31m\u202e",
    "<plaintext>",
]
ATTACKS = random.Random(20250226).sample([way + what for way, what in itertools.product(WAYS_OUT, PAYLOADS)], 200)

PATHS = [
    "../../escaped",
    "/escaped",
    "..\\escaped",
    "a\0b",
    "a\nb",
    "CON",
    "-rf",
    "~",
    "$(touch escaped)",
    "*",
    "a" * 900,
]
HOSTILE_NAMES = st.one_of(
    st.sampled_from(PATHS + ATTACKS),
    st.text(min_size=1, max_size=40),
    st.builds(lambda steps, name: "../" * steps + name, st.integers(1, 6), st.text(min_size=1, max_size=8)),
)

ACTIVE = {"script", "iframe", "object", "embed", "base", "link", "form", "input", "button", "img", "image", "video"}
ACTIVE |= {"audio", "source", "frame", "frameset", "applet", "portal", "plaintext", "noscript", "template", "slot"}
ACTIVE |= {"animate", "set", "foreignobject", "math", "use"}


def active(page: str) -> list[str]:
    """Everything in a page that would run, load or send something, as a browser's parser sees it.

    Of scripts only our own counts as none: its text stands in the package, and the page's policy names its hash.
    """
    elements = list(html5lib.parse(page, treebuilder="etree", namespaceHTMLElements=False).iter())
    policies = [rules(e.get("content", "")) for e in elements if e.get("http-equiv") == "Content-Security-Policy"]
    found = [] if len(policies) == 1 else [f"{len(policies)} content security policies"]
    allowed = policies[0].get("script-src", "") if policies else ""
    if any(policy.get("default-src") != "'none'" for policy in policies) or allowed not in ("", "'none'", OUR_SCRIPT):
        found.append(f"a policy of {policies}")
    for element in elements:
        tag = element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else "comment"
        ours = tag == "script" and not element.attrib and source_hash(element.text or "") == allowed == OUR_SCRIPT
        found += [tag] if tag in ACTIVE and not ours else []
        if element.get("http-equiv") not in (None, "Content-Security-Policy"):
            found.append(f"meta {element.get('http-equiv')}")
        for name, value in element.attrib.items():
            name = name.rpartition("}")[2].lower()
            if name.startswith("on") or name in ("srcdoc", "src", "action", "formaction", "ping", "background"):
                found.append(f"{tag} {name}={value}")
            if name in ("href", "xlink:href") and not value.startswith("#"):
                found.append(f"{tag} {name}={value}")
            if name == "style" and "url" in value:
                found.append(f"{tag} {name}={value}")
        if tag == "style" and re.search(r"@import|url\(", element.text or ""):
            found.append("style that loads")
    return found


def rules(policy: str) -> dict[str, str]:
    """What a content security policy says, by directive; of one that is repeated the first counts."""
    found: dict[str, str] = {}
    for directive in policy.split(";"):
        name, _, value = directive.strip().partition(" ")
        found.setdefault(name.lower(), value)
    return found


def source_hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


OUR_SCRIPT = source_hash(resources.files("longattn.report").joinpath("tables.js").read_text(encoding="utf-8"))


def tree(folder: Path, *, without: Path) -> dict[str, str]:
    """The hash of every file below a folder, and the targets of links, except below another one."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_relative_to(without):
            continue
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def hostile_names(trials) -> list[str]:
    """Ids, sources or file names made by hypothesis, the same for one seed."""
    made: dict[str, None] = dict.fromkeys([*PATHS, *ATTACKS])
    number = trials.number(1000, 260)

    @seed(trials.seed)
    @hypothesis_settings(max_examples=2 * number, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(HOSTILE_NAMES, min_size=4, max_size=4))
    def make(names: list[str]) -> None:
        made.update(dict.fromkeys(name for name in names if _encodes(name)))

    make()
    return list(made)[:number]


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.fixture(scope="module")
def offline_model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def test_ids_names_and_texts_stay_data(trials, tmp_path, offline_model):
    """One whole run over a corpus whose ids, sources, fields, texts and file names are all hostile."""
    names = hostile_names(trials)
    corpus, run = tmp_path / "corpus", tmp_path / "out" / "run"
    corpus.mkdir()
    filler = "words that fill a window of tokens, one after another, until it is full. " * 3
    records = [{"id": name, "text": name + filler, "kind": name[:200], "note": name} for name in names]
    as_files = [name.replace("/", "∕").replace("\0", "")[:60] for name in names[::5]]
    kept = [name for name in as_files if name.strip(".") and len(name.encode()) < 240 and "=" not in name]
    for number, name in enumerate(dict.fromkeys(kept)):
        lines = [json.dumps(record) for record in records[number :: len(kept)]]
        (corpus / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (corpus / "outside.jsonl").symlink_to("/etc/passwd")
    (corpus / "circle").symlink_to(corpus)
    # where a path made of a name would lead
    for place in (tmp_path, tmp_path / "out"):
        place.mkdir(exist_ok=True)
        (place / "escaped").write_text("not yours")
    before = tree(tmp_path, without=run)
    recipe = Recipe(
        corpus=Corpus(inputs=(str(corpus),), source_field="kind", source="none"),
        window=Windowing(length=64),
        model=Model(name=str(offline_model)),
        scorers=("random",),
        keep=Selecting(weights={"random": 1.0}, share=1.0),
        write=Exporting(content="both", carry=("*",), format="jsonl"),
    )
    result = verbs.run(recipe, run, Compute(workers=0, devices=("cpu",)))
    assert result.export.num_windows > trials.number(1000, 260) // 2
    after = tree(tmp_path, without=run)
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    assert changed == []
    ours = r"plan\.parquet|manifest\.json|timings\.json|rejects\.jsonl|selection\.parquet|report\.html|progress\.json"
    ours += r"|\.lock(-\w+)?|export/(README\.md|export\.json|data/part-\d{5}\.jsonl|figures/\d+\.svg)"
    ours += r"|tables/\w+-[0-9a-f]{16}/(settings\.json|unit-[0-9a-f]{16}\.(json|parquet))|metrics\.prom|logs?/[\w.-]+"
    inside = [str(path.relative_to(run)) for path in run.rglob("*") if not path.is_dir()]
    others = [path for path in inside if not re.fullmatch(ours, path)]
    assert others == []
    trials.count("S4", "a hostile id, source, field and file name", len(names), len(names) - len(others) - len(changed))

    report = (run / "report.html").read_text(encoding="utf-8")
    assert active(report) == []
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", report)
    card = MarkdownIt("gfm-like", {"linkify": False}).render((run / "export" / "README.md").read_text(encoding="utf-8"))
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"
    # the figures beside it, whose names are numbers
    figures, card = (
        re.findall(r'<img src="figures/\d+\.svg" [^<>]*>', card),
        re.sub(r'<img src="figures/\d+\.svg" ', "<i ", card),
    )
    assert len(figures) == len(list((run / "export" / "figures").iterdir()))
    assert [found for found in active(policy + card) if "arxiv" not in found] == []
    assert "alert(1)" in report, "the attacks are there to be read"
    trials.count("S5", "an attack in a run's report and card", len(ATTACKS), len(ATTACKS))


def test_pages_of_validation_and_comparison_hold_no_active_element(trials, tmp_path):
    """Every field that can hold a name or a text of a corpus or of a user holds an attack."""
    passed = 0
    for attack in ATTACKS:
        of = Estimate(0.5, 0.4, 0.6)
        validation = Validation(
            settings={"controls": [attack], "resamples": 10, "seed": 1},
            model={"name": attack, "hash": "0", "dtype": attack},
            window=64,
            scorers={attack: {"scorer": attack, "pairs": 3}},
            sources={attack: {"windows": 3, "documents": 3}},
            corpus="0123456789abcdef",
            separations=[Separation(attack, attack, attack, 3, 3, of, of)],
            readings=[Reading(attack, attack, "trend", 3, of)],
            notes=[attack],
            versions={"longattn": "0"},
        )
        comparison = Comparison(
            scorers=[attack, "b"],
            windows={attack: 3},
            agreements=[Agreement(attack, attack, "b", 3, 0.5, {"0.05": 0.1, "0.125": 0.1, "0.25": 0.1, "0.5": 0.1})],
            disagreements=[Disagreement(attack, attack, attack, "b", 0.9, 0.1, attack)],
        )
        write_validation(tmp_path / "validation.html", validation)
        write_comparison(tmp_path / "comparison.html", comparison)
        pages = [(tmp_path / f"{name}.html").read_text(encoding="utf-8") for name in ("validation", "comparison")]
        passed += all(active(page) == [] for page in pages)
    trials.count("S5", "an attack in a validation's and a comparison's page", len(ATTACKS), passed)


def test_a_page_that_runs_something_is_seen_to_do_so():
    """The trial's own eyes: each of these would be found."""
    page = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">{}"
    assert active(page.format("<p>text <b>bold</b> <a href='#x'>x</a>")) == []
    for what in [*PAYLOADS[:3], PAYLOADS[6], *PAYLOADS[8:13]]:
        assert active(page.format(what)), what
    assert active("<p>no policy")
    script = resources.files("longattn.report").joinpath("tables.js").read_text(encoding="utf-8")
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; script-src {}\">{}"
    assert active(policy.format(OUR_SCRIPT, f"<script>{script}</script>")) == []
    for allowed, what in [
        (OUR_SCRIPT, f"<script>{script};</script>"),
        (OUR_SCRIPT, f"<script src=x>{script}</script>"),
        ("'none'", f"<script>{script}</script>"),
        (source_hash("alert(1)"), "<script>alert(1)</script>"),
        ("'unsafe-inline'", "<p>"),
    ]:
        assert active(policy.format(allowed, what)), (allowed, what)


# No network, and no secret written down.

OFFLINE = """
import json, sys
denied = []

def deny(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto", "socket.gethostbyname"):
        denied.append([event, repr(args[1:])])
        raise OSError("no network here")

sys.addaudithook(deny)
from longattn.cli import launch

codes = [launch(arguments) for arguments in json.load(sys.stdin)]
sys.stderr.flush()
print(json.dumps({"codes": codes, "denied": denied}))
"""
SECRET = "hf_0123456789SECRETabcdefghij"


def test_a_run_needs_no_network_and_writes_no_secret_down(trials, tmp_path, offline_model):
    """Tokens of the environment, of addresses and of model names: in no file of the run and on no line it prints."""
    (tmp_path / "corpus").mkdir()
    words = "words that fill a window. " * 20
    (tmp_path / "corpus" / "a\x1b[31mb\x9b1m.jsonl").write_text(json.dumps({"text": words}) + "\nbroken\n")
    run = str(tmp_path / "run")
    common = ["--output", run, "--model.name", str(offline_model), "--window.length", "64", "--workers", "0"]
    common += ["--scorers", "random", "--keep.weights.random", "1"]
    refused = [
        [f"s3://key:{SECRET}@bucket/a.jsonl"],
        [f"abfs://c@a.dfs.core.windows.net/a.jsonl?client_secret={SECRET}"],
        [f"s3://bucket/a.jsonl?access_token={SECRET}"],
        [str(tmp_path / "corpus"), "--model.name", f"hf://user:{SECRET}@org/name"],
        [str(tmp_path / "corpus"), "--model.name", "hf://org/name"],
        ["s3://bucket/a.jsonl"],
    ]
    commands = [
        ["run", str(tmp_path / "corpus"), *common],
        *(["measure", *words, "-o", f"{run}-2"] for words in refused),
    ]
    secrets = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OPENAI_API_KEY")
    outcome = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            **os.environ,
            **dict.fromkeys(secrets, SECRET),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": "k",
        },
    )
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    said = json.loads(outcome.stdout.splitlines()[-1])
    good, *bad = said["codes"]
    assert good == 0, outcome.stderr[-2000:]
    passed = 1 + sum(code != 0 for code in bad)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert written == []
    assert SECRET not in outcome.stdout + outcome.stderr
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", outcome.stdout + outcome.stderr)
    trials.count("S3", "a whole run, and refused addresses, without a network", len(commands), passed)


def test_a_run_with_a_model_needs_no_way_out(trials, tmp_path, offline_model):
    """In a network of its own, as the kernel makes it, with processes of its own."""
    space = ["unshare", "--net", "--map-root-user"]
    require(space, "no network namespace may be made here")
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": "words that fill a window. " * 20}) + "\n")
    arguments = [str(tmp_path / "corpus.jsonl"), "--model.name", str(offline_model), "--window.length", "64"]
    arguments += ["--scorers", "longattn", "--workers", "1", "--devices", "cpu"]

    def works(*words: str) -> bool:
        return subprocess.run([*words], capture_output=True, check=False, cwd=tmp_path).returncode == 0

    me = (sys.executable, "-m", "longattn")
    assert works(*me, "run", *arguments, "--output", "usual")
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = (sys.executable, "-c", f"import socket; socket.create_connection({server.getsockname()!r})")
        assert (works(*call), works(*space, *call)) == (True, False), "even this machine is out of reach there"
    passed = works(*space, *me, "run", *arguments, "--output", "alone")
    passed += works(*space, *me, "verify", "alone")
    same = [(tmp_path / run / "selection.parquet").read_bytes() for run in ("usual", "alone")]
    assert same[0] == same[1]
    trials.count("S3", "a run with a model and a check of it, in a network without a way out", 2, passed)


def test_every_line_for_a_terminal_is_without_controls(trials):
    """What visible() leaves of hostile text moves no cursor and turns no line around."""
    passed = 0
    for attack in ATTACKS:
        passed += not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", visible(attack))
    trials.count("S5", "an attack shown on a terminal", len(ATTACKS), passed)
