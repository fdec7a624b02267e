"""Structured changes of files, as damage and malice make them."""

import random

TOKENS = [
    b"",
    b"\n",
    b"{",
    b"[" * 300,
    b'"',
    b"\\u",
    b"\xff",
    b"\0" * 64,
    b"\xff" * 8,
    b"\x80\x80\x80\x80\x10",
    b"1e999",
]


def mutated(data: bytes, random: random.Random) -> bytes:
    """The data with one to four changes: bits, bytes, pieces taken away, doubled, moved or put in."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at, to = sorted(random.choices(range(len(changed) + 1), k=2))
        to = min(to, at + random.choice([1, 4, 64, 4096]))
        match random.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << random.randrange(8)
            case 1:
                changed[at:to] = random.randbytes(to - at)
            case 2:
                del changed[at:to]
            case 3:
                changed[at:at] = changed[at:to]
            case 4:
                changed[at:to] = bytes(to - at)
            case _:
                changed[at:at] = random.choice(TOKENS)
    return bytes(changed)
