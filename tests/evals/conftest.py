"""What the tests of tasks share: materials without any model, and a text to hide things in."""

import re

import pytest

from longattn.evals.haystacks import Haystack
from longattn.evals.questions import made_up
from longattn.evals.tasks import Materials
from longattn.evals.wording import OURS
from longattn.evals.words import load_words


def count_pieces(text: str) -> int:
    """About what a subword tokenizer would count: pieces of up to four letters, and signs."""
    return len(re.findall(r"\w{1,4}|[^\w\s]", text))


TEXT = " ".join(
    f"Boat number {i} came in late. Nobody asked where it had been! Was it the fog? The harbour master wrote it down."
    for i in range(120)
)


@pytest.fixture(scope="session")
def materials():
    """Our wording, a harbour's log as haystack, made-up questions."""
    return Materials(
        count_tokens=count_pieces,
        wording=OURS,
        words=load_words(),
        haystack=Haystack("texts", "harbour log", TEXT),
        squad=made_up("squad"),
        hotpot=made_up("hotpot"),
    )
