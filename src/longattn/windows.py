"""Cut a document's tokens into windows of one length, from both ends inward (LongAttn paper, Algorithm 1).

A sample of messages is one window, whatever its length.
"""

import numpy as np

from longattn.records import Document, Turn, Window
from longattn.tokens import Tokenized


def window_starts(num_tokens: int, length: int) -> list[int]:
    """Where each window of a document starts, in reading order.

    A document of ``num_tokens`` tokens gets ``ceil(num_tokens / length)`` windows: half flush with its beginning, half
    flush with its end and, when the count is odd, one in the middle. Neighbours may overlap around the middle; no
    window is ever short. A document of exactly ``length`` tokens is one window, which Algorithm 1 as printed loses.

    >>> window_starts(25, 10)
    [0, 7, 15]
    >>> window_starts(10, 10), window_starts(9, 10)
    ([0], [])
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if num_tokens < length:
        return []
    count = -(-num_tokens // length)
    head = [i * length for i in range(count // 2)]
    tail = [num_tokens - (i + 1) * length for i in range(count // 2)]
    middle = [(num_tokens - length) // 2] if count % 2 else []
    return head + middle + tail[::-1]


def cut(document: Document, tokenized: Tokenized, length: int) -> list[Window]:
    """The windows of a document; each holds a view of the document's token ids, so nothing is copied.

    A sample is one window of its own length, with its messages in tokens; none if it has no token.
    """
    if document.turns:
        return [_whole(document, tokenized)] if len(tokenized.ids) else []
    windows: list[Window] = []
    end_of_previous = 0
    for start in window_starts(len(tokenized.ids), length):
        windows.append(
            Window(
                doc_id=document.id,
                source=document.source,
                start=start,
                tokens=tokenized.ids[start : start + length],
                char_start=int(tokenized.char_starts[start]),
                char_end=tokenized.char_end(start + length - 1),
                doc_tokens=len(tokenized.ids),
                overlap=max(0, end_of_previous - start),
                file=document.file,
                position=document.position,
            )
        )
        end_of_previous = start + length
    return windows


def _whole(document: Document, tokenized: Tokenized) -> Window:
    """A sample as one window."""
    turns, char_ends = [], tokenized.char_ends
    for turn in document.turns:
        start = int(np.searchsorted(tokenized.char_starts, turn.start, side="left"))
        stop = int(np.searchsorted(char_ends, turn.stop, side="right"))
        turns.append(Turn(turn.role, start, max(start, stop)))
    return Window(
        doc_id=document.id,
        source=document.source,
        start=0,
        tokens=tokenized.ids,
        char_start=0,
        char_end=tokenized.char_end(-1),
        doc_tokens=len(tokenized.ids),
        file=document.file,
        position=document.position,
        turns=tuple(turns),
    )
