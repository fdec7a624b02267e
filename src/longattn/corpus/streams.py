"""Streams that the file system library lacks: xz, and any stream with an end to how much comes out of it.

Here and wherever input is read, it is by ``read_buffer``: where pyarrow's ``read`` fails, as it does in a damaged file,
the memory for what was asked for is never given back (as of 26.0.1).
"""

import io
import lzma

import pyarrow as pa

TRUNCATED = "Truncated compressed stream"
"""What the message of the OSError begins with, here and in pyarrow, where a compressed file ends too early."""

# xz -9 needs 65 MiB to be read; pyarrow stops zstd at a window of 128 MiB
_XZ_MEMORY = 256 * 2**20
_XZ_MAGIC = b"\xfd7zXZ\0"
_BLOCK_BYTES = 128 * 2**10


class ExpandsTooMuchError(OSError):
    """More came out of a compressed file than the settings allow."""


class BoundedStream(io.RawIOBase):
    """The bytes of another stream, up to a limit."""

    def __init__(self, source: pa.NativeFile, max_bytes: int) -> None:
        """Reading past ``max_bytes`` raises :class:`ExpandsTooMuchError`."""
        self._source, self._max_bytes, self._num_bytes = source, max_bytes, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes; empty at the end."""
        data = self._source.read_buffer(size).to_pybytes()
        self._num_bytes += len(data)
        if self._num_bytes > self._max_bytes:
            raise ExpandsTooMuchError(
                f"the compressed file grows beyond {self._max_bytes} bytes; if that is meant, raise max_expansion"
            )
        return data

    def close(self) -> None:
        """Close the source too."""
        self._source.close()
        super().close()


class XzStream(io.RawIOBase):
    """The bytes in an xz file of one stream or several, with padding between them.

    The standard library's own reader takes what follows a stream for its end if it is no other stream, be it padding
    or garbage.
    """

    def __init__(self, source: pa.NativeFile) -> None:
        """Nothing is read yet."""
        self._source = source
        self._decoder: lzma.LZMADecompressor | None = None
        self._rest = b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most ``size`` of them; empty at the end.

        Raises OSError for a stream that is cut off or damaged, or that needs more than 256 MiB to be read.
        """
        try:
            while self._begin_stream():
                assert self._decoder is not None
                if self._decoder.needs_input and not self._rest and not self._fill():
                    raise OSError(f"{TRUNCATED}: the file ends inside an xz stream")
                data = self._decoder.decompress(self._rest, size)
                self._rest = self._decoder.unused_data if self._decoder.eof else b""
                if data:
                    return data
        except lzma.LZMAError as error:
            raise OSError(f"xz: {error}") from error
        return b""

    def close(self) -> None:
        """Close the source too."""
        self._source.close()
        super().close()

    def _begin_stream(self) -> bool:
        """Whether there is a stream to read from: the one at hand, or the one after it."""
        if self._decoder is not None and not self._decoder.eof:
            return True
        while self._decoder is not None:
            self._rest = self._rest.lstrip(b"\0")
            if self._rest:
                break
            if not self._fill():
                return False
        if self._rest and not self._rest.startswith(_XZ_MAGIC[: len(self._rest)]):
            # shorter than a header, it would pass for one that is cut off
            raise OSError("xz: what follows a stream is no stream")
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        return True

    def _fill(self) -> bool:
        self._rest = self._source.read_buffer(_BLOCK_BYTES).to_pybytes()
        return bool(self._rest)
