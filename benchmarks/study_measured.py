"""What the dear parts of the study have measured, in files beside this one: nobody has to measure it again.

``study_measured/<part>/<table>-<hash>.parquet`` holds a table's rows of all units measured: ids of windows, the columns
that the study's scores read, and nulls for all others, which would be many times as large. There is no text in it.
Units are named by the hash of their windows' tokens, tables by that of the settings and the model: what was measured of
another text, or otherwise, is not found by its name, and is measured.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longattn.tables import RunFolder, read_sealed

PLACE = Path(__file__).with_name("study_measured")


def lay_out(folder: Path, part: str) -> None:
    """Write the kept tables of a part into its folder, unit by unit, if the folder is not there yet."""
    if (folder / part).exists():
        return
    run = RunFolder.at(folder / part).below("validity")
    for file in sorted((PLACE / part).glob("*.parquet")):
        rows = pq.read_table(file)
        facts = json.loads(rows.schema.metadata[b"study"])
        table = run.table(facts["table"], facts["settings"])
        for unit in rows["unit"].unique().to_pylist():
            table.commit(unit, rows.filter(pc.field("unit") == unit).drop(["unit"]), {}, facts["versions"])


def keep(folder: Path, part: str, needed: Mapping[str, Collection[str]]) -> None:
    """Add the tables of a part to those kept; ``needed`` are the columns that scores read, by the scorer's name."""
    run = RunFolder.at(folder / part).below("validity")
    for place in sorted((run.root / "tables").glob("*-*")):
        name = place.name.rpartition("-")[0]
        receipts = sorted(place.glob("unit-*.json"))
        if name not in needed or not receipts:
            continue
        settings = {key: value for key, value in read_sealed(place / "settings.json").items() if key != "seal"}
        table, parts = run.table(name, settings), []
        for receipt in receipts:
            unit = receipt.stem.removeprefix("unit-")
            (rows,) = table.read([unit])
            for i, field in enumerate(rows.schema):
                if field.name not in {"window_id", *needed[name]}:
                    rows = rows.set_column(i, field, pa.nulls(len(rows), field.type))
            parts.append(rows.append_column("unit", pa.array([unit] * len(rows), pa.string())))
        facts = {"table": name, "settings": settings, "versions": read_sealed(receipts[-1])["versions"]}
        found = pa.concat_tables(parts).replace_schema_metadata({"study": json.dumps(facts)})
        file = PLACE / part / f"{place.name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            # of a folder that began before they were kept
            before = pq.read_table(file)
            others = before.filter(~pc.field("unit").isin(found["unit"].unique()))
            found = pa.concat_tables([found, others.replace_schema_metadata(found.schema.metadata)])
        pq.write_table(found.combine_chunks(), file, compression="zstd")
        print(f"{part}/{place.name}: {len(receipts)} units")
