"""GATEAU: how hard an answer is for want of reach, and how far attention goes where the answer's context is."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from longattn import settings
from longattn.expressions import Expression, column, exp, minmax, softmax
from longattn.records import Window
from longattn.scorers.base import Ask, Columns, Context, Excerpt, Schema, Scorer, Seen, WholeWindow

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention

ROWS_AT_ONCE = 256
"""Query rows whose mass on every segment is held at once."""

Floats = npt.NDArray[np.float64]


class Parts(NamedTuple):
    """Where a sample's context, instruction and response are, in tokens."""

    context: int
    """The context is the tokens before this one."""
    response: int
    """The response's first token; between the two is the instruction, with what separates the three."""
    stop: int
    """One past the response's last token."""


def parts(window: Window) -> Parts | None:
    """The last answer of the assistant that follows two messages, the user's just before it and some before that.

    The user's message is the instruction, all before it the context; messages without tokens are passed over. None for
    a sample that has no such answer.
    """
    turns = [turn for turn in window.turns if turn.stop > turn.start]
    for before, instruction, response in reversed(list(zip(turns, turns[1:], turns[2:], strict=False))):
        if (instruction.role, response.role) == ("user", "assistant"):
            return Parts(before.stop, response.start, response.stop)
    return None


@dataclass(frozen=True)
class Segments(Context):
    """The response given the instruction and one segment of the context, for each segment."""

    segment: int
    response_tokens: int | None
    """Tokens of the response that are predicted; None for all."""
    instruction_tokens: int | None = None
    """Tokens of the instruction that it is given; None for all."""

    def excerpts(self, window: Window) -> Sequence[Excerpt]:
        """One per segment, the last of which may be shorter; none for a sample without the three parts."""
        found = parts(window)
        if found is None:
            return []
        instruction = window.tokens[found.context : found.response][: self.instruction_tokens]
        response = window.tokens[found.response : _last(found, self.response_tokens)]
        return [
            Excerpt(np.concatenate([window.tokens[start:stop], instruction, response]), stop - start + len(instruction))
            for start, stop in itertools.pairwise(_edges(found, self.segment))
        ]


