"""Steps for a pipeline of datatrove: each of its tasks is a shard of the run.

The local, the Slurm and the Ray executor of datatrove all call a step with the rank of a task and their number::

    from datatrove.executor.local import LocalPipelineExecutor
    from longattn import Recipe
    from longattn.datatrove import LongAttnMeasure, LongAttnSelect

    recipe, run = Recipe(corpus=...), "/shared/run"
    measure = LocalPipelineExecutor([LongAttnMeasure(recipe, run)], tasks=16, logging_dir="/shared/logs/measure")
    select = LocalPipelineExecutor([LongAttnSelect(recipe, run)], depends=measure, logging_dir="/shared/logs/select")
    select.run()

Documents go through the run folder, not through the pipeline: its units are read, retried and resumed by us, and a task
that datatrove starts again finds what the first attempt has done.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from longattn import verbs
from longattn.recipes import Recipe
from longattn.settings import Compute


class LongAttnMeasure(PipelineStep):
    """Measure the task's share of the work units; needs no step before it, and passes on what it is given."""

    name = "LongAttn"
    type = "measure"

    def __init__(self, recipe: Recipe, output: str | Path, compute: Compute | None = None) -> None:
        """``output`` is the run folder, on a file system that all tasks see, or the address of one in a store.

        ``compute`` spreads the work of one task; by default it is all done in the task's own process, on its GPU if it
        has one. Raises ``ValueError`` for one that names a shard or an engine, which are datatrove's to choose.
        """
        super().__init__()
        compute = compute or Compute(workers=0)
        if compute.shard is not None or compute.engine != "embedded":
            raise ValueError("datatrove says which shard a task is: shard and engine must be left as they are")
        self.recipe, self.output, self.compute = recipe, output, compute

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Do the shard ``rank / world_size``, and add its ledger to the statistics of the task."""
        with self.track_time("shard"):
            ledger = verbs.measure(self.recipe, self.output, replace(self.compute, shard=f"{rank}/{world_size}"))
        for label, count in sorted(ledger.items()):
            self.stat_update(label, value=count, unit="shard")
        return data


class LongAttnSelect(PipelineStep):
    """Select, export and report, once all shards are measured: for an executor of one task that depends on theirs."""

    name = "LongAttn"
    type = "select"

    def __init__(self, recipe: Recipe, output: str | Path, *, texts: bool | None = None) -> None:
        """``output`` is the run folder that was measured in; ``texts`` as :func:`longattn.write_report` takes it."""
        super().__init__()
        self.recipe, self.output, self.texts = recipe, output, texts

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Choose over the whole corpus. Raises ``ValueError`` for one of several tasks: no part of it can choose."""
        if world_size != 1:
            raise ValueError(f"selecting is one task over all windows, got {world_size} tasks: set tasks=1")
        with self.track_time("run"):
            selection = verbs.select(self.recipe, self.output)
            verbs.export_selection(self.recipe, self.output)
            verbs.write_report(self.recipe, self.output, texts=self.texts)
        for source, part in selection.sources.items():
            self.stat_update(f"kept.{source}", value=part.kept, unit="run")
        return data
