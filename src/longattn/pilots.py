"""Tables that a scorer needs before it can measure: fitted once per run to a sample of the corpus, and kept."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from longattn import settings
from longattn.asking import look
from longattn.corpus.files import place
from longattn.errors import LongAttnError
from longattn.measuring import Job, cut_unit
from longattn.records import Window, WorkUnit
from longattn.scorers import PilotScorer, Scorer
from longattn.stores import refresh
from longattn.tables import durable
from longattn.tokens import Tokenizer


def with_pilots(job: Job, units: Sequence[WorkUnit], device: str) -> Job:
    """The job with the tables of scorers that need a pilot: read if this run has them, else fitted and written."""
    return replace(job, scorers=tuple(_with_pilot(job, units, device, scorer) for scorer in job.scorers))


def _with_pilot(job: Job, units: Sequence[WorkUnit], device: str, scorer: Scorer) -> Scorer:
    if not isinstance(scorer, PilotScorer) or not scorer.pilot_windows():
        return scorer
    from safetensors.numpy import save

    model = {**settings.plain(job.model), "hash": job.checkpoint.hash}
    facts = {**job.cut_settings, **scorer.measurement(), "model": model}
    path = job.run.root / "pilots" / f"{scorer.name}-{settings.fingerprint(facts)}.safetensors"
    name = str(path.relative_to(job.run.root))
    # on another machine the last bits may differ, and every shard needs the same tables
    with job.run.lock("pilots", wait=True):
        refresh(job.run.root / "manifest.json")
        refresh(path)
        if name in job.run.manifest().get("files", {}) and path.exists():
            job.run.listed(name, "give the same command again")
        else:
            ask = scorer.pilot_ask()
            windows = _sample(job, units, scorer.pilot_windows())
            if not windows:
                raise LongAttnError(f"{scorer.name} needs a sample of windows, and the input has none")
            loaded = job.load_model(device, [ask])
            tables = scorer.fit(windows, [look([ask], loaded, window)[0] for window in windows])
            with job.run.replacing(name), durable(path) as file:
                file.write(save(tables))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return scorer.with_pilot(str(path), digest)


def _sample(job: Job, units: Sequence[WorkUnit], count: int) -> list[Window]:
    """About ``count`` windows from all over the corpus, evenly within each unit; a copy of the corpus gives the same.

    Units are taken in an order that has nothing to do with their names: by the hashes of their places.
    """
    tokenizer = Tokenizer.load(job.checkpoint.tokenizer_file)
    share = max(1, -(-count // max(1, min(len(units), 8))))
    sample: list[Window] = []
    for unit in sorted(units, key=lambda unit: hashlib.sha256(place(unit).encode()).digest()):
        windows = cut_unit(unit, job, tokenizer).windows
        sample += windows[:: max(1, len(windows) // share)][:share]
        if len(sample) >= count:
            break
    return sample[:count]
