"""From a declared mixture to a folder of files for a trainer."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import pyarrow as pa

from longattn.addresses import is_uri
from longattn.export.base import Row
from longattn.export.exporting import FORMATS, batches, listed
from longattn.export.hub import push
from longattn.export.staging import replacing
from longattn.export.summary import FILE_NAME, ExportedFile
from longattn.locks import locked
from longattn.measuring import package_versions
from longattn.mixing.card import mixture_card
from longattn.mixing.drawing import Draw, place_of
from longattn.mixing.filling import Filler, Portion
from longattn.mixing.reading import Supply, Vocabulary, draw_documents, draw_windows, recorded_model
from longattn.mixing.shares import Ingredient, apportion, ingredients, largest_total
from longattn.mixing.untying import check as check_untying
from longattn.models import tokenizer_and_end
from longattn.settings import Mixture
from longattn.tables import make_folder, write_json, write_text
from longattn.tokens import Tokenizer

log = logging.getLogger(__name__)

COLUMNS = pa.schema(
    [
        ("sequence", pa.int64()),
        ("source", pa.string()),
        ("documents", pa.list_(pa.string())),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("attention_mask", pa.list_(pa.int8())),
        ("position_ids", pa.list_(pa.int32())),
        ("num_tokens", pa.int32()),
        ("boundaries", pa.list_(pa.int32())),
        ("untied", pa.bool_()),
    ]
)
"""Every column that a mixture of rows can have."""

Progress = Callable[[int, int], None]
"""Told the sequences written so far, and all that there are."""


@dataclass(frozen=True, kw_only=True)
class MixSummary:
    """What a mixture holds; written beside its files under the name of an export's summary, whose fields it has."""

    format: str
    content: str
    num_windows: int
    """Sequences."""
    num_tokens: int
    length: int
    """Tokens of each sequence, without the extra one."""
    windows: Mapping[str, int]
    """Sequences by source."""
    tokens: Mapping[str, int]
    """Tokens by source."""
    extra_token: bool
    tokenizer: str
    """Content hash of the tokenizer."""
    end_token: int
    portions: Mapping[str, Portion]
    """By source: what was asked for, what was reached, and what became of its documents."""
    sha256: str
    """Of all token ids in their order (little-endian, 4 bytes): the same for the same mixture in any format."""
    mixture: Mixture
    versions: Mapping[str, str]
    files: tuple[ExportedFile, ...] = ()
    stems: Mapping[str, str] = field(default_factory=dict)
    """By source, what the names of its files begin with, where sources have files of their own."""


