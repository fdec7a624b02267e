"""Split a stream of bytes into the lines that begin in a range, holding one line at a time."""

from dataclasses import dataclass

import pyarrow as pa

# Where a compressed stream breaks off, what was asked for in one piece is lost in one piece.
_BLOCK_BYTES = 128 * 2**10


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


class Lines:
    """The lines that begin at bytes ``start <= position < stop``.

    ``stream`` must stand at byte ``max(start - 1, 0)``: the byte before ``start`` tells whether a line begins
    there. An iterator rather than a generator, so that no suspended frame holds a line while its document is
    worked on.
    """

    def __init__(self, stream: pa.NativeFile, start: int, stop: int | None, max_bytes: int) -> None:
        self.count = 0
        """Lines seen so far."""
        self.position = max(start - 1, 0)
        """Where the next line begins."""
        self._start, self._stop, self._max_bytes = start, stop, max_bytes
        self._stream = stream
        self._block, self._used = b"", 0

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> Line:
        if self.position < self._start:
            self.position += self._read(0)[0]
        if self._stop is not None and self.position >= self._stop:
            raise StopIteration
        num_bytes, data = self._read(self._max_bytes)
        if num_bytes == 0:
            raise StopIteration
        self.count += 1
        line = Line(self.position, self.count, num_bytes, data)
        self.position += num_bytes
        return line

    def _read(self, max_bytes: int) -> tuple[int, bytearray | None]:
        """Length of the next line (0 at the end) and its bytes, unless they are too many."""
        num_bytes, data = 0, bytearray()
        while self._more():
            end = self._block.find(b"\n", self._used) + 1 or len(self._block)
            num_bytes += end - self._used
            if num_bytes > max_bytes:
                data.clear()
            else:
                data += memoryview(self._block)[self._used : end]
            self._used = end
            if self._block[end - 1] == ord("\n"):
                break
        return num_bytes, data if num_bytes <= max_bytes else None

    def _more(self) -> bool:
        if self._used == len(self._block):
            self._block, self._used = self._stream.read(_BLOCK_BYTES), 0
        return bool(self._block)
