"""Corpus text made fit to be looked at: nothing in it hides, or turns around what follows."""

import unicodedata

_KEPT = {"\n", "\t"}
_CONTROL_PICTURES = 0x2400
_DELETE = 0x7F


def visible(text: str) -> str:
    r"""The text with a sign for every character that has none: controls, direction marks, surrogates.

    >>> visible("a\x1b[31m\u202eb\n")
    'a␛[31m⟨U+202E⟩b\n'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _KEPT else _sign(char) for char in text)


def _sign(char: str) -> str:
    code = ord(char)
    if code < ord(" "):
        return chr(_CONTROL_PICTURES + code)
    if code == _DELETE:
        return "␡"
    # other kinds of blanks are harmless and common
    return " " if unicodedata.category(char) == "Zs" else f"⟨U+{code:04X}⟩"