@dataclass(frozen=True, kw_only=True)
class Gateau(Scorer):
    """Homologous models' guidance and contextual awareness measurement of an instruction sample.

    Paper: https://arxiv.org/abs/2410.15633, section 3. A sample is a context c, an instruction x and a response y.
    With PPL the perplexity of y, A a model with a short context window and B, the run's model, one of its family with a
    long one::

        HMP = Norm(PPL_A(y | c, x)) - Norm(PPL_B(y | c, x))     homologous models' guidance
        CAS = 1 - cos(Norm(a), Norm(-PPL_B(y | s, x)))          contextual awareness, over the segments s of c
        score = alpha * HMP + (1 - alpha) * CAS

    where a(s) is the attention that the tokens of y pay to a token of s, mean over heads and layers. High is hard: the
    long reach helps, and attention is not where the response's context is. Norm is over the data set for HMP, over
    the segments for CAS.

    The released code rescales PPL_A and PPL_B to [0, 1], subtracts, and takes the softmax of the difference over the
    data set; what it adds as CAS it reads from a file that no part of it writes. ``convention="released"`` takes the
    softmax of both. The paper's Norm of HMP is min-max here, as in the code, or a softmax (``norm``).

    ``short_model``, ``segment``, ``response_tokens``, ``instruction_tokens``, ``mean_over``, ``skip_first`` and
    ``layers`` are measured; everything else may be changed afterwards.
    """

    name: ClassVar[str] = "gateau"
    measures = ("samples",)

    short_model: settings.Model | None = None
    """The model A with the short context window, of the family of the run's model and with its tokenizer. What lets it
    read a longer sample is its ``rope_theta`` (the released code stretches it likewise)."""
    segment: int = 128
    """Tokens of a segment of the context."""
    response_tokens: int | None = None
    """Take contextual awareness from the first tokens of the response only (released code: 500); None takes all."""
    instruction_tokens: int | None = None
    """Give the response the first tokens of the instruction only, beside a segment (released code: 500); None gives
    all."""
    mean_over: Literal["response", "excerpt"] = "response"
    """What the response's loss beside a segment is divided by: its own tokens, or, as the released code has it, all
    tokens of segment, instruction and response but one."""
    skip_first: int = 0
    """Leave the sample's first keys (attention sinks) out of the first segment's attention; they stay in the
    softmax."""
    layers: tuple[int, ...] | None = None
    """Layers whose attention is averaged, 0-based; None is all."""

    alpha: float = 0.8
    """Weight of HMP against CAS: the paper's with plenty of short instruction data; with little it takes 0.7."""
    convention: Literal["paper", "released"] = "paper"
    """Whose combination to follow where the two differ."""
    norm: Literal["minmax", "softmax"] = "minmax"
    """How perplexities are brought to one scale over the data set."""
    squash: Literal["softmax", "share"] = "softmax"
    """How attention and importance are made comparable over the segments: by a softmax of each, or as shares, of the
    attention and of 1/PPL. Attention of a long context is so small that its softmax is all but even."""

    def for_length(self, length: int) -> "Gateau":
        """The scorer itself. Raises ``ValueError`` for segments or skipped keys that leave no attention to look at."""
        if self.segment < 1 or not 0 <= self.skip_first < self.segment:
            raise ValueError(
                f"segment must be at least 1 and skip_first from 0 to less than it, got {self.segment} and "
                f"{self.skip_first}"
            )
        for name in ("response_tokens", "instruction_tokens"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}; None takes all")
        return self

    def measurement(self) -> Mapping[str, Any]:
        """Segments, tokens and layers looked at; the models stand beside it in the table's settings."""
        names = ("segment", "response_tokens", "instruction_tokens", "skip_first", "layers")
        # which came later: what was measured before keeps its table's name
        later = {} if self.mean_over == "response" else {"mean_over": self.mean_over}
        return {name: getattr(self, name) for name in names} | later

    def ask(self) -> Ask:
        """Attention of the response, and its predictions by both models and from each segment.

        Raises ``ValueError`` if no second model is named.
        """
        whole, short, segments = self._contexts
        layers = "all" if self.layers is None else self.layers
        return Ask(layers=layers, observe=self._on_segments, rows=self._rows, contexts=(whole, short, segments))

    def schema(self) -> Schema:
        """Segments; mean loss of the response in nats by either model; cosine of attention and importance by either
        way of making them comparable. All but the first are NaN for a sample without the three parts.
        """
        names = ("short_loss", "long_loss", "cosine_softmax", "cosine_share")
        return {"segments": "int32", **dict.fromkeys(names, "float64")}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`, of one window."""
        found = parts(windows[0])
        if found is None:
            return {name: np.array([0 if kind == "int32" else np.nan]) for name, kind in self.schema().items()}
        whole, short, segments = self._contexts
        long_loss, short_loss = (
            -seen.predictions[context][0].log_probs[found.response - 1 : found.stop - 1].mean(dtype=np.float64)
            for context in (whole, short)
        )
        losses = np.array([-one.log_probs.mean(dtype=np.float64) for one in seen.predictions[segments]])
        if self.mean_over == "excerpt":
            excerpts = segments.excerpts(windows[0])
            losses *= [(len(one.tokens) - one.first) / (len(one.tokens) - 1) for one in excerpts]
        attention = np.mean([columns["attention"] for columns in seen.layers.values()], axis=0)
        return {
            "segments": np.array([len(losses)], dtype=np.int32),
            "short_loss": np.array([short_loss]),
            "long_loss": np.array([long_loss]),
            "cosine_softmax": np.array([_cosine(_softmax(attention), _softmax(-np.exp(losses)))]),
            "cosine_share": np.array([_cosine(attention, _softmax(-losses))]),
        }

    def score(self) -> Expression:
        """HMP and CAS, weighted."""
        guidance, awareness = self.guidance(), self.awareness()
        if self.convention == "released":
            guidance, awareness = softmax(guidance), softmax(awareness)
        return self.alpha * guidance + (1 - self.alpha) * awareness

    def readings(self) -> Mapping[str, Expression]:
        """``hmp``, ``cas`` and the perplexities by either model."""
        short, long = exp(column("short_loss")), exp(column("long_loss"))
        return {"hmp": self.guidance(), "cas": self.awareness(), "short_ppl": short, "long_ppl": long}

    def guidance(self) -> Expression:
        """HMP."""
        scaled = softmax if self.norm == "softmax" and self.convention == "paper" else minmax
        return scaled(exp(column("short_loss"))) - scaled(exp(column("long_loss")))

    def awareness(self) -> Expression:
        """CAS."""
        return 1.0 - column(f"cosine_{self.squash}")

    @property
    def _contexts(self) -> tuple[WholeWindow, WholeWindow, Segments]:
        """What the response is predicted from: all of the sample by either model, and one segment of it."""
        if self.short_model is None:
            raise ValueError(
                "gateau compares the run's model with one of its family that has a shorter context window; name it "
                "(gateau.short_model.name)"
            )
        segments = Segments(self.segment, self.response_tokens, self.instruction_tokens)
        return WholeWindow(), WholeWindow(model=self.short_model), segments

    def _rows(self, window: Window) -> npt.NDArray[np.int64]:
        """Positions of the response's tokens."""
        found = parts(window)
        if found is None:
            return np.empty(0, np.int64)
        return np.arange(found.response, _last(found, self.response_tokens), dtype=np.int64)

    def _on_segments(self, layer: "LayerAttention") -> Columns:
        """Attention that the response pays to a token of each segment, mean over heads and rows: float64 [S]."""
        assert layer.window is not None, "a sample's parts are its own"
        found = parts(layer.window)
        if found is None:
            return {}
        edges = np.maximum(_edges(found, self.segment), self.skip_first)
        edges = np.minimum(edges, found.context)
        _, R, H, _ = layer.q.shape
        mass_S = np.zeros(len(edges) - 1)
        for start in range(0, R, ROWS_AT_ONCE):
            mass_BHRS = layer.at(slice(start, start + ROWS_AT_ONCE)).span_mass(edges.tolist())
            # NumPy adds in one fixed order, torch in one that depends on the number of threads
            mass_S += mass_BHRS.cpu().numpy().sum(axis=(0, 1, 2))
        return {"attention": mass_S / (R * H) / np.maximum(1, np.diff(edges))}


def _edges(found: Parts, segment: int) -> list[int]:
    """Where the segments of the context begin, and the end of the last."""
    return [*range(0, found.context, segment), found.context]


def _last(found: Parts, response_tokens: int | None) -> int:
    """One past the last token of the response that is looked at."""
    return found.stop if response_tokens is None else min(found.stop, found.response + response_tokens)


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def _cosine(one: Floats, other: Floats) -> float:
    """Cosine of the angle between two vectors without negative entries; 0 if one of them is all zeros."""
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm > 0 else 0.0
