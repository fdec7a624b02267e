"""Split a stream of bytes into the lines that begin in a range, holding one line at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

# Where a compressed stream breaks off, what was asked for in one piece is lost in one piece.
_BLOCK_BYTES = 128 * 2**10
_NEWLINE = ord("\n")


@dataclass(slots=True)
class Line:
    """One line with its line break."""

    position: int
    """Byte offset of its beginning in the (uncompressed) file."""
    number: int
    """1-based, counted from the start of the range."""
    num_bytes: int
    data: bytearray | None
    """None for a line of more than the allowed bytes, which was passed over without being held."""


class Lines(Iterator[Line]):
    """The lines that begin at bytes ``start <= position < stop``.

    ``stream`` must stand at byte ``max(start - 1, 0)``: the byte before ``start`` tells whether a line begins
    there. No generator, whose frame would hold on to a line while its document is worked on.
    """

    def __init__(self, stream: pa.NativeFile, start: int, stop: int | None, max_bytes: int) -> None:
        """Nothing is read yet; lines of more than ``max_bytes`` will come without their data."""
        self.count = 0
        """Lines seen so far."""
        self.position = max(start - 1, 0)
        """Where the next line begins."""
        self._stream, self._start, self._stop, self._max_bytes = stream, start, stop, max_bytes
        self._block, self._used = b"", 0

    def __next__(self) -> Line:
        """The next line, if it begins before ``stop``."""
        if self.position < self._start:
            self._skip()
        if self._at_stop():
            raise StopIteration
        num_bytes, data = 0, bytearray()
        while piece := self._piece():
            num_bytes += len(piece)
            if num_bytes > self._max_bytes:
                data.clear()
            else:
                data += piece
            if piece[-1] == _NEWLINE:
                break
        if num_bytes == 0:
            raise StopIteration
        self.count += 1
        line = Line(self.position, self.count, num_bytes, data if num_bytes <= self._max_bytes else None)
        self.position += num_bytes
        return line

    def _skip(self) -> None:
        """Pass over the line that began before ``start``, but not beyond ``stop``: it may be very long."""
        while not self._at_stop() and (piece := self._piece()):
            self.position += len(piece)
            if piece[-1] == _NEWLINE:
                return

    def _at_stop(self) -> bool:
        return self._stop is not None and self.position >= self._stop

    def _piece(self) -> memoryview:
        """The bytes up to the next line break or the end of the block; empty at the end of the stream."""
        if self._used == len(self._block):
            self._block, self._used = self._stream.read_buffer(_BLOCK_BYTES).to_pybytes(), 0
        begin = self._used
        self._used = self._block.find(b"\n", begin) + 1 or len(self._block)
        return memoryview(self._block)[begin : self._used]
