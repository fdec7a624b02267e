"""Greedy answers: the most probable token each time, whatever shares the batch, and when they end."""

import json
import shutil

import pytest
import torch

from longattn.errors import ModelError
from longattn.evals.generating import Prompt, load_answerer
from longattn.models import resolve
from longattn.settings import Model

TEXTS = ["The tide comes in twice a day.", "Rain.", "A boat lies on the sand, and nobody knows whose it is."]


@pytest.fixture(scope="module")
def answerer(tiny_model_folder):
    return load_answerer(resolve(Model(name=str(tiny_model_folder))), Model(), longest=128, device="cpu")


def by_hand(answerer, text, count):
    ids = answerer.tokenizer.encode(text).ids.tolist()
    for _ in range(count):
        with torch.inference_mode():
            ids.append(int(answerer.module(torch.tensor([ids])).logits[0, -1].argmax()))
    return answerer.tokenizer.decode(ids[-count:])


def test_answers_are_the_most_probable_tokens_and_the_batch_does_not_matter(answerer):
    together = answerer.answer([Prompt(text) for text in TEXTS], 8)
    assert [one.text for one in together] == [by_hand(answerer, text, 8) for text in TEXTS]
    alone = [answerer.answer([Prompt(text)], 8)[0] for text in TEXTS]
    assert alone == together
    assert [one.num_prompt_tokens for one in together] == [len(text) for text in TEXTS]
    assert {(one.num_tokens, one.ended) for one in together} == {(8, "length")}


def test_an_answer_stops_where_nothing_more_is_needed(answerer):
    whole = by_hand(answerer, TEXTS[0], 8)
    first, second = answerer.answer([Prompt(TEXTS[0], lambda said: len(said) >= 3), Prompt(TEXTS[1])], 8)
    assert first.ended == "answered"
    assert whole.startswith(first.text)
    assert first.num_tokens < 8
    assert (second.text, second.ended) == (by_hand(answerer, TEXTS[1], 8), "length")


@pytest.fixture
def variant(tiny_model_folder, tmp_path):
    def make(post_processor=None, **config):
        folder = tmp_path / "variant"
        shutil.copytree(tiny_model_folder, folder)
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        if post_processor:
            file = folder / "tokenizer.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": post_processor}))
        return resolve(Model(name=str(folder)))

    return make


def test_an_end_token_ends_an_answer_and_is_no_part_of_it(answerer, variant):
    with torch.inference_mode():
        ids = answerer.tokenizer.encode(TEXTS[0]).ids.tolist()
        third = by_hand(answerer, TEXTS[0], 3)[-1:]
    end = int(answerer.tokenizer.encode(third).ids[0])
    other = load_answerer(variant(eos_token_id=end), Model(), longest=128, device="cpu")
    (found,) = other.answer([Prompt(TEXTS[0])], 8)
    assert found.ended == "end"
    assert third not in found.text
    assert found.num_prompt_tokens == len(ids)


def test_a_bos_is_put_before_a_prompt_where_the_tokenizer_does_so_and_only_once(variant):
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"A": {"id": "A", "ids": [32], "tokens": ["A"]}},
    }
    checkpoint = variant(template, bos_token_id=32)
    for model in (Model(), Model(bos=True)):
        assert load_answerer(checkpoint, model, longest=64, device="cpu").beginning == (32,)
    (found,) = load_answerer(checkpoint, Model(), longest=64, device="cpu").answer([Prompt("Rain.")], 1)
    assert found.num_prompt_tokens == 6


def test_no_bos_where_the_tokenizer_has_none_and_none_is_asked_for(answerer):
    assert answerer.beginning == ()


def test_prompts_beyond_the_models_positions_are_refused(tiny_model_folder):
    with pytest.raises(ModelError, match="made for 4096 positions"):
        load_answerer(resolve(Model(name=str(tiny_model_folder))), Model(), longest=4097, device="cpu")
