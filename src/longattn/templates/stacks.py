"""Configurations for training stacks, filled in with the facts of an export or a mixture."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from longattn.errors import ModelError, RunError
from longattn.export.summary import FILE_NAME
from longattn.templates import Stack
from longattn.templating import fill
from longattn.train.planning import windows_of_a_step
from longattn.train.rope import bases, read_rope
from longattn.train.settings import Training


@dataclass(frozen=True)
class Needs:
    """What a stack reads."""

    formats: tuple[str, ...]
    labels: bool = False
    """Whether rows must have ``labels`` and ``attention_mask``."""
    extra_token: bool = False
    """Whether items are one token longer than what is trained on."""
    checked: str = ""
    """The release whose names of settings were compared."""

    @property
    def flags(self) -> str:
        """What asks ``longattn export`` or ``longattn mix`` for it."""
        flags = [f"--write.format {self.formats[0]}"]
        flags += ["--write.content tokens"] if self.formats[0] == "hf" else []
        flags += ["--write.labels"] if self.labels else []
        flags += ["--write.extra-token"] if self.extra_token else []
        return " ".join(flags)


STACKS: dict[str, Needs] = {
    "hf": Needs(("hf",), checked="transformers 5.23.0, accelerate 1.15.0"),
    "megatron-bridge": Needs(("megatron",), checked="Megatron-Bridge 0.3.1"),
    "torchtitan": Needs(("hf",), extra_token=True, checked="torchtitan 0.3.0"),
    "axolotl": Needs(("hf",), labels=True, checked="axolotl 0.19.0"),
    "llamafactory": Needs(("hf",), labels=True, checked="LLaMA-Factory 0.9.5"),
}
"""Stacks by name."""


TORCHTITAN_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
"""The shape that torchtitan's ``llama3_8b`` has, in the words of config.json."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What an export or a mixture says of itself."""

    folder: Path
    format: str
    length: int
    """Tokens of each window, without an extra one."""
    windows: int
    tokens: Mapping[str, int]
    """By source."""
    stems: Mapping[str, str]
    labels: bool
    extra_token: bool
    packed: bool
    """Whether a sequence may hold several documents."""

    @property
    def shares(self) -> dict[str, float]:
        """Each source's part of the tokens."""
        total = max(1, sum(self.tokens.values()))
        return {name: tokens / total for name, tokens in self.tokens.items()}


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """What is known of the model that is to be trained."""

    name: str
    base: float | None
    """The base of its rotary embedding; None for a model that is not on this machine."""
    layer: str
    """The class of its decoder layers in ``transformers``."""
    warnings: tuple[str, ...]
    scaling: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of a scaled rotary embedding; empty for a plain one."""


def render(stack: Stack, folder: Path, model: str, rule: Training, *, gpus: int = 8) -> str:
    """The configuration of a stack that continues ``model``'s training on an export or a mixture.

    Raises :class:`RunError` for a folder that is neither or that this stack does not read, with the flags that make one
    that it does; ``ValueError`` for GPUs over which a step cannot be split, and for a step of less than a window.
    """
    needs, data = STACKS[stack], read_data(folder)
    _check(stack, needs, data)
    batch = windows_of_a_step(data.length, rule)
    if gpus < 1 or batch % gpus:
        raise ValueError(
            f"gpus must divide the {batch} windows of a step, got {gpus}; --train.batch-tokens "
            f"{max(1, round(batch / max(1, gpus))) * max(1, gpus) * data.length} would be split"
        )
    tokens = rule.tokens or data.windows * data.length
    steps = max(1, tokens // (batch * data.length))
    source = (files("longattn.templates") / f"{stack}.jinja").read_text(encoding="utf-8")
    trainee = read_trainee(model, data.length)
    told = [*trainee.warnings, *_lost_scaling(stack, trainee), *_other_shape(stack, model), *_not_said(source, rule)]
    return fill(
        source,
        # JSON, which YAML, TOML and Python read alike
        {"literal": json.dumps},
        data=data,
        model=replace(trainee, warnings=tuple(told)),
        rule=rule,
        gpus=gpus,
        batch=batch,
        accumulation=batch // gpus,
        # heads and hidden sizes divide by powers of two
        tensor_parallel=math.gcd(8, gpus),
        steps=steps,
        warmup=rule.warmup_steps(steps),
        passes=tokens / max(1, data.windows * data.length),
        checked=needs.checked,
    )


def read_data(folder: Path) -> Data:
    """What ``export.json`` of a folder, or of the export of a run, says. Raises :class:`RunError`."""
    folder = folder / "export" if (folder / "export" / FILE_NAME).exists() else folder
    try:
        summary: dict[str, Any] = json.loads((folder / FILE_NAME).read_bytes())
    except FileNotFoundError as error:
        raise RunError(f"{folder} is neither an export nor a mixture: it has no {FILE_NAME}") from error
    length, rest = divmod(summary["num_tokens"], max(1, summary["num_windows"]))
    if rest or not length:
        raise RunError(f"{folder} has no windows, or windows of different lengths, which these stacks do not take")
    return Data(
        folder=folder.resolve(),
        format=summary["format"],
        length=length,
        windows=summary["num_windows"],
        tokens=summary["tokens"],
        stems=summary["stems"],
        labels="labels" in _features(folder),
        extra_token=summary["extra_token"],
        packed=any(part["kind"] == "documents" for part in summary.get("portions", {}).values()),
    )


def read_trainee(model: str, length: int) -> Trainee:
    """What a model's config.json says of its rotary embedding, if it is a folder on this machine."""
    path = Path(model) / "config.json"
    if not path.exists():
        return Trainee(name=model, base=None, layer="LlamaDecoderLayer", warnings=())
    config = json.loads(path.read_bytes())
    warnings = []
    try:
        rope = read_rope(config)
    except ModelError as error:
        return Trainee(name=model, base=None, layer=_layer(config), warnings=(str(error),))
    if rope.limit < length:
        warnings.append(f"it has {rope.limit:,} positions: longattn abf {model} --length {length} --output FOLDER")
    if len(set(bases(config).values())) > 1:
        warnings.append("transformers 4 and 5 take different bases from its config.json: longattn abf writes both")
    return Trainee(
        name=str(Path(model).resolve()),
        base=rope.base,
        layer=_layer(config),
        warnings=tuple(warnings),
        scaling=rope.scaling,
    )


