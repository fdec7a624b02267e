"""``README.md`` of a mixture: what is in it, how it is loaded, what the columns mean."""

from typing import TYPE_CHECKING

from longattn.export.card import cell, header, size_category
from longattn.settings import Exporting
from longattn.templating import fill

if TYPE_CHECKING:
    from longattn.mixing.mixing import MixSummary


def mixture_card(summary: "MixSummary", usage: str, rule: Exporting) -> str:
    """A YAML header for the hub, then Markdown for people; ``usage`` is what the format says of its reading."""
    metadata = {
        "pretty_name": rule.push_to or "Training mixture for long contexts",
        "license": rule.license,
        "task_categories": ["text-generation"],
        "size_categories": [size_category(summary.num_windows)],
        "tags": ["long-context", "pre-training", "data-mixture", "longattn"],
    }
    return fill(
        _CARD,
        {"cell": cell, "percent": "{:.2%}".format},
        header=header(metadata),
        summary=summary,
        usage=usage,
        mixture=summary.mixture,
        untied=sum(portion.untied for portion in summary.portions.values()),
    )


_CARD = """---
{{ header }}
---

# Training mixture

{{ summary.num_windows | thousands }} sequences of {{ summary.length | thousands }} tokens,
{{ summary.num_tokens | thousands }} in all, mixed by `longattn` for training on long contexts. The text belongs to its
authors; this card gives no licence that the corpora did not have.

| source | made of | asked | share | sequences | tokens | passes |
| --- | --- | --- | --- | --- | --- | --- |
{%- for name, part in summary.portions.items() %}
| {{ name | cell }} | {{ part.kind }} | {{ part.share_asked | percent }} | {{ part.share | percent }} | {# -#}
{{ part.sequences | thousands }} | {{ part.tokens | thousands }} | {{ "%.2f" | format(part.passes) }} |
{%- endfor %}

Sequences are in one shuffled order (seed {{ mixture.seed }}). A window that was selected is a sequence by itself. Other
documents are packed with the end token ({{ summary.end_token }}) behind each; one that is cut goes on in a later one.
{%- if untied %}

In {{ untied | thousands }} sequences the chunks of several documents were shuffled among each other (Untie the Knots).
{%- endif %}

## How to load it

{{ usage }}
{%- if summary.extra_token %}

Each sequence has one token more than its length: the one that follows.
{%- endif %}
{% if not summary.stems %}
## Columns

| column | meaning |
| --- | --- |
| `sequence`, `source` | number within its source, and the source |
| `documents` | ids of the documents, or windows, that the sequence has a part of |
| `input_ids` | token ids |
{%- if mixture.write.labels %}
| `labels`, `attention_mask` | `input_ids`, with -100 where nothing is to be learned (names of chunks); ones |
{%- endif %}
{%- if mixture.positions %}
| `position_ids` | positions that begin anew with each document |
{%- endif %}
| `boundaries` | the token at which each document begins; of an untied sequence only the first one |
| `untied` | whether chunks of its documents were shuffled |
{% endif %}"""
