"""Reading a repository by byte range, from a stand-in for the hub that counts what it hands out."""

import hashlib
import json
import pickle
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from longattn import settings
from longattn.errors import ModelError
from longattn.models import Checkpoint, load_model, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "org/name"


class FakeHub:
    """Serves the files of one folder as a model's repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes_read: dict[str, int] = {}

    def answer(self, path: str, byte_range: str | None) -> tuple[int, bytes]:
        path = unquote(urlsplit(path).path)
        api, files = f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/{COMMIT}/"
        if re.fullmatch(rf"{api}(/revision/(main|v1|{COMMIT}))?", path):
            return 200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "cardData": {"license": "mit"}}).encode()
        if path == f"{api}/tree/{COMMIT}":
            return 200, json.dumps([self.entry(file) for file in sorted(self.folder.iterdir())]).encode()
        if path.startswith(files):
            return self.content(path.removeprefix(files), byte_range)
        return 404, b"{}"

    def entry(self, file: Path) -> dict[str, object]:
        digest, size = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size
        lfs = {"oid": digest, "size": size, "pointerSize": 130} if file.suffix == ".safetensors" else None
        return {"type": "file", "path": file.name, "size": size, "oid": digest[:40], "lfs": lfs}

    def content(self, name: str, byte_range: str | None) -> tuple[int, bytes]:
        content = (self.folder / name).read_bytes()
        if byte_range:
            first, last = byte_range.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1]
        self.bytes_read[name] = self.bytes_read.get(name, 0) + len(content)
        return 206 if byte_range else 200, content


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one empty repository, which is the only hub there is."""
    hub = FakeHub(tmp_path / "served")
    hub.folder.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = hub.answer(self.path, self.headers["Range"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def publish(hub: FakeHub, folder: Path, shards: int) -> None:
    """Put a checkpoint into the repository, in bfloat16 and several files."""
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    files: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number}.safetensors" if shards > 1 else "model.safetensors"
        part = dict(list(tensors.items())[number::shards])
        save_file(part, hub.folder / name)
        files |= dict.fromkeys(part, name)
    if shards > 1:
        (hub.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    for name in ("config.json", "tokenizer.json"):
        (hub.folder / name).write_bytes((folder / name).read_bytes())


def resolved(name: str = f"hf://{REPOSITORY}") -> Checkpoint:
    return resolve(settings.Model(name=name))


def queries(checkpoint: Checkpoint, layers: tuple[int, ...]) -> list[torch.Tensor]:
    model = load_model(checkpoint, settings.Model(), layers=layers, window=16)
    seen: list[torch.Tensor] = []
    model.queries_and_keys(torch.arange(16)[None], layers, lambda attention: seen.append(attention.q))
    return seen


@pytest.mark.parametrize("shards", [1, 3])
def test_the_first_layer_takes_little_more_than_its_own_bytes(hub, make_folder, shards):
    folder = make_folder("qwen2", hidden_size=192, intermediate_size=1024, num_hidden_layers=12, vocab_size=2000)
    publish(hub, folder, shards)
    checkpoint = resolved()
    (q,) = queries(checkpoint, (0,))

    parts = ("embed_tokens", "layers.0.input_layernorm", "layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj")
    tensors = load_file(folder / "model.safetensors")
    needed = 2 * sum(tensor.numel() for name, tensor in tensors.items() if any(part in name for part in parts))
    weights = {name: count for name, count in hub.bytes_read.items() if name.endswith(".safetensors")}
    stored = sum((hub.folder / name).stat().st_size for name in weights)
    assert needed <= sum(weights.values()) < 1.1 * needed < 0.1 * stored

    (again,) = queries(resolved(), (0,))
    assert torch.equal(q, again)
    headers = 0 if shards > 1 else 2 * 100_000
    assert sum(hub.bytes_read[name] for name in weights) <= sum(weights.values()) + headers, "they are cached"


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("layers", [(0,), (1,)])
def test_it_is_the_same_model_as_in_a_folder(hub, make_folder, shards, layers):
    publish(hub, make_folder("llama"), shards)
    remote, local = resolved(), resolved(str(hub.folder))
    assert remote.hash == local.hash
    assert (remote.license, remote.revision) == ("mit", COMMIT)
    assert remote.tokenizer_file.read_bytes() == local.tokenizer_file.read_bytes()
    assert torch.equal(queries(remote, layers)[0], queries(local, layers)[0])
    assert torch.equal(queries(pickle.loads(pickle.dumps(remote)), layers)[0], queries(local, layers)[0])


def test_a_revision_can_be_named(hub, make_folder):
    publish(hub, make_folder("llama"), 1)
    assert resolved(f"hf://{REPOSITORY}@v1").revision == COMMIT


@pytest.mark.parametrize(
    "name",
    ["hf://org/other", f"hf://{REPOSITORY}@nowhere", "hf://gpt2", "hf://datasets/org/name", "hf://org/name/file"],
)
def test_an_address_that_leads_nowhere_is_refused(hub, make_folder, name):
    publish(hub, make_folder("llama"), 1)
    with pytest.raises(ModelError, match=re.escape(name)):
        resolved(name)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", '{"auto_map": {}}', "remote code is never run"),
        ("model.safetensors", None, "no model.safetensors"),
        ("tokenizer.json", None, "no tokenizer.json"),
    ],
)
def test_a_repository_is_refused_like_a_folder(hub, make_folder, file, content, message):
    publish(hub, make_folder("llama"), 1)
    (hub.folder / file).unlink()
    if content:
        (hub.folder / file).write_text(content)
    with pytest.raises(ModelError, match=message):
        resolved()


def test_offline_mode_is_honoured(hub, make_folder, monkeypatch):
    publish(hub, make_folder("llama"), 1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE.* a copy in a local folder needs no network"):
        resolved()
    assert hub.bytes_read == {}


def test_an_answer_that_is_too_short_is_no_checkpoint(hub, make_folder, monkeypatch, cache):
    publish(hub, make_folder("llama"), 3)
    checkpoint = resolved()
    whole = hub.content
    monkeypatch.setattr(hub, "content", lambda name, part: (206, whole(name, part)[1][:-1]))
    with pytest.raises(ModelError, match=r"asked for \d+ bytes"):
        queries(checkpoint, (0,))
    assert len(list((cache / "hub").iterdir())) == 1, "only the tokenizer is kept"
