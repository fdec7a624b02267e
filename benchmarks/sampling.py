"""What sampled rows cost and keep: ``python benchmarks/sampling.py``, on text that every machine has.

All rows of every window are measured once. Then, seed by seed, another pilot and other rows are drawn from them by the
code that measures a run, and the best windows of each source are compared with those of all rows. With ``--refine N``
the first N seeds are refined as ``longattn refine`` does, too. Cost is counted in pairs of a query and a key, per head,
relative to all of them.
"""

import argparse
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import numpy.typing as npt

from common import publish
from longattn import refining, settings
from longattn.asking import look
from longattn.expressions import evaluate
from longattn.models import load_model, resolve
from longattn.records import Document, Window
from longattn.scorers import LongAttn, Seen
from longattn.scorers.sampled import Found, Sampling
from longattn.tokens import Tokenizer
from longattn.windows import cut

SHORTEST_MODULE = 15_000
"""Bytes; shorter modules would hardly fill a window."""


def texts(folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Source and text of each document: a module, the topics of the language reference, the texts of a folder."""
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        parts = set(file.relative_to(library).parts)
        if file.stat().st_size >= SHORTEST_MODULE and not parts & {"site-packages", "test", "tests", "pydoc_data"}:
            yield "code", file.read_text(encoding="utf-8", errors="replace")
    yield "docs", "\n".join(text for _, text in sorted(topics.items()))
    for named in folders:
        source, _, path = named.partition("=")
        books: dict[Path, list[str]] = {}
        for file in sorted(Path(path).rglob("*.txt")):
            books.setdefault(file.parent, []).append(file.read_text(encoding="utf-8", errors="replace"))
        for parts in books.values():
            yield source, "\n".join(parts)


def cut_windows(folders: Sequence[str], tokenizer: Tokenizer, length: int, at_most: int) -> list[Window]:
    """Windows of every source, ``at_most`` of each, evenly spread over what there is."""
    found: dict[str, list[Window]] = {}
    for number, (source, text) in enumerate(texts(folders)):
        document = Document(str(number), source, text, "text", number)
        found.setdefault(source, []).extend(cut(document, tokenizer.encode(text), length))
    windows: list[Window] = []
    for of_source in found.values():
        places = np.linspace(0, len(of_source) - 1, min(at_most, len(of_source))).astype(int)
        windows += [of_source[place] for place in np.unique(places)]
    return windows


class Corpus:
    """Windows with the moments of all their rows, and what they say."""

    def __init__(self, windows: Sequence[Window], scorer: LongAttn, model_name: str, length: int) -> None:
        facts = settings.Model(name=model_name)
        model = load_model(resolve(facts), facts, layers=(0,), window=length)
        ask = replace(scorer, rows=0.5).pilot_ask()
        self.windows = windows
        self.sources = np.array([window.source for window in windows])
        self.seen: list[Seen] = []
        for number, window in enumerate(windows):
            self.seen.append(look([ask], model, window)[0])
            if number % 100 == 0:
                sys.stderr.write(f"{number} of {len(windows)} windows measured\n")
        self.heads = self.seen[0].layers[0]["rows"].shape[2]

    def values(self, number: int, first: int) -> npt.NDArray[np.float32]:
        """Mass and square of the rows of one window from ``first`` on [N, H, 2]."""
        return self.seen[number].layers[0]["rows"][0, first:]


def kept(score: npt.NDArray[np.float64], sources: npt.NDArray, share: float) -> npt.NDArray[np.bool_]:
    """The best windows of each source."""
    best = np.zeros(len(score), dtype=bool)
    for source in np.unique(sources):
        places = np.flatnonzero(sources == source)
        best[places[np.argsort(-score[places], kind="stable")[: int(share * len(places))]]] = True
    return best


class Attempt:
    """One seed: a pilot, then draws of rows."""

    def __init__(self, corpus: Corpus, scorer: LongAttn, seed: int, folder: Path) -> None:
        from safetensors.numpy import save_file

        self.corpus = corpus
        random = np.random.default_rng(seed)
        pilot = np.sort(random.choice(len(corpus.windows), scorer.pilot_sample, replace=False))
        tables = scorer.fit([corpus.windows[i] for i in pilot], [corpus.seen[i] for i in pilot])
        file = folder / f"pilot-{scorer.pilot_sample}-{seed}.safetensors"
        save_file(tables, file)
        self.scorer = replace(scorer, seed=seed).with_pilot(str(file), str(seed))
        assert self.scorer.rows is not None
        assert self.scorer.distance is not None
        reach = (self.scorer.distances, 0, self.scorer.backend, self.scorer.distance)
        self.sampling = Sampling(self.scorer.rows, seed, *reach, str(file))
        self.sampled = np.ones(len(corpus.windows), dtype=bool)
        self.sampled[pilot] = False
        self.found: list[Found | None] = [None] * len(corpus.windows)
        self.draw(np.arange(len(corpus.windows)))

    def draw(self, numbers: npt.NDArray[np.int64]) -> None:
        """Draw rows of these windows once more."""
        for number in numbers.tolist():
            rows = self.corpus.values(number, self.scorer.distances[0])

            def values(
                positions: Sequence[npt.NDArray[np.int64]], rows: npt.NDArray[np.float32] = rows
            ) -> list[npt.NDArray[np.float64]]:
                first = self.scorer.distances[0]
                return [rows[one - first, head].astype(np.float64) for head, one in enumerate(positions)]

            window, before = self.corpus.windows[number], self.found[number]
            self.found[number] = self.sampling.estimate(window, 0, self.corpus.heads, values, before)

    def columns(self) -> dict[str, npt.NDArray]:
        """The columns of a table of these windows."""
        parts = []
        for window, found in zip(self.corpus.windows, self.found, strict=True):
            assert found is not None
            layer = {name: np.array([value]) for name, value in found._asdict().items()}
            parts.append(self.scorer.measure([window], Seen({0: layer})))
        return {name: np.concatenate([part[name] for part in parts]) for name in self.scorer.schema()}

    def scores(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Score, standard error and share of pairs of each window."""
        columns, variance = self.columns(), self.scorer.variance_of_score()
        assert variance is not None
        score = evaluate(self.scorer.score(), columns, self.corpus.sources)
        return score, np.sqrt(evaluate(variance, columns, self.corpus.sources)), columns["pairs"]


def compare(attempt: Attempt, exact: npt.NDArray[np.float64], share: float) -> dict[str, dict[str, float]]:
    """By source, and for all: overlap of the kept sets, cost of the windows beyond the pilot, error, coverage."""
    score, error, pairs = attempt.scores()
    sources = attempt.corpus.sources
    ours, right = kept(score, sources, share), kept(exact, sources, share)
    result: dict[str, dict[str, float]] = {}
    for source in (*np.unique(sources), "all"):
        here = (sources == source) | (source == "all")
        drawn = here & attempt.sampled
        missed = np.abs(score - exact)[drawn]
        result[str(source)] = {
            "overlap": float((ours & right & here).sum() / (right & here).sum()),
            "pairs_beyond_pilot": float(pairs[drawn].mean()),
            "pairs_with_pilot": float(pairs[here].mean()),
            "rms_error": float(np.sqrt(np.mean(missed**2))),
            "within_1_se": float(np.mean(missed <= error[drawn])),
            "within_1.96_se": float(np.mean(missed <= 1.96 * error[drawn])),
        }
    return result


def refine(attempt: Attempt, exact: npt.NDArray[np.float64], share: float) -> dict[str, float]:
    """Draw again as refining does, and say what it came to."""
    sources, rounds = attempt.corpus.sources, 0
    while True:
        score, error, pairs = attempt.scores()
        best = kept(score, sources, share)
        selection = {
            "window_id": np.arange(len(score)),
            "doc_id": np.arange(len(score)),
            "source": sources,
            "start": np.zeros(len(score)),
            "num_tokens": np.zeros(len(score)),
            "score": score,
            "score_se": error,
            "reason": np.where(best, "kept", "below_cut"),
        }
        rows = refining.Rows(attempt.columns(), selection, attempt.scorer, settings.Selecting(share=share))
        standings = list(rows.standings())
        doubts = [refining.doubt(standing) for _, standing in standings]
        more = np.zeros(len(score), dtype=bool)
        for (places, standing), doubt in zip(standings, doubts, strict=True):
            more[places] |= refining.wanted(standing, doubt, 0.05 / len(standings))
        risk = sum(doubt.risk for doubt in doubts)
        if risk <= 0.05 or not more.any():
            wrong = int((best & ~kept(exact, sources, share)).sum())
            return {"wrong": wrong, "pairs": float(pairs.mean()), "rounds": rounds, "stated": 1 - risk}
        attempt.draw(np.flatnonzero(more))
        rounds += 1


def summary(results: Sequence[dict[str, float]]) -> dict[str, str]:
    """Mean and standard deviation over seeds, and the extremes."""
    numbers = {name: np.array([result[name] for result in results]) for name in results[0]}
    return {name: f"{x.mean():.3f} ± {x.std():.3f} ({x.min():.3f} to {x.max():.3f})" for name, x in numbers.items()}


def main() -> None:
    """Measure, draw, compare: each figure as mean, deviation, least and most over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", action="append", default=[], help="NAME=PATH: more documents, *.txt below PATH")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--windows", type=int, default=360, help="at most so many of a source")
    parser.add_argument("--rows", type=float, default=0.1, help="share of the pairs that are sampled")
    parser.add_argument("--pilots", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--share", type=float, default=0.125, help="of the windows that is kept")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--refine", type=int, default=0, help="seeds that are refined, too")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()

    scorer = LongAttn(rows=options.rows, distances=(options.length // 4,)).for_length(options.length)
    tokenizer = Tokenizer.load(resolve(settings.Model(name=options.model)).tokenizer_file)
    windows = cut_windows(options.folder, tokenizer, options.length, options.windows)
    corpus = Corpus(windows, scorer, options.model, options.length)
    whole = replace(scorer, rows=None)
    s1, s2 = (np.stack([seen.layers[0]["totals"][0, :, v] for seen in corpus.seen])[:, :, None] for v in (0, 1))
    found = [
        whole.measure([window], Seen({0: {"s1": a[None], "s2": b[None]}}))
        for window, a, b in zip(windows, s1, s2, strict=True)
    ]
    exact = evaluate(
        whole.score(), {name: np.concatenate([one[name] for one in found]) for name in whole.schema()}, corpus.sources
    )
    counts = {str(source): int((corpus.sources == source).sum()) for source in np.unique(corpus.sources)}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in options.pilots:
            results, refined = [], []
            for seed in range(options.seeds):
                attempt = Attempt(corpus, replace(scorer, pilot_sample=size), seed, Path(folder))
                results.append(compare(attempt, exact, options.share))
                if seed < options.refine:
                    refined.append(refine(attempt, exact, options.share))
            for source in results[0]:
                drawn = [result[source] for result in results]
                rows.append({"pilot": size, "drawn": source, "seeds": len(drawn), **summary(drawn)})
            if refined:
                rows.append({"pilot": size, "drawn": "refined", "seeds": len(refined), **summary(refined)})
    publish(rows, options.json, options={**vars(options), "json": None}, windows=counts)


if __name__ == "__main__":
    main()
