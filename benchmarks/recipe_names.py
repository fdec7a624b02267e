"""Are the settings that ``longattn recipe`` prints known to the stacks, in the releases that it names?

``python benchmarks/recipe_names.py FOLDER`` downloads the wheels of these releases into FOLDER and looks up every key
of the YAML, and every import, attribute and keyword of the Python, in their sources; nothing of them is installed or
run.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from longattn.templates import Stack
from longattn.templates.stacks import STACKS, render
from longattn.testing import tiny_checkpoint
from longattn.train.settings import Training

WHEELS: dict[Stack, tuple[str, ...]] = {
    "megatron-bridge": ("megatron-bridge==0.3.1", "megatron-core==0.16.1"),
    "torchtitan": ("torchtitan==0.3.0",),
    "axolotl": ("axolotl==0.19.0",),
    "llamafactory": ("llamafactory==0.9.5",),
}
"""``hf`` is tested against the installed transformers."""
ROOTS = {"cfg", "config", "layer"}
"""Variables of the printed Python whose attributes are settings."""


def main(folder: Path) -> None:
    """Check every stack and print what was compared."""
    failed = False
    model = tiny_checkpoint(folder / "model", max_position_embeddings=65536)
    for stack, wheels in WHEELS.items():
        sources = [source for wheel in wheels for source in read(folder, wheel)]
        text = render(stack, data(folder, stack), str(model), Training())
        names, unknown = check(stack, text, sources)
        failed |= bool(unknown)
        print(f"{stack:<16} {' '.join(wheels):<48} {names} names, unknown: {', '.join(unknown) or 'none'}")
    sys.exit(failed)


def read(folder: Path, wheel: str) -> Iterator[ast.Module]:
    """The modules of a release."""
    place = folder / wheel
    if not place.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), wheel]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    with zipfile.ZipFile(next(place.glob("*.whl"))) as archive:
        for name in archive.namelist():
            if name.endswith(".py"):
                yield ast.parse(archive.read(name))


def check(stack: str, text: str, sources: list[ast.Module]) -> tuple[int, list[str]]:
    """How many names were looked up, and those that no module of the release defines."""
    known = set(defined(sources))
    if stack == "llamafactory":
        import dataclasses

        from transformers import TrainingArguments

        # its arguments are those of transformers and its own
        known |= {field.name for field in dataclasses.fields(TrainingArguments)}
    found = set(keys(yaml.safe_load(text))) if stack in ("axolotl", "llamafactory") else set(used(text))
    return len(found), sorted(found - known)


def defined(sources: list[ast.Module]) -> Iterator[str]:
    """Fields, attributes, functions, classes and parameters."""
    for node in (node for source in sources for node in ast.walk(source)):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.Dict(keys=names):
                # what a function passes on to another by name
                yield from (
                    name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)
                )


def keys(value: object) -> Iterator[str]:
    """All keys of nested mappings."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from keys(item)


def used(text: str) -> Iterator[str]:
    """What the Python imports from the stack, sets on its settings, and passes to its classes."""
    tree = ast.parse(text)
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and re.match("megatron|torchtitan", node.module or ""):
            imported |= {alias.name for alias in node.names}
    yield from imported
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if root(node) in ROOTS:
                yield name
            case ast.Call(func=func, keywords=keywords) if root(func) in imported:
                yield from (keyword.arg for keyword in keywords if keyword.arg)


def root(node: ast.expr) -> str | None:
    """The variable that a chain of attributes begins with."""
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def data(folder: Path, stack: str) -> Path:
    """What a stack reads, as far as its summary goes."""
    needs, place = STACKS[stack], folder / f"data-{stack}"
    (place / "data").mkdir(parents=True, exist_ok=True)
    summary = {
        "format": needs.formats[0],
        "num_windows": 6400,
        "num_tokens": 6400 * 32768,
        "tokens": {"books": 6400 * 32768},
        "stems": {"books": "000-books"},
        "extra_token": needs.extra_token,
        "portions": {"books": {"kind": "documents"}},
    }
    (place / "export.json").write_text(json.dumps(summary))
    (place / "data" / "dataset_info.json").write_text(json.dumps({"features": {"input_ids": {}, "labels": {}}}))
    return place


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
