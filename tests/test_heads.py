"""Retrieval heads: prompts as they should be, and a model built so that one known head copies."""

import json
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pytest
import torch

from longattn import cli, heads, settings
from longattn.errors import ModelError
from longattn.heads import copied_share, make_needle, make_prompt, retrieval_heads
from longattn.models import resolve
from longattn.models.base import LayerAttention, Model, Predictions
from longattn.settings import Needles
from longattn.tokens import Tokenizer

LAYERS, HEADS = 2, 3


class Copier(Model):
    """Answers right at the depths it is told; head 1 of layer 1 attends to the needle's next token, head 2 to the one
    after that, all others to the first token of all."""

    rights: Sequence[bool]

    def queries_and_keys(self, tokens, layers, visit, rows=None):
        raise NotImplementedError("nobody asks")

    def predictions(self, tokens, first=1, *, masked_heads=frozenset(), layers=(), visit=None, rows=None):
        T, num_asked = tokens.shape[1], tokens.shape[1] - first
        needle = self.find(tokens[0], first)
        # keys are told apart by a direction each
        k = torch.eye(T)[None, :, None]
        for layer in layers:
            q = torch.zeros(1, num_asked, HEADS, T)
            q[:, :, :, 0] = 1.0
            if layer == 1:
                for n in range(num_asked):
                    q[0, n, 1:] = 0.0
                    q[0, n, 1, needle + n] = 1.0
                    q[0, n, 2, needle + n + 1] = 1.0
            visit(LayerAttention(layer, q, k, 1.0, rows))
        right = self.answers.pop(0)
        return Predictions(torch.zeros(1, num_asked), torch.tensor([[right] + [True] * (num_asked - 1)]))

    @staticmethod
    def find(tokens, first):
        """Where the answer stands within the needle: the first place of the tokens that the prompt ends with."""
        text, asked = tokens.tolist(), tokens[first - 6 :].tolist()
        return next(i for i in range(len(text)) if text[i : i + len(asked)] == asked) + 6


def copier(answers):
    model = Copier(
        name="copier",
        hash="0",
        num_layers=LAYERS,
        vocab_size=256,
        max_positions=4096,
        window=4096,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    object.__setattr__(model, "answers", list(answers))
    return model


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder):
    return Tokenizer.load(resolve(settings.Model(name=str(tiny_model_folder))).tokenizer_file)


@pytest.fixture(scope="module")
def haystack(tokenizer):
    return tokenizer.encode("In some texts far tokens matter, in others not at all. " * 40).ids


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_a_prompt_has_the_needle_at_its_depth_and_asks_for_it_at_its_end(tokenizer, haystack, depth):
    prompt = make_prompt(np.random.default_rng(1), tokenizer, haystack, 400, depth)
    needle = make_needle(np.random.default_rng(1), tokenizer)
    assert len(prompt.tokens) == 400
    answer = prompt.tokens[prompt.answer :]
    assert np.array_equal(prompt.tokens[prompt.needle : prompt.needle + len(answer)], answer)
    text = tokenizer.decode(needle.tokens)
    assert tokenizer.decode(prompt.tokens).count(text) == 1
    assert text == f"{tokenizer.decode(needle.tokens[: needle.first])}{tokenizer.decode(answer)}.\n\n"
    # the end is the needle up to its answer, word for word
    assert np.array_equal(prompt.tokens[-needle.stop :], needle.tokens[: needle.stop])
    filling = 400 - len(needle.tokens) - needle.stop
    assert prompt.needle - needle.first == round(depth * filling)


def test_no_token_of_a_code_comes_twice_in_it(tokenizer):
    draw = np.random.default_rng(0)
    for _ in range(50):
        needle = make_needle(draw, tokenizer)
        answer = tokenizer.decode(needle.tokens[needle.first : needle.stop]).split()
        assert len(answer) == 3 or (len(answer[0]) == 5 and answer[0].isdigit())
        assert len(set(answer[0] if answer[0].isdigit() else answer)) == len(answer[0] if len(answer) == 1 else answer)


