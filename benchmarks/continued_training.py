"""A model trained on selected windows, killed on the way: does the loss fall, and is the curve that of a quiet run?

::

    python benchmarks/continued_training.py --folder DEMO               # SmolLM2 on windows of 4,096 tokens
    python benchmarks/continued_training.py --run RUN --model MODEL     # a run that is there, with its model

Without ``--run`` the run is that of ``longattn quickstart``. Of each source the best windows are exported and trained
on, one to a step, several times over. One training is left alone. The other gets ``kill -9`` in the middle of a step,
and the same command again. Nothing is printed unless their metrics are the same, byte for byte.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from common import publish

CLI = (sys.executable, "-m", "longattn")


def main() -> None:
    """Make the run, train twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("continued"), help="where everything is written")
    parser.add_argument("--run", type=Path, help="a measured run; it is copied")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--windows", type=int, default=4, help="of each source")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--kill-after", type=int, default=5, help="steps that are logged before the kill")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("flags", nargs="*", help="for longattn train, behind --; in place of LoRA at 5e-4 in bfloat16")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    if options.run is None:
        subprocess.run([*CLI, "quickstart", str(options.folder)], check=True, stdout=sys.stderr)
    run = shutil.copytree(options.run or options.folder / "run", options.folder / "few")
    subprocess.run([*CLI, "select", str(run), "--keep.count", str(options.windows)], check=True, stdout=sys.stderr)
    subprocess.run([*CLI, "export", str(run), "--write.content", "tokens"], check=True, stdout=sys.stderr)
    facts = json.loads((run / "export" / "export.json").read_text())
    length, windows = facts["num_tokens"] // facts["num_windows"], facts["num_windows"]
    command = [*CLI, "train", str(run), "--model.name", options.model, "--threads", options.threads]
    command += ["--train.batch-tokens", str(length), "--train.tokens", str(length * windows * options.passes)]
    lora = ["--train.lora-rank", "8", "--train.learning-rate", "5e-4", "--train.precision", "bfloat16"]
    command += ["--train.save-every", "2", *(options.flags or lora)]
    quiet, killed = options.folder / "quiet", options.folder / "killed"
    subprocess.run([*command, "--output", str(quiet)], check=True, stdout=sys.stderr)
    lines = kill([*command, "--output", str(killed)], killed / "metrics.jsonl", options.kill_after)
    subprocess.run([*command, "--output", str(killed)], check=True, stdout=sys.stderr)
    metrics = (quiet / "metrics.jsonl").read_bytes()
    assert metrics == (killed / "metrics.jsonl").read_bytes(), "the killed training came to another curve"
    losses = [json.loads(line)["loss"] for line in metrics.splitlines()]
    timed = [json.loads(line) for line in (quiet / "timings.jsonl").read_text().splitlines()]
    seconds = sum(one["seconds"] for one in timed if "seconds" in one) / len(losses)
    rows = []
    for number in range(options.passes):
        part = losses[number * windows : (number + 1) * windows]
        rows.append({"pass": number + 1, "windows": windows, "tokens": length, "mean_loss": sum(part) / windows})
    publish(
        rows,
        options.json,
        command=command,
        losses=losses,
        killed_after_lines=lines,
        seconds_of_a_step=round(seconds, 1),
    )


def kill(command: list[str], metrics: Path, after: int) -> int:
    """Begin a training and kill it once it has logged ``after`` steps; returns how many it had."""
    process = subprocess.Popen(command, stdout=sys.stderr)
    while (lines := metrics.read_text().count("\n") if metrics.exists() else 0) < after:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.wait()
    return lines


if __name__ == "__main__":
    main()
