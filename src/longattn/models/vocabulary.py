"""Where a token's queries and keys before rotation come from: computed when it first occurs, or a table on disk.

They depend on the token id alone, so each id is projected once. Every product has the same shape, ``IDS_AT_ONCE`` ids
padded with id 0: a row of it then depends neither on the ids beside it nor on the number of threads, so it makes no
difference which windows came before or whether the rows were read from a table.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import linear

from longattn.models.cache import cached_folder
from longattn.models.weights import write_safetensors
from longattn.stores import cache_folder

log = logging.getLogger(__name__)

IDS_AT_ONCE = 256
"""Token ids in one product: at 256 and above it is fastest, and the fewer, the less is projected in vain."""
MAX_BYTES = 2 * 2**30
"""Largest table, on disk or in memory. Queries and keys of Llama-3.1-8B in bfloat16 take 1.3 GB."""
TOKENS_PER_ID = 100
"""From this many tokens per vocabulary entry on a table is worth making: about half of it would be computed anyway. Of
SmolLM2's ids 43 % occurred in 65 tokens per id of Python modules and Debian's documentation, 49 % in 128."""
_FORMAT = 1
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class Projection(NamedTuple):
    """One of the two matrices that make queries or keys of hidden states."""

    weight: Float[Tensor, "O D"]
    bias: Float[Tensor, " O"] | None
    norm: Float[Tensor, " K"] | None
    """Weight of the norm over each head's vector."""


class Unrotated(NamedTuple):
    """Queries and keys of N tokens before the rotary embedding."""

    q: Float[Tensor, "N H K"]
    k: Float[Tensor, "N G K"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Projector:
    """From token ids to queries and keys: embedding, norm, projections."""

    embeddings: Float[Tensor, "V D"]
    norm: Float[Tensor, " D"]
    query: Projection
    key: Projection
    head_dim: int
    eps: float

    @property
    def bytes_per_id(self) -> int:
        """Size of one token's queries and keys."""
        return (len(self.query.weight) + len(self.key.weight)) * self.embeddings.element_size()

    def __call__(self, ids: Int[Tensor, " N"]) -> Unrotated:
        """Queries and keys of some ids, in blocks of one shape."""
        blocks = [self._block(part) for part in ids.split(IDS_AT_ONCE)]
        return Unrotated(torch.cat([block.q for block in blocks]), torch.cat([block.k for block in blocks]))

    def _block(self, ids: Int[Tensor, " N"]) -> Unrotated:
        padded = torch.cat([ids, ids.new_zeros(IDS_AT_ONCE - len(ids))])
        hidden = _rms_norm(self.embeddings[padded], self.norm, self.eps)
        return Unrotated(*(self._heads(hidden, part)[: len(ids)] for part in (self.query, self.key)))

    def _heads(self, hidden: Float[Tensor, "N D"], part: Projection) -> Float[Tensor, "N H K"]:
        heads = linear(hidden, part.weight, part.bias).unflatten(-1, (-1, self.head_dim))
        return heads if part.norm is None else _rms_norm(heads, part.norm, self.eps)


class Vocabulary:
    """Queries and keys by token id. Rows are kept from their first use on, unless all of them exceed ``MAX_BYTES``."""

    def __init__(self, projector: Projector, table: Unrotated | None = None) -> None:
        """With a ``table`` of all ids nothing is projected."""
        self._project = projector
        self._rows = table
        self._missing: Bool[Tensor, " V"] | None = None
        num_ids, device = len(projector.embeddings), projector.embeddings.device
        if table is None and num_ids * projector.bytes_per_id <= MAX_BYTES:
            sizes = (len(part.weight) // projector.head_dim for part in (projector.query, projector.key))
            # on a CPU memory is only taken when a row is written
            self._rows = Unrotated(*(projector.embeddings.new_empty(num_ids, n, projector.head_dim) for n in sizes))
            self._missing = torch.ones(num_ids, dtype=torch.bool, device=device)

    def rows(self, ids: Int[Tensor, " N"]) -> tuple[Unrotated, Int[Tensor, " N"]]:
        """Queries and keys that hold those of all ``ids``, and the row of each id among them."""
        if self._rows is None:
            occurring, place = ids.unique(return_inverse=True)
            return self._project(occurring), place
        if self._missing is not None and len(new := ids[self._missing[ids]].unique()):
            for kept, made in zip(self._rows, self._project(new), strict=True):
                kept[new] = made
            self._missing[new] = False
        return self._rows, ids


def open_table(projector: Projector, model_hash: str, *, build: bool) -> Unrotated | None:
    """The table of a model on disk, mapped into memory that all processes share; None where there is none.

    One that does not exist is made if ``build``. Tables are for CPUs: another device projects faster than it reads.
    One that was made by arithmetic other than this process's, which its first ids show, is not used.
    """
    num_ids = len(projector.embeddings)
    if projector.embeddings.device.type != "cpu" or num_ids * projector.bytes_per_id > MAX_BYTES:
        return None
    name = f"vocabulary/{_key(projector, model_hash)}"
    if not build and not (cache_folder() / name).is_dir():
        return None
    folder = cached_folder(name, lambda partial: _write(projector, partial / "table.safetensors"))
    with safe_open(folder / "table.safetensors", framework="pt") as file:
        table = Unrotated(*(file.get_tensor(part) for part in Unrotated._fields))
    sample = torch.arange(0, num_ids, -(-num_ids // IDS_AT_ONCE))
    for kept, made in zip(table, projector(sample), strict=True):
        if not torch.equal(kept[sample], made):
            log.warning("the table %s was computed with other rounding than here and is not used", folder)
            return None
    return table


def _key(projector: Projector, model_hash: str) -> str:
    """Names all that the bits of a table depend on, as far as it can be named."""
    facts = {
        "format": _FORMAT,
        "model": model_hash,
        "dtype": _NAMES[projector.embeddings.dtype],
        "ids_at_once": IDS_AT_ONCE,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _write(projector: Projector, path: Path) -> None:
    num_ids, dtype = len(projector.embeddings), _NAMES[projector.embeddings.dtype]
    specs: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for name, part in zip(Unrotated._fields, (projector.query, projector.key), strict=True):
        shape = (num_ids, len(part.weight) // projector.head_dim, projector.head_dim)
        specs[name] = dtype, shape, num_ids * len(part.weight) * projector.embeddings.element_size()
    write_safetensors(path, specs, _chunks(projector))


@torch.inference_mode()
def _chunks(projector: Projector) -> Iterator[bytes]:
    """All queries, then all keys; the keys wait in memory, as they are the smaller part."""
    keys: list[bytes] = []
    for ids in torch.arange(len(projector.embeddings)).split(IDS_AT_ONCE):
        q, k = (heads.contiguous().view(torch.uint8).numpy().tobytes() for heads in projector(ids))
        keys.append(k)
        yield q
    yield from keys


def _rms_norm(x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], eps: float) -> Float[Tensor, "... D"]:
    """Root mean square norm in single precision, whatever the type of the input."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