def test_the_head_that_attends_to_the_next_token_of_the_needle_copies(tokenizer, haystack):
    prompt = make_prompt(np.random.default_rng(2), tokenizer, haystack, 300, 0.5)
    answer = prompt.tokens[prompt.answer :]
    share = copied_share(copier([True]), prompt)
    # one further on is a copy only where the code has the same byte twice in a row; the last one has left the code
    neighbours = np.mean([*(answer[1:] == answer[:-1]), False])
    assert share.tolist() == [[0, 0, 0], [0, 1, pytest.approx(neighbours)]]


def test_only_prompts_answered_right_count(tokenizer, haystack):
    asked = Needles(lengths=(200, 300), depths=2, prompts=2)
    found = retrieval_heads(copier([True, False, False, False, True, True, False, True]), tokenizer, haystack, asked)
    assert [(c.length, c.depth, c.prompts, c.right) for c in found.cells] == [
        (200, 0.0, 2, 1),
        (200, 1.0, 2, 0),
        (300, 0.0, 2, 2),
        (300, 1.0, 2, 1),
    ]
    assert found.scores[1, 1] == 1
    assert found.best()[0] == (1, 1, 1.0)
    assert len(found.best()) == LAYERS * HEADS
    with pytest.raises(ModelError, match="answered none of 8 prompts"):
        retrieval_heads(copier([False] * 8), tokenizer, haystack, asked)


def test_prompts_are_the_same_for_the_same_seed_whatever_else_is_asked(tokenizer, haystack, monkeypatch):
    seen: dict[int, list] = {}

    def keep(model, prompt):
        seen.setdefault(len(prompt.tokens), []).append(prompt.tokens.tolist())
        return np.zeros((LAYERS, HEADS))

    monkeypatch.setattr(heads, "copied_share", keep)
    retrieval_heads(copier([]), tokenizer, haystack, Needles(lengths=(200, 300), depths=2, prompts=2))
    both, seen = seen, {}
    retrieval_heads(copier([]), tokenizer, haystack, Needles(lengths=(300,), depths=2, prompts=2))
    assert both[300] == seen[300]
    assert len({tuple(tokens) for tokens in both[300]}) == 4
    seen = {}
    retrieval_heads(copier([]), tokenizer, haystack, Needles(lengths=(300,), depths=2, prompts=2, seed=1))
    assert not set(map(tuple, both[300])) & set(map(tuple, seen[300]))


def test_what_has_no_room_is_said(tokenizer, haystack):
    with pytest.raises(ValueError, match="lengths must be over"):
        make_prompt(np.random.default_rng(1), tokenizer, haystack, 40, 0.5)
    with pytest.raises(ValueError, match="need a longer text"):
        retrieval_heads(copier([]), tokenizer, haystack[:100], Needles(lengths=(200,)))


def test_the_verb_writes_a_preset_of_the_heads_that_copy(tiny_model_folder, tmp_path, monkeypatch, capsys):
    """A random model answers nothing, so its answers are counted as right here; scores are then of its real maps."""
    original = heads.copied_share

    def generous(model, prompt):
        class Kind(type(model)):
            def predictions(self, *arguments, **options):
                found = model.predictions(*arguments, **options)
                return found._replace(hits=torch.ones_like(found.hits))

        facts = {field.name: getattr(model, field.name) for field in fields(model)}
        return original(Kind(**facts), prompt)

    command = ["heads", "-o", str(tmp_path / "heads.json"), "--model.name", str(tiny_model_folder), "--device", "cpu"]
    command += ["--needles.lengths", "150", "--needles.lengths", "200", "--needles.depths", "2"]
    assert cli.launch([*command, "--needles.prompts", "1"]) == 1
    assert "answered none of 4 prompts" in capsys.readouterr().err
    monkeypatch.setattr(heads, "copied_share", generous)
    assert cli.launch([*command, "--needles.prompts", "1"]) == 0
    shown = capsys.readouterr().out
    assert "      200  1/1  1/1" in shown
    preset = json.loads((tmp_path / "heads.json").read_bytes())
    every = {(n, h): score for n, row in enumerate(preset["evidence"]["scores"]) for h, score in enumerate(row)}
    assert len(every) == 8
    above = sorted((-score, place) for place, score in every.items() if score > 0.1)
    assert preset["heads"] == [[*place, -score] for score, place in above]
    assert preset["model"] == resolve(settings.Model(name=str(tiny_model_folder))).hash
    assert preset["evidence"]["needles"]["lengths"] == [150, 200]