def mix(mixture: Mixture, output: Path, progress: Progress = lambda done, total: None) -> MixSummary:
    """Make a mixture in the folder ``output``, which is replaced as a whole.

    Equal settings and texts give equal bytes, whatever files the texts are in. Raises ``ValueError`` for settings that
    make no sense and for a source with too few tokens, with the numbers; :class:`RunError` for runs that cannot be
    read.
    """
    _check(mixture, output)
    made_of = ingredients(mixture)
    parts = {name: one.part for name, one in made_of.items()}
    vocabulary = _vocabulary(mixture, made_of)
    make_folder(output.parent)
    with locked(output.parent / f".{output.name}.lock"):
        asked = None if mixture.tokens is None else apportion(parts, mixture.tokens // mixture.length)
        supplies = {
            name: _draw(name, one, mixture, vocabulary, output.parent, None if asked is None else asked[name])
            for name, one in made_of.items()
        }
        most = {name: _most(supplies[name], one, mixture.length) for name, one in made_of.items()}
        counts = apportion(parts, largest_total(parts, most)) if asked is None else asked
        _check_supplies(mixture.length, made_of, supplies, counts, most)
        summary = _write(mixture, output, vocabulary, supplies, counts, parts, progress)
    if mixture.write.push_to is not None:
        push(output, mixture.write.push_to, private=mixture.write.push_private)
    return summary


def _check(mixture: Mixture, output: Path) -> None:
    """Raise ``ValueError`` for settings that make no sense, before anything is read."""
    if is_uri(str(output)):
        raise ValueError(f"output must be a local folder, got {output}")
    for name in ("length", "lookahead"):
        if getattr(mixture, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(mixture, name)}")
    if mixture.tokens is not None and mixture.tokens < mixture.length:
        raise ValueError(f"tokens must be at least one sequence of {mixture.length}, got {mixture.tokens}")
    check_untying(mixture.untie)
    rule = mixture.write
    if rule.format not in FORMATS:
        raise ValueError(f"write.format must be one of {', '.join(FORMATS)}, got {rule.format!r}")
    for name in ("carry", "retokenize"):
        if getattr(rule, name):
            raise ValueError(
                f"write.{name} is of single windows, and sequences of a mixture may have several documents"
            )
    if FORMATS[rule.format].tokens_only and (rule.labels or mixture.positions):
        raise ValueError(
            f"write.format={rule.format!r} holds token ids alone; labels and positions need parquet, jsonl or hf"
        )
    if rule.extra_token and not FORMATS[rule.format].takes_extra_token:
        raise ValueError(f"write.format={rule.format!r} cannot be written with extra_token: its samples would drift")


def _vocabulary(mixture: Mixture, made_of: Mapping[str, Ingredient]) -> Vocabulary:
    """The tokenizer and end token that were named, or those of the first run."""
    places = [place for one in made_of.values() for place in one.runs]
    if mixture.model is None and not places:
        raise ValueError("model must name a model or a tokenizer.json where no source is a run")
    name = recorded_model(places[0]) if mixture.model is None else mixture.model
    file, end = tokenizer_and_end(name)
    end = end if mixture.end_token is None else mixture.end_token
    if end is None:
        raise ValueError(f"documents are set apart by an end token, and {name} has none; name one by its id, end_token")
    return Vocabulary(Tokenizer.load(file, "auto"), end)


def _draw(
    name: str, ingredient: Ingredient, mixture: Mixture, vocabulary: Vocabulary, folder: Path, count: int | None
) -> Supply:
    """What a source has, or as much of it as fills ``count`` sequences."""
    with contextlib.closing(Draw(folder, None if count is None else count * mixture.length)) as draw:
        if ingredient.runs:
            return draw_windows(name, ingredient, mixture.length, mixture.seed, vocabulary, draw)
        return draw_documents(name, ingredient, mixture.corpus, mixture.seed, vocabulary, draw)


def _most(supply: Supply, ingredient: Ingredient, length: int) -> int:
    """Sequences that a source can fill, with all passes that it may have."""
    return supply.drawn.num_tokens * ingredient.max_passes // length


def _check_supplies(
    length: int,
    made_of: Mapping[str, Ingredient],
    supplies: Mapping[str, Supply],
    counts: Mapping[str, int],
    most: Mapping[str, int],
) -> None:
    """Raise ``ValueError``, with the numbers, where sources have too few tokens or there would be no sequence."""
    problems = []
    for name, count in counts.items():
        if count > most[name]:
            have, passes = supplies[name].drawn.num_tokens, made_of[name].max_passes
            enough = f", or --passes.{name} {-(-count * length // have)}" if have else ""
            problems.append(
                f"{name} has {have:,} tokens, in {passes} pass{'es' if passes > 1 else ''} {most[name]:,} sequences of "
                f"{length:,}, and {count:,} are asked for (it needs more input, a smaller share{enough})"
            )
    if problems:
        total = largest_total({name: one.part for name, one in made_of.items()}, most)
        raise ValueError("; ".join(problems) + f"; with these shares there is enough for --tokens {total * length}")
    if not sum(counts.values()):
        raise ValueError(f"there is not enough for one sequence of {length} tokens with these shares")


def _write(
    mixture: Mixture,
    output: Path,
    vocabulary: Vocabulary,
    supplies: Mapping[str, Supply],
    counts: Mapping[str, int],
    parts: Mapping[str, Fraction],
    progress: Progress,
) -> MixSummary:
    total = sum(counts.values())
    fillers = {name: Filler(name, supplies[name], counts[name], mixture, vocabulary) for name in counts}
    rule = replace(mixture.write, content="tokens")
    format, schema = FORMATS[rule.format], pa.schema([COLUMNS.field(name) for name in _column_names(mixture)])
    names = [*schema.names, "part_tokens"] if format.tokens_only else schema.names
    digest = hashlib.sha256()

    def rows() -> Iterator[Row]:
        for done, row in enumerate(_shuffled(fillers, counts, mixture.seed), 1):
            digest.update(row["input_ids"].astype("<u4").tobytes())
            yield {name: row[name] for name in names}
            progress(done, total)

    with replacing(output, marker=FILE_NAME) as folder:
        written = format.write(folder, schema, batches(rows(), rule.row_group_bytes), rule, vocabulary.size)
        portions = {name: filler.portion(float(parts[name]), total) for name, filler in fillers.items()}
        summary = MixSummary(
            format=rule.format,
            content=rule.content,
            num_windows=total,
            num_tokens=total * mixture.length,
            length=mixture.length,
            windows=dict(counts),
            tokens={name: count * mixture.length for name, count in counts.items()},
            extra_token=rule.extra_token,
            tokenizer=vocabulary.tokenizer.hash,
            end_token=vocabulary.end_token,
            portions=portions,
            sha256=digest.hexdigest(),
            mixture=mixture,
            versions=package_versions(),
            files=tuple(listed(folder, path) for path in written.files),
            stems=dict(written.stems),
        )
        usage = format.usage(rule.push_to or "path/to/this/folder", summary.stems, summary.tokens)
        write_text(folder / "README.md", mixture_card(summary, usage, rule))
        write_json(folder / FILE_NAME, summary)
    return summary


def _column_names(mixture: Mixture) -> list[str]:
    unwanted = set() if mixture.write.labels else {"labels", "attention_mask"}
    unwanted |= set() if mixture.positions else {"position_ids"}
    return [name for name in COLUMNS.names if name not in unwanted]


def _shuffled(fillers: Mapping[str, Filler], counts: Mapping[str, int], seed: int) -> Iterator[Row]:
    """The sequences of all sources in one order; those of each source in their own, which the draw has shuffled."""
    places = sorted((place_of(seed, name, number), name) for name, count in counts.items() for number in range(count))
    sequences = {name: filler.rows() for name, filler in fillers.items()}
    for _, name in places:
        yield next(sequences[name])
