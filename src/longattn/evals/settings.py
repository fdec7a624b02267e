"""Settings of evaluations."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """What a checkpoint is asked, and how often."""

    tasks: tuple[str, ...] = ("ruler",)
    """Tasks by name, or all of a kind: ``ruler``, ``niah`` (its 8 with needles), ``threads``, ``biographies``,
    ``collections``; `longattn eval list` shows them."""
    lengths: tuple[int, ...] = (4096,)
    """Tokens of a prompt and its answer, by the model's own tokenizer; 128 and more."""
    samples: int = 100
    """Prompts per task and length; RULER has 500."""
    seed: int = 42
    """RULER's own; another seed makes other prompts."""
    wording: str | None = None
    """Take sentences word for word from here: a checkout of NVIDIA/RULER, or ``lm-eval`` for the installed one."""
    essays: str | None = None
    """The essays that RULER hides needles in: a folder of .txt files, or its PaulGrahamEssays.json."""
    haystack: str | None = None
    """Any other text to hide needles in: a folder of .txt files, a text file, or ``python`` for the language reference
    that Python brings along. Scores are then not comparable with published ones, and the result says so."""
    squad: str | None = None
    """SQuAD 2.0's dev-v2.0.json, for qa_1."""
    hotpot: str | None = None
    """HotpotQA's hotpot_dev_distractor_v1.json, for qa_2."""
    made_up_questions: bool = False
    """Where these files are missing, ask made-up questions on made-up people; the result says so."""


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How answers are generated; none of it is meant to change a score, but rounding may."""

    batch: int = 1
    """Prompts that go through the model together; shorter ones are padded on the left."""
    device: str = "auto"
    """``cpu``, ``cuda:0``, ``mps``; ``auto`` takes a GPU where there is one."""
    threads: int | None = None
    """CPU threads; None leaves it to torch."""
    whole: bool = False
    """Go on to the last token even where all that is scored has been said."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured of held-out text without any task."""

    length: int = 4096
    """Tokens per window."""
    windows: int = 64
    """Most windows to measure; of more, a draw in which every window is as likely as any other."""
    context: int | None = None
    """Least tokens that the short context holds; None is a 16th of the window."""
    late: int | None = None
    """The position from which on tokens count as late; None is half of the window."""
    distance: int | None = None
    """Tokens to the last place of a bigram that make a far repeat; None is a quarter of the window."""
    alpha: float = 2.0
    """LongPPL: least gain of a key token from the long context, in nats."""
    beta: float = -2.0
    """LongPPL: least log-probability of a key token, in nats."""
    resamples: int = 1000
    """Bootstrap samples of documents that an interval is made of."""
    seed: int = 0
    """Another seed draws other windows, and makes other bootstrap samples."""
