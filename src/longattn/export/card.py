"""The dataset card: what the export holds, how it was selected and how to load it, as the hub reads it."""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import PurePath
from typing import Any

from longattn.export.summary import ExportSummary
from longattn.settings import Exporting
from longattn.templating import fill


def dataset_card(
    summary: ExportSummary,
    rule: Exporting,
    manifest: Mapping[str, Any],
    usage: str,
    figures: Mapping[str, str] | None = None,
) -> str:
    """``README.md`` of an export: a YAML header for the hub, then Markdown for people.

    ``manifest`` is the run's; its sections ``recipe``, ``model``, ``tables`` and ``versions`` are shown,
    without the places of files and models on this machine; ``usage`` is what the format says of its reading.
    ``figures`` are files beside the card, by caption.
    """
    import yaml

    template = resources.files("longattn.export").joinpath("card.md.jinja").read_text(encoding="utf-8")
    recipe = _public(manifest.get("recipe", {}))
    return fill(
        template,
        {"cell": cell},
        card_data=header(_metadata(summary, rule)),
        summary=summary,
        usage=usage,
        carried=bool(rule.carry),
        figures=figures or {},
        facts=_facts(recipe, manifest),
        settings=yaml.safe_dump(recipe, allow_unicode=True) if recipe else "",
    )


def header(metadata: Mapping[str, Any]) -> str:
    """What the hub reads of a card, as YAML; what is None is left out.

    >>> header({"pretty_name": "a: b", "license": None, "tags": ["long-context"]})
    "pretty_name: 'a: b'\\ntags:\\n- long-context"
    """
    # an import that --help can do without
    import yaml

    known = {name: value for name, value in metadata.items() if value is not None}
    return yaml.safe_dump(known, sort_keys=False, allow_unicode=True).strip()


def size_category(rows: int) -> str:
    """The hub's word for a number of rows.

    >>> size_category(999), size_category(1000), size_category(20_000_000)
    ('n<1K', '1K<n<10K', '10M<n<100M')
    """
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    power = max(0, len(str(rows)) - 3)
    if power == 0:
        return "n<1K"
    return f"{names[power - 1]}<n<{names[power]}" if power < len(names) else "n>1T"


def cell(text: object) -> str:
    r"""Text that cannot leave its cell of a Markdown table.

    >>> cell("a|b<i>\nc![d](e)")
    'a\\|b&lt;i> c!\\[d\\](e)'
    """
    visible = "".join(char if char.isprintable() else " " for char in str(text))
    return re.sub(r"[\\|\[\]]", r"\\\g<0>", visible).replace("<", "&lt;").replace("`", "'")


def _metadata(summary: ExportSummary, rule: Exporting) -> dict[str, Any]:
    loadable = summary.format in ("parquet", "jsonl", "jsonl.zst")
    data_files = [{"split": "train", "path": f"data/part-*.{summary.format}"}]
    configs = [{"config_name": "default", "data_files": data_files}]
    return {
        "pretty_name": rule.push_to or "Selected long-context windows",
        "license": rule.license,
        "task_categories": ["text-generation"],
        "size_categories": [size_category(summary.num_windows)],
        "tags": ["long-context", "pre-training", "data-selection", "longattn"],
        # the hub shows and loads these formats by itself; others are downloaded as they are
        **({"configs": configs} if loadable else {}),
    }


def _public(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's settings that had a part in the selection, without where files lie."""
    public = {name: section for name, section in recipe.items() if name != "write"}
    if "corpus" in public:
        public["corpus"] = {
            name: value for name, value in public["corpus"].items() if name not in ("inputs", "manifest")
        }
    if "settings" in public:
        chosen = public.get("scorers", ())
        public["settings"] = {name: of for name, of in public["settings"].items() if name in chosen}
    if "model" in public:
        public["model"] = {**public["model"], "name": _base_name(public["model"]["name"])}
    return public


def _facts(recipe: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader looks for first, by name; what the manifest does not say is left out."""
    weights = recipe.get("keep", {}).get("weights", {})
    windows = manifest.get("tables", {}).get("windows", {}).get("settings", {})
    facts = {
        "scorers": ", ".join(recipe.get("scorers", ())),
        "weights": ", ".join(f"{name} × {weight:g}" for name, weight in weights.items()),
        "model": _base_name(manifest.get("model", {}).get("name", "")),
        "model hash": manifest.get("model", {}).get("hash"),
        "tokenizer hash": windows.get("tokenizer"),
        "window length": windows.get("length"),
    }
    versions = {f"{name} version": version for name, version in manifest.get("versions", {}).items()}
    return {name: fact for name, fact in {**facts, **versions}.items() if fact}


def _base_name(model: str) -> str:
    """A model's name without the folders of a local path."""
    return PurePath(model).name if PurePath(model).is_absolute() else model
