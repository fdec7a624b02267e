"""What can go wrong that a person can put right, as one small tree of exceptions.

A caller's mistake in an argument is a ``ValueError``, a file that is not there a ``FileNotFoundError``; the classes
here are for what the standard library has no word for. The command line prints them as one line, without a traceback.
"""

from pathlib import Path


class LongAttnError(Exception):
    """Base of every error that the package raises on purpose."""


class CorpusError(LongAttnError):
    """The input cannot be used as it is: no file matches, a format is unknown, too many records are bad."""


class ModelError(LongAttnError):
    """The model or tokenizer cannot be used: a refused format, a missing tensor, another kind of attention."""


class RunError(LongAttnError):
    """The run folder cannot be used: in use by another process, damaged, or made with other settings."""


class DamageError(RunError):
    """A file of a run is not as it was written."""

    def __init__(self, path: Path, problem: str) -> None:
        """``problem`` says what shows it."""
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path} is damaged: {self.problem}; delete it and give the command that made it again"


class StoreError(LongAttnError):
    """An object store cannot be used: wrong credentials, no such bucket, no answer after several attempts."""


class PresetError(LongAttnError):
    """The preset cannot be used: not there, damaged, or of another kind."""


def is_fatal(error: BaseException, *, out_of_memory: bool = True) -> bool:
    """Whether an error ends the run because it says nothing of the document in hand: ours, the disk's, Ctrl-C.

    Whether memory running out says something of the document depends on what else was in memory.
    """
    if isinstance(error, MemoryError):
        return out_of_memory
    return isinstance(error, (LongAttnError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit))