def _lost_scaling(stack: str, trainee: Trainee) -> Iterator[str]:
    """Stacks that do not read config.json, or only a part of it, lose a scaled embedding of another kind."""
    kind = trainee.scaling.get("rope_type", "llama3")
    if stack in ("torchtitan", "megatron-bridge") and kind != "llama3":
        yield f"its rotary embedding is scaled ({kind}), and here it is not: longattn abf --scaling drop takes it off"


def _other_shape(stack: str, model: str) -> Iterator[str]:
    """torchtitan's shapes are functions of its own."""
    path = Path(model) / "config.json"
    if stack == "torchtitan" and path.exists():
        config = json.loads(path.read_bytes())
        if other := [name for name, size in TORCHTITAN_8B.items() if config.get(name) != size]:
            yield f"llama3_8b is of another shape than this model ({', '.join(other)}): take the function of its own"


def _not_said(source: str, rule: Training) -> Iterator[str]:
    """Settings that are not the usual ones and that a template says nothing of."""
    said = {*re.findall(r"\brule\.(\w+)", source), "tokens", "batch_tokens", "warmup"}
    usual = Training()
    given = [one.name for one in fields(rule) if getattr(rule, one.name) != getattr(usual, one.name)]
    if lost := [f"{name}={getattr(rule, name)}" for name in given if name not in said]:
        yield f"nothing here says {', '.join(lost)}: put it in, if this stack has it"


def _layer(config: Mapping[str, Any]) -> str:
    """The class of a model's decoder layers, by its architecture."""
    architecture = (config.get("architectures") or ["LlamaForCausalLM"])[0]
    return architecture.removesuffix("ForCausalLM") + "DecoderLayer"


def _features(folder: Path) -> Mapping[str, Any]:
    """Columns of an export of the format ``hf``."""
    path = folder / "data" / "dataset_info.json"
    return json.loads(path.read_bytes())["features"] if path.exists() else {}


def _check(stack: str, needs: Needs, data: Data) -> None:
    """Raise :class:`RunError` for an export that a stack does not read."""
    missing = []
    if data.format not in needs.formats:
        missing.append(f"the format {' or '.join(needs.formats)}, and this one is {data.format}")
    elif needs.labels and not data.labels:
        missing.append("labels")
    if needs.extra_token != data.extra_token:
        missing.append("windows of one token more" if needs.extra_token else "windows without an extra token")
    if missing:
        raise RunError(f"{stack} needs {', and '.join(missing)}: export or mix it with {needs.flags}")
