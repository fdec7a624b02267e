"""Is this installation, this model, this output folder fit for a run: what to look at before hours are spent."""

import importlib.util
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from longattn import settings
from longattn.addresses import is_uri
from longattn.errors import LongAttnError, StoreError
from longattn.locks import holder
from longattn.stores import Store
from longattn.tables import RunFolder, durable

EXTRAS = {
    "models": ("gguf", "huggingface_hub", "safetensors"),
    "torch": ("torch", "transformers", "jaxtyping"),
    "dedup": ("rensa",),
    "fast": ("gigatoken",),
    "figures": ("resvg_py",),
    "ray": ("ray",),
    "datatrove": ("datatrove",),
    "eval": ("lm_eval", "wonderwords", "datasets"),
    "train": ("accelerate", "peft"),
}
"""Packages that each extra brings beside those of others, by the names that they are imported by."""

LITTLE_SPACE = 10 * 2**30
"""Free bytes below which an output folder is worth a warning."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    outcome: Literal["pass", "warn", "fail"]
    found: str
    advice: str = ""
    """What to do about it; empty where there is nothing to do."""


def check_installation() -> Iterator[Finding]:
    """Versions, extras, devices and the kernel that attention runs on."""
    yield Finding("python", "pass", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores")
    yield Finding("longattn", "pass", version("longattn"))
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        install = f"pip install 'longattn[{extra}]'"
        if missing:
            yield Finding(f"extra {extra}", "warn", f"{', '.join(missing)} not installed", install)
        else:
            yield Finding(f"extra {extra}", "pass", ", ".join(f"{one} {_version(one)}" for one in packages))
    if importlib.util.find_spec("torch") is None:
        return
    from longattn.engines import devices

    yield _kernel()
    yield Finding("devices", "pass", ", ".join(devices(settings.Compute())))


def _kernel() -> Finding:
    from longattn.attention import cpu_kernel

    try:
        kernel = cpu_kernel()
    except (ValueError, RuntimeError) as error:
        return Finding("kernel", "fail", str(error), "unset LONGATTN_ISA, or install longattn again")
    if kernel.startswith("blocked"):
        return Finding("kernel", "warn", kernel, "the compiled one is many times faster: install with a C++ compiler")
    return Finding("kernel", "pass", kernel)


def check_model(model: settings.Model, window: int) -> Iterator[Finding]:
    """Whether the model is there, can be understood, and is loaded for windows of this length."""
    from longattn.models import load_model, resolve
    from longattn.tokens import Tokenizer

    try:
        checkpoint = resolve(model)
        yield Finding("model", "pass", f"{checkpoint.name}, hash {checkpoint.hash}")
        tokenizer = Tokenizer.load(checkpoint.tokenizer_file)
        count = len(tokenizer.encode("A text to see whether the tokenizer works.").ids)
        yield Finding("tokenizer", "pass", f"{checkpoint.tokenizer_file.name}: a short sentence has {count} tokens")
        if importlib.util.find_spec("torch") is None:
            yield Finding("weights", "warn", "not looked at without torch", "pip install 'longattn[torch]'")
            return
        loaded = load_model(checkpoint, model, layers=[0], window=window, device="cpu")
        facts = f"{loaded.num_layers} layers, {loaded.vocab_size} tokens, {loaded.max_positions} positions"
        yield Finding("weights", "pass", f"{facts}; the first layer loads and holds finite numbers")
    except (LongAttnError, ValueError, OSError) as error:
        yield Finding("model", "fail", str(error), "choose another --model.name, or put the files right")


def check_output(folder: Path) -> Iterator[Finding]:
    """Whether the folder can be written durably, has room, is free, and holds what was written to it."""
    existed = folder.exists()
    try:
        probe = folder / f".doctor-{secrets.token_hex(4)}"
        with durable(probe) as file:
            file.write(b"a file that is written, synced and renamed")
        probe.unlink()
        yield Finding("output", "pass", f"{folder} can be written and synced")
    except OSError as error:
        yield Finding("output", "fail", f"{folder}: {error.strerror or error}", "choose another --output")
        return
    free = shutil.disk_usage(folder).free
    enough = free >= LITTLE_SPACE
    advice = "" if enough else "tables take little, an export as much as the text that is kept"
    yield Finding("space", "pass" if enough else "warn", f"{free / 2**30:,.1f} GiB free", advice)
    if owner := holder(folder / ".lock"):
        yield Finding("lock", "warn", f"in use by {owner}", "wait for it, or stop it")
    else:
        yield Finding("lock", "pass", "nobody works in it")
    if not existed:
        folder.rmdir()
    elif (folder / "plan.parquet").exists():
        yield from _check_run(folder)


def check_store(address: str) -> Iterator[Finding]:
    """Whether the folder of an object store can be listed, written to and deleted from."""
    name = f"doctor-{secrets.token_hex(4)}"
    try:
        store = Store(RunFolder.at(address).place)
        store.put(b"a file that is written and deleted", name)
        store.delete([name])
        yield Finding("output", "pass", f"{address} can be listed, written to and deleted from")
    except StoreError as error:
        yield Finding("output", "fail", str(error), "put the access right, or choose another --output")


def _check_run(folder: Path) -> Iterator[Finding]:
    """A run in brief: are the files there that its receipts speak of."""
    run = RunFolder(folder)
    try:
        units = [unit.id for unit in run.plan()]
        tables = {name: run.table(name, facts["settings"]) for name, facts in run.manifest().get("tables", {}).items()}
    except (LongAttnError, ValueError) as error:
        yield Finding("run", "fail", str(error), f"longattn verify {folder}")
        return
    for name, table in tables.items():
        written = [unit for unit in units if (table.folder / f"unit-{unit}.json").exists()]
        bad = [unit for unit in written if not table.holds(unit)]
        outcome = "fail" if bad else "pass"
        advice = f"longattn verify {folder}, then measure again" if bad else ""
        yield Finding(f"table {name}", outcome, f"{len(written)} of {len(units)} units, {len(bad)} damaged", advice)


def examine(model: settings.Model, window: int, output: str | Path | None) -> list[Finding]:
    """All of it; a check that cannot be made is a finding too. ``output`` may be an address in a store."""
    checks: list[Callable[[], Iterator[Finding]]] = [check_installation, lambda: check_model(model, window)]
    if output is not None:
        checks.append(lambda: check_store(str(output)) if is_uri(str(output)) else check_output(Path(output)))
    return [finding for check in checks for finding in check()]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
