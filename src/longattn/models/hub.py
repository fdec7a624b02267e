"""Checkpoints in repositories of the Hugging Face hub, of which only the bytes that are needed are read."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from huggingface_hub import HfApi, HfFileSystem, parse_hf_uri

from longattn.errors import ModelError
from longattn.models.cache import cached_folder
from longattn.models.checkpoint import (
    INDEX_FILE,
    SINGLE_FILE,
    Checkpoint,
    check_files,
    check_size,
    checkpoint_hash,
    parse_config,
    parse_index,
)
from longattn.models.weights import MAX_HEADER, LocalWeights, TensorInfo, Weights, read_header, write_safetensors
from longattn.settings import Model

_CHUNK = 32 * 2**20


@dataclass(frozen=True)
class Repository:
    """The files of one commit."""

    root: str
    """``org/name@commit``."""
    entries: Mapping[str, Mapping[str, Any]]
    """What the hub says of each file: size and digests."""

    def read(self, file: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes of a file from one position up to another, the end by default."""
        path = f"{self.root}/{file}"
        stop = self.size(file) if stop is None else stop
        with _asking(f"hf://{path}"):
            # no block cache: it would read ahead
            content = cast("bytes", HfFileSystem().cat_file(path, start, stop, cache_type="none"))
        if len(content) != stop - start:
            raise ModelError(f"hf://{path}: asked for {stop - start} bytes from {start}, got {len(content)}")
        return content

    def size(self, file: str) -> int:
        """Bytes of a file."""
        return self.entries[file]["size"]

    def digest(self, file: str) -> str:
        """SHA-256 of a file as the hub publishes it; for one too small to be stored apart, its name in git."""
        entry = self.entries[file]
        return entry["lfs"]["sha256"] if entry.get("lfs") else entry["blob_id"]

    def header(self, file: str, max_bytes: int = MAX_HEADER) -> dict[str, TensorInfo]:
        """The tensors of a safetensors file."""
        return read_header(file, self.size(file), lambda start, stop: self.read(file, start, stop), max_bytes)

    def cache_name(self, content: Iterable[str]) -> str:
        """Where something made of this commit is kept in the cache."""
        return f"hub/{hashlib.sha256(json.dumps([self.root, *content]).encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class HubWeights(Weights):
    """Safetensors files in a repository, read by byte range."""

    repository: Repository
    config: Mapping[str, Any]
    files: Mapping[str, str]
    """File name of each tensor."""
    max_header: int = MAX_HEADER
    """Most bytes of a file's header."""

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self.files)

    def fetch(self, names: Iterable[str]) -> LocalWeights:
        """The named tensors as one safetensors file in the cache, read from the hub the first time."""
        wanted = sorted(set(names))
        self.check(wanted)
        name = self.repository.cache_name(wanted)
        folder = cached_folder(name, lambda partial: self._download(partial, wanted))
        return LocalWeights(folder, dict.fromkeys(wanted, SINGLE_FILE), self.max_header)

    def _download(self, folder: Path, names: list[str]) -> None:
        files = sorted({self.files[name] for name in names})
        headers = {file: self.repository.header(file, self.max_header) for file in files}
        infos = {name: headers[self.files[name]][name] for name in names}
        specs = {name: (info.dtype, info.shape, info.stop - info.start) for name, info in infos.items()}
        (folder / "config.json").write_text(json.dumps(self.config))
        write_safetensors(folder / SINGLE_FILE, specs, self._chunks(infos))

    def _chunks(self, infos: Mapping[str, TensorInfo]) -> Iterator[bytes]:
        for name, info in infos.items():
            for start in range(info.start, info.stop, _CHUNK):
                yield self.repository.read(self.files[name], start, min(start + _CHUNK, info.stop))


def resolve_repository(model: Model) -> Checkpoint:
    """The checkpoint behind ``hf://org/name[@revision]``, pinned to the commit that the revision means now.

    Raises ``ModelError`` if the hub cannot be reached, or for a repository that is refused.
    """
    name = model.name
    with _asking(name):
        uri = parse_hf_uri(name)
        if uri.type != "model" or uri.path_in_repo:
            raise ModelError(f"{name} is not a model's address, which is hf://org/name or hf://org/name@revision")
        info = HfApi().model_info(uri.id, revision=uri.revision)
        root = f"{uri.id}@{info.sha}"
        listing = cast("list[dict[str, Any]]", HfFileSystem().ls(root, detail=True))
    repository = Repository(root, {PurePosixPath(entry["name"]).name: entry for entry in listing})
    check_files(name, repository.entries)
    for small in {"config.json", INDEX_FILE} & repository.entries.keys():
        check_size(name, small, repository.size(small), "max_header_bytes", model)
    check_size(name, "tokenizer.json", repository.size("tokenizer.json"), "max_tokenizer_bytes", model)
    config = parse_config(name, repository.read("config.json"))
    if SINGLE_FILE in repository.entries:
        files = dict.fromkeys(repository.header(SINGLE_FILE, model.max_header_bytes), SINGLE_FILE)
    else:
        files = parse_index(name, repository.read(INDEX_FILE))
    if missing := sorted(set(files.values()) - repository.entries.keys()):
        raise ModelError(f"{name} lacks {', '.join(missing)}, which its {INDEX_FILE} names")
    read = sorted(set(files.values()))
    digests = {file: repository.digest(file) for file in (*read, "config.json", "tokenizer.json")}
    return Checkpoint(
        name=name,
        config=config,
        tokenizer_file=_tokenizer_file(repository),
        weights=HubWeights(repository, config, files, model.max_header_bytes),
        hash=checkpoint_hash(config, [digests[file] for file in read]),
        files=digests,
        license=info.card_data.license if info.card_data else None,
        revision=info.sha,
    )


def _tokenizer_file(repository: Repository) -> Path:
    def save(folder: Path) -> None:
        (folder / "tokenizer.json").write_bytes(repository.read("tokenizer.json"))

    return cached_folder(repository.cache_name(["tokenizer.json"]), save) / "tokenizer.json"


@contextlib.contextmanager
def _asking(name: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the hub and back into a ``ModelError``."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the libraries on the way have no common base for their errors
        hint = "; a copy in a local folder needs no network" if isinstance(error, ConnectionError) else ""
        raise ModelError(f"{name} cannot be read: {error}{hint}") from error
