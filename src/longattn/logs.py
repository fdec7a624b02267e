"""How log lines look: text for people or one JSON object a line, never with a character that acts on a terminal."""

import json
import logging
import sys
import time
from typing import Literal, NamedTuple

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]


class Style(NamedTuple):
    """What is shown and how; passed on to the processes that a run begins."""

    format: Format = "text"
    level: Level = "info"


_style = Style()


def show_log(style: Style) -> None:
    """Let the package's log lines reach standard error, as it is now."""
    global _style
    _style = style
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if style.format == "json" else OneLine())
    log = logging.getLogger("longattn")
    log.handlers = [handler]
    log.setLevel(style.level.upper())


def style() -> Style:
    """What was last shown and how."""
    return _style


def printable(text: str) -> str:
    """The text with a space for every character that could act on a terminal, such as a direction mark."""
    return "".join(char if char.isprintable() else " " for char in text)


class OneLine(logging.Formatter):
    """The message alone, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Corpus text may be part of a message, so nothing in it is trusted."""
        message = printable(record.getMessage())
        if not record.exc_info:
            return message
        return "\n".join([message, *map(printable, self.formatException(record.exc_info).split("\n"))])


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``process``, ``message``, and what a line adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Numbers that a line is about stand beside its message, under ``facts``."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": printable(record.getMessage()),
        }
        if facts := getattr(record, "facts", None):
            line["facts"] = facts
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
