"""Context dependency: how much the answers of a chat sample attend to what the user said."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from longattn.expressions import Expression, column
from longattn.records import Turn, Window
from longattn.scorers.base import Ask, Columns, Schema, Scorer, Seen

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention

ROWS_AT_ONCE = 1024
"""Query rows whose mass on every turn is held at once."""


@dataclass(frozen=True, kw_only=True)
class ContextDependency(Scorer):
    """Attention that a sample's responses pay to its user's messages.

    Paper: https://arxiv.org/abs/2411.02688, section 4. For the m-th response Y with the user messages X_1 to X_m before
    it, in one layer::

        s(Y) = mean over y in Y of the max over heads h of sum over x in X_1..X_m of Att_h(y, x)

    The released code takes the best head for each token, as written here. The paper's words, "the head that allocates
    the highest attention weight to user tokens", can also mean one head for the whole response:
    ``best_head="response"``. A response counts as context-dependent there above 0.6. Template tokens are in no sum, and
    here there are none; the attention that they would draw, as the first keys of all, goes to the sample's own first
    tokens, so these are skipped.

    ``layer`` and ``skip_first`` are measured; everything else may be changed afterwards.
    """

    name: ClassVar[str] = "context_dependency"
    measures = ("samples",)

    layer: int = 15
    """Decoder layer, 0-based; one in the middle (the released code's, and the middle of SmolLM2's 30)."""
    skip_first: int = 4
    """Leave the sample's first keys (attention sinks) out of the user's part; they stay in the softmax."""

    best_head: Literal["token", "response"] = "token"
    """Take the head that attends most to the user for each token, or one for each response."""
    turns: Literal["mean", "last", "max"] = "mean"
    """How a sample of several responses is summed up."""

    def measurement(self) -> Mapping[str, Any]:
        """Layer and skipped keys."""
        return {name: value for name, value in asdict(self).items() if name in ("layer", "skip_first")}

    def ask(self) -> Ask:
        """The queries of the responses."""
        return Ask(layers=(self.layer,), observe=self._on_user, rows=_response_rows)

    def schema(self) -> Schema:
        """By way of choosing the head, the mean, the last and the largest of the responses; NaN without a response."""
        return {f"{turns}_{head}": "float64" for head in ("token", "response") for turns in ("mean", "last", "max")}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`."""
        on_user_HR = seen.layers[self.layer]["on_user"][0]
        ends = np.cumsum([turn.stop - turn.start for turn in _responses(windows[0])])
        parts = np.split(on_user_HR, ends[:-1], axis=1) if len(ends) else []
        found = {
            "token": [part_HR.max(axis=0).mean() for part_HR in parts],
            "response": [part_HR.mean(axis=1).max() for part_HR in parts],
        }
        columns: dict[str, npt.NDArray] = {}
        for head, scores in found.items():
            summed = (np.mean(scores), scores[-1], max(scores)) if scores else (np.nan,) * 3
            columns |= {
                f"{turns}_{head}": np.array([s]) for turns, s in zip(("mean", "last", "max"), summed, strict=True)
            }
        return columns

    def score(self) -> Expression:
        """s(Y), summed up over the sample's responses."""
        return column(f"{self.turns}_{self.best_head}")

    def readings(self) -> Mapping[str, Expression]:
        """``context_dependency``, the score itself, and that of the best response."""
        return {"context_dependency": self.score(), "best_response": column(f"max_{self.best_head}")}

    def _on_user(self, layer: "LayerAttention") -> Columns:
        """Attention mass of each row on all user messages before it, float64 [B, H, R]."""
        assert layer.window is not None, "a sample's messages are its own"
        B, R, H, _ = layer.q.shape
        on_user_BHR, edges = np.zeros((B, H, R)), self._user_edges(layer.window)
        for start in range(0, R, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            mass_BHRS = layer.at(part).span_mass(edges)
            # between two messages of the user lies a span that is none; messages after a row have no mass for it
            on_user_BHR[:, :, part] = mass_BHRS[..., ::2].cpu().numpy().sum(axis=-1)
        return {"on_user": on_user_BHR}

    def _user_edges(self, window: Window) -> list[int]:
        """Beginning and end of each user message in turn, without the skipped keys."""
        spoken = [turn for turn in window.turns if turn.role == "user"]
        edges = [max(edge, self.skip_first) for turn in spoken for edge in (turn.start, turn.stop)]
        return [min(edge, len(window.tokens)) for edge in edges] or [0, 0]


def _responses(window: Window) -> list[Turn]:
    """The assistant's messages that have tokens."""
    return [turn for turn in window.turns if turn.role == "assistant" and turn.stop > turn.start]


def _response_rows(window: Window) -> npt.NDArray[np.int64]:
    """Positions of the responses' tokens, in order."""
    rows = [np.arange(turn.start, turn.stop, dtype=np.int64) for turn in _responses(window)]
    return np.concatenate(rows) if rows else np.empty(0, np.int64)
