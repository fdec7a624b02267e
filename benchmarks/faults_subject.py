"""What ``faults_compared.py`` starts for each that it compares: imports it once, and forks a child for each command.

Runs in the Python of what it tries and needs nothing of longattn, unless that is it.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = 8
WAIT = 0.002
"""Seconds that each document takes."""

name, folder, checkout = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
run = folder / "run"


def ours() -> Callable[[int], None]:
    """longattn: in one go or, for another number of tasks than there are files, in shards; then select."""
    from dataclasses import replace

    from longattn import verbs
    from longattn.recipes import Recipe
    from longattn.scorers import length
    from longattn.settings import Compute, Corpus, Model, Selecting, Windowing

    recipe = Recipe(
        corpus=Corpus(inputs=(str(folder / "corpus"),), unit_bytes=100),
        window=Windowing(length=64),
        model=Model(name=str(folder / "model")),
        scorers=("length",),
        keep=Selecting(weights={"length": 1.0}, share=1.0, max_overlap=1.0),
    )
    measure = length.Length.measure

    def slowly(self: Any, windows: Any, seen: Any) -> Any:
        time.sleep(WAIT * len({window.doc_id for window in windows}))
        return measure(self, windows, seen)

    length.Length.measure = slowly

    def command(tasks: int) -> None:
        here = Compute(workers=0, devices=("cpu",))
        shards = [None] if tasks == FILES else [f"{number}/{tasks}" for number in range(tasks)]
        for shard in shards:
            verbs.measure(recipe, run, replace(here, shard=shard))
        verbs.select(recipe, run)

    return command


def datatrove() -> Callable[[int], None]:
    """datatrove: read, a step, write, each file a task."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    def step(data: Any, rank: int = 0, world_size: int = 1) -> Any:
        for document in data:
            time.sleep(WAIT)
            document.metadata["score"] = len(document.text)
            yield document

    def command(tasks: int) -> None:
        reader = JsonlReader(str(folder / "corpus"), glob_pattern="*.jsonl")
        writer = JsonlWriter(str(run / "out"), output_filename="${rank}.jsonl", compression=None)
        logs = str(run / "logs")
        LocalPipelineExecutor([reader, step, writer], tasks=tasks, workers=1, logging_dir=logs).run()

    return command


def released() -> Callable[[int], None]:
    """The released code's ``process_file``, with stand-ins for tokenizer and model."""
    import torch

    sys.path.insert(0, str(Path(checkout) / "src"))
    module = importlib.import_module("1_inference_dp")
    torch.Tensor.to = lambda self, *where, **how: self  # there is no CUDA

    class Tokenizer:
        bos_token = ""

        def batch_encode_plus(self, batch: list[str], **how: Any) -> dict[str, Any]:
            return {"input_ids": torch.zeros(len(batch), 1), "attention_mask": torch.zeros(len(batch), 1)}

    class Outputs:
        def __init__(self, number: int) -> None:
            self.proportions = self.uniformities = [torch.zeros(number)]

    def model(input_ids: Any, attention_mask: Any) -> Outputs:
        time.sleep(WAIT * len(input_ids))
        return Outputs(len(input_ids))

    def command(tasks: int) -> None:
        documents = []
        for path in sorted((folder / "corpus").iterdir()):
            documents += [json.loads(line) for line in path.read_text().splitlines()]
        data = [{"data_id": document["id"], "content": document["text"]} for document in documents]
        run.mkdir(exist_ok=True)
        module.process_file(data, Tokenizer(), model, 6, str(run / "scores.jsonl"))

    return command


def child(command: Callable[[int], None], job: dict[str, Any]) -> None:
    """One command, in a process of its own, quiet; notes which files were synced."""
    os.setsid()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    synced = os.open(folder / "synced", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    fsync = os.fsync

    def noted(handle: int) -> None:
        fsync(handle)
        state = os.fstat(handle)
        os.write(synced, f"{state.st_ino} {state.st_size}\n".encode())

    os.fsync = noted
    status = 1
    with contextlib.suppress(BaseException):
        command(job["tasks"])
        status = 0
    os._exit(status)


def lose_unsynced() -> None:
    """Cut every file of the run to what was synced of it."""
    sizes: dict[int, int] = {}
    if (folder / "synced").exists():
        for line in (folder / "synced").read_text().splitlines():
            inode, size = map(int, line.split())
            sizes[inode] = max(size, sizes.get(inode, 0))
    for path in run.rglob("*"):
        if path.is_file() and path.stat().st_size > sizes.get(path.stat().st_ino, 0):
            os.truncate(path, sizes.get(path.stat().st_ino, 0))


def main() -> None:
    """Answer jobs, a line each, until there are no more."""
    command = {"longattn": ours, "datatrove": datatrove, "released": released}[name]()
    answers = os.fdopen(os.dup(1), "w")
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        (folder / "synced").unlink(missing_ok=True)
        began = time.monotonic()
        process = os.fork()
        if process == 0:
            child(command, job)
        status = None
        while status is None:
            done, code = os.waitpid(process, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(code)
            elif job["seconds"] is not None and time.monotonic() - began > job["seconds"]:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
                status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            else:
                time.sleep(0.002)
        took = time.monotonic() - began
        if job["power_cut"]:
            lose_unsynced()
        print(json.dumps([status, took]), file=answers, flush=True)


if __name__ == "__main__":
    main()
