"""Windows as a folder of ``Dataset.save_to_disk``: mapped into memory where it lies, never read as a whole."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from longattn.export.base import Batch, Format, Written
from longattn.export.parquet import as_table
from longattn.settings import Exporting, fingerprint
from longattn.tables import durable, file_sha256, write_text


@dataclass(frozen=True)
class HuggingFace(Format):
    """Arrow streams beside ``state.json`` and ``dataset_info.json``, as ``datasets.load_from_disk`` reads them."""

    typed: ClassVar[bool] = True

    def write(
        self, folder: Path, schema: pa.Schema, batches: Iterable[Batch], rule: Exporting, vocab_size: int
    ) -> Written:
        """One stream for about every ``rule.file_bytes`` of content."""
        place = folder / "data"
        parts: list[Path] = []
        stream = iter(batches)
        batch = next(stream, None)
        while batch is not None:
            number, path = batch.offset // rule.file_bytes, place / f"part-{len(parts):05d}.arrow"
            with durable(path) as file, pa.ipc.new_stream(file, schema) as writer:
                while batch is not None and batch.offset // rule.file_bytes == number:
                    writer.write_table(as_table(batch.rows, schema))
                    batch = next(stream, None)
            parts.append(path)
        state = {
            "_data_files": [{"filename": path.name} for path in parts],
            # what datasets keeps its results under: other content must have another one
            "_fingerprint": fingerprint([file_sha256(path) for path in parts]),
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": "train",
        }
        info = {"citation": "", "description": "", "homepage": "", "license": rule.license}
        write_text(place / "state.json", json.dumps(state, indent=1))
        features = {field.name: _feature(field.type) for field in schema}
        write_text(place / "dataset_info.json", json.dumps({**info, "features": features}, indent=1))
        return Written([*parts, place / "state.json", place / "dataset_info.json"], {})

    def usage(self, name: str, stems: Mapping[str, str], tokens: Mapping[str, int]) -> str:
        """A folder, not a repository."""
        return (
            f'```python\nfrom datasets import load_from_disk\n\nwindows = load_from_disk("{name}/data")\n```\n\n'
            "The same folder is LLaMA-Factory's `tokenized_path` if it was exported with `--write.labels`."
        )


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A column's type as ``datasets`` writes it."""
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    names = {pa.float64(): "float64", pa.string(): "string", pa.bool_(): "bool"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}
