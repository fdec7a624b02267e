"""A report's data, made by hand."""

import pytest

from longattn.expressions import Constant
from longattn.records import Reject
from longattn.report import Difference, Effect, Evidence, Example, ReportData, excerpt
from longattn.report.cut import Cut
from longattn.report.data import TableCost
from longattn.report.diff import CHANGES_SCHEMA, Move, Reasons, SourceChange
from longattn.report.evidence import SCORE, SELECTED, Documents, Lengths
from longattn.scorers import LongAttn
from longattn.selection.choices import Correlation, Outcome, Share

BINS = 40


def distribution(low: float, high: float, count: int) -> dict:
    return {
        "count": count,
        "mean": (low + high) / 2,
        "deviation": (high - low) / 4,
        "low": low,
        "high": high,
        "quantiles": {str(p): low + (high - low) * p / 100 for p in (1, 5, 25, 50, 75, 95, 99)},
        "histogram": [count // BINS] * BINS,
    }


def quantity(low: float, high: float) -> dict:
    edges = [low + (high - low) * i / BINS for i in range(BINS + 1)]
    middle = (low + high) / 2
    return {"edges": edges, "scored": distribution(low, high, 80), "kept": distribution(middle, high, 40)}


def source(tokens: int = 327680) -> dict:
    return {
        "windows": 81,
        "tokens": tokens,
        "documents": 9,
        "scored": 80,
        "scored_tokens": tokens,
        "kept": 40,
        "kept_tokens": tokens // 2,
        "kept_documents": 8,
        "cut_score": 0.25,
        "reasons": {"kept": 40, "below_cut": 40, "non_finite": 1},
        "quantities": {
            "score": quantity(-2.0, 2.0),
            "ds": quantity(0.41, 0.45),
            "du": quantity(-6e-8, -2e-8),
            "ds@256": quantity(0.71, 0.75),
            "ds@1024": quantity(0.41, 0.45),
        },
    }


def example(source: str, rank: int, text: str, kept: bool = True) -> Example:
    return Example(
        window_id=f"d{rank}@0",
        doc_id=f"d{rank}",
        source=source,
        start=0,
        num_tokens=4096,
        ds=0.42,
        du=-4e-8,
        score=2.0 - rank,
        rank=rank,
        reason="kept" if kept else "below_cut",
        excerpt=excerpt(text),
    )


def evidence(sources: tuple[str, ...], word: str) -> Evidence:
    """Of 40 kept windows alpha 1 keeps 30, and a scorer called ``word`` 10."""
    keepers = {(SELECTED, SCORE, "alpha 1"): 30, (SELECTED, SCORE, word): 10, ("alpha 1",): 10, (word,): 30}
    shares = [Share(name, frozenset(of), n, 4096 * n) for name in sources for of, n in keepers.items()]
    return Evidence(
        outcome=Outcome(shares, [Correlation(name, SCORE, word, 80, -0.25) for name in sources]),
        effects=[Effect("alpha 1", "--longattn.alpha 1", {"longattn": Constant(0.0)})],
        scorers=[word],
        token_null={name: [2] * BINS for name in sources},
        lengths={
            name: Lengths({5: 10, 50: 20, 95: 30}, {5: 10, 50: 40, 95: 90}, {2: (70, 30), 5: (10, 10)})
            for name in sources
        },
        documents={name: Documents(8, 3, word, 0.3, 4096, 40 * 4096) for name in sources},
        repetition={name: {"new": (0.9, 0.8), word: (0.5, None)} for name in sources},
    )


def validation(sources: tuple[str, ...], word: str) -> dict:
    interval = [0.52, 0.41, 0.63]
    return {
        "window": 4096,
        "model": {"name": word, "hash": "abc"},
        "scorers": {"longattn": {"scorer": "longattn"}, word: {"scorer": "length"}},
        "sources": {name: {"windows": 8, "documents": 8} for name in sources},
        "separations": [
            {"scorer": scorer, "source": name, "control": "spliced-8", "pairs": 8, "documents": 8, "auc": interval}
            for name in sources
            for scorer in ("longattn", word)
        ],
    }


def report_data(word: str = "word", sources: tuple[str, ...] = ("code",)) -> ReportData:
    """A report in which every text that can come from data is, or contains, ``word``."""
    return ReportData(
        manifest={
            "recipe": {
                "corpus": {"text_field": word, "inputs": [word]},
                "window": {"length": 4096},
                "scorers": ["longattn"],
                "settings": {"longattn": {"alpha": 0.5, "distance": None}, "length": {}},
                "keep": {"where": word, "share": 0.5},
            },
            "model": {"name": word, "hash": "abc"},
            "tables": {
                "longattn": {"folder": "longattn-0", "settings": {"measurement": {"layers": [0]}}},
                "windows": {"folder": "windows-0", "settings": {"tokenizer": "def"}},
            },
            "versions": {"longattn": "0.1.0"},
            "ledger": {
                "documents": 12,
                "windowed": 9,
                "too_short": 2,
                "rejected.bad_json": 1,
                "windows": 81,
                "scored.longattn": 80,
                "non_finite.longattn": 1,
            },
            "selection": {"sources": {name: source() for name in sources}, "notes": [word]},
        },
        null={"ds": 0.4035, "du": -5e-8, "ds@256": 0.7, "ds@1024": 0.4035},
        best={name: (example(name, 1, word),) for name in sources},
        borderline={name: (example(name, 40, word), example(name, 41, word, kept=False)) for name in sources},
        worst={name: (example(name, 80, word + " " * 5000 + word, kept=False),) for name in sources},
        windows=[(kind, e) for name in sources for kind, e in more(name, word)],
        cuts={name: Cut(0.25, 0.24, 0, 0.02, 3, None, None) for name in sources},
        evidence=evidence(sources, word),
        validation=validation(sources, word),
        preset={"evidence": {"separations": [calibrated(name, word) for name in sources]}},
        costs=[TableCost("longattn", 80, 8000, 0.1), TableCost(word, 80, 10**7, None)],
        selection_hash="5e1ec7",
        folder=word,
        rejects=(Reject(word, 7, None, "bad_json", word),),
        command=f"longattn run {word}",
    )


def more(source: str, word: str) -> list:
    """Windows without their texts."""
    borderline = [example(source, rank, word, rank < 41) for rank in (39, 40, 41, 42)]
    best, drawn = example(source, 1, word), example(source, 7, word)
    return [("best", best), *(("borderline", e) for e in borderline), ("random", drawn)]


def calibrated(source: str, word: str) -> dict:
    of = [0.9, 0.8, 0.95]
    return {"source": source, "control": word, "calibration": of, "held_out": of}


def difference(word: str = "word") -> Difference:
    """Twenty windows that entered a source called ``word``."""
    numbers = {name: 0.5 for name in CHANGES_SCHEMA.names if name[:5] in ("score", "z_ds_", "z_du_")}
    of = {"source": word, "doc_id": word, "start": 0, "num_tokens": 10, "mover": "DS", "change": "entered"} | numbers
    fates = {"cause": "rank", "reason_a": "below_cut", "reason_b": "kept"}
    source = SourceChange(word, (40, 40), (10, 25), (100, 250), 5, 50, 20, 5, (400, 1000), 200)
    return Difference(
        names=(word, word),
        same_windows=True,
        only=(0, 0),
        sources=[source],
        moves=[Move("kept", None, 5, 50), Move(None, word, 1, 10)],
        reasons=[Reasons("entered", "rank", "DS", 20, 200), Reasons("left", word, None, 5, 50)],
        settings=[(word, word, {word: word}), ("longattn.alpha", 0.5, 1.0)],
        remarks=[word],
        windows=[of | fates | {"window_id": f"{word}@{i}", "rank_a": 100 - i, "rank_b": i} for i in range(20)],
    )


@pytest.fixture
def make_data():
    return report_data


@pytest.fixture
def make_difference():
    return difference


@pytest.fixture(scope="session")
def look_at(tiny_model_folder):
    """Look closely at a text with a tiny model, whose tokens are bytes: ``look_at(text, length=256, ...)``."""
    from dataclasses import replace

    from longattn import settings, verbs
    from longattn.recipes import Recipe

    def look(text: str, length: int = 256, rule: settings.Inspecting | None = None, **longattn):
        model = settings.Model(name=str(tiny_model_folder), allow_extrapolation=True)
        recipe = Recipe(window=settings.Windowing(length=length), model=model)
        recipe = replace(recipe, settings=replace(recipe.settings, longattn=LongAttn(**longattn)))
        return verbs.inspect_text(text, "text.py", recipe, rule or settings.Inspecting())

    return look
