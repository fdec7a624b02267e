"""What is read of a config.json, and what another base makes of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.errors import ModelError
from longattn.train.rope import (
    base_of,
    bases,
    entropy_scale,
    inverse_frequencies,
    read_rope,
    suggest_base,
    with_base,
)

PLAIN = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_the_suggestion_is_the_rule_by_hand():
    """5e5 · 4^(128/126) = 2.0445e6, rounded up to two digits."""
    exact = 500_000 * 4 ** (128 / 126)
    assert math.isclose(exact, 2.0445e6, rel_tol=1e-4)
    assert suggest_base(500_000.0, 8192, 32768, 128) == 2_100_000


@given(st.floats(2e3, 1e7), st.integers(64, 2**17), st.integers(1, 64), st.sampled_from([4, 16, 64, 96, 128, 256]))
def test_the_slowest_pair_turns_no_further_than_it_did(base, old, times, dims):
    """What the rule is made for; rounding up errs on this side."""
    new = old * times
    suggested = suggest_base(base, old, new, dims)
    before, after = (inverse_frequencies(b, dims)[-1] * n for b, n in ((base, old), (float(suggested), new)))
    assert after <= before * (1 + 1e-9)
    assert suggested <= 1.11 * base * times ** (dims / (dims - 2))


@pytest.mark.parametrize(
    ("change", "generation", "base"),
    [
        ({}, "transformers 4", 500_000.0),
        ({}, "transformers 5", 500_000.0),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 5e6}}, "transformers 4", 10_000.0),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 5e6}}, "transformers 5", 5e6),
        ({"rope_parameters": {"rope_theta": 5e6}}, "transformers 5", 5e6),
        # rope_scaling is preferred to rope_parameters
        ({"rope_scaling": LLAMA31, "rope_parameters": {"rope_theta": 5e6}}, "transformers 5", 500_000.0),
    ],
)
def test_generations_read_different_keys(change, generation, base):
    assert bases({**PLAIN, **change})[generation] == base


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 500000.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        {"rope_theta": 500000.0, "rope_parameters": {"rope_theta": 500000.0}},
        {"rope_theta": 500000.0, "rope_scaling": None},
        {"rope_theta": 500000.0, "rope_scaling": LLAMA31},
        {"rope_parameters": {**LLAMA31, "rope_theta": 500000.0}},
        {"rope_parameters": {"rope_theta": 500000.0, "partial_rotary_factor": 0.5}},
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_every_generation_reads_the_new_base(spelling, keep):
    plain = {key: value for key, value in PLAIN.items() if key != "rope_theta"}
    edited = with_base({**plain, **spelling, "other": [1]}, 2.1e6, 32768, keep_scaling=keep)
    assert set(bases(edited).values()) == {2.1e6}
    assert edited["max_position_embeddings"] == 32768
    assert edited["other"] == [1]
    before, after = read_rope({**plain, **spelling}), read_rope(edited)
    assert after.dims == before.dims
    assert after.kind == (before.kind if keep else "default")
    assert after.positions == (before.positions if keep and before.scaling else 32768)


def test_a_kept_scaling_is_spelled_for_both_generations():
    """Early transformers 4 knows it as type, and warns of a base within rope_scaling."""
    edited = with_base({**PLAIN, "rope_scaling": {**LLAMA31, "type": "llama3"}}, 2.1e6, 131072, keep_scaling=True)
    assert edited["rope_scaling"] == {**LLAMA31, "type": "llama3"}
    assert edited["rope_parameters"] == {**LLAMA31, "rope_theta": 2.1e6}


def test_the_old_length_of_phi_3_stands_beside_its_scaling():
    longrope = {"type": "longrope", "short_factor": [1.0] * 64, "long_factor": [2.0] * 64}
    config = {**PLAIN, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
    rope = read_rope({**config, "rope_scaling": longrope})
    assert (rope.positions, rope.limit) == (4096, 131072)
    assert suggest_base(rope.base, rope.positions, 32768, rope.dims) == 4_200_000
    assert read_rope(with_base({**config, "rope_scaling": longrope}, 4.2e6, 32768)).positions == 32768


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"rope_type": "linear", "factor": 4.0},
        LLAMA31,
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192},
    ],
)
def test_the_base_of_a_table_is_found_in_it(scaling):
    """As transformers makes it: plain, scaled as a whole, or scaled where it turns slowly."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = with_base({**PLAIN, "rope_scaling": scaling}, 2.1e6, 32768, keep_scaling=True)
    table = LlamaRotaryEmbedding(LlamaConfig(**config)).inv_freq.numpy()
    assert base_of(table, read_rope(config)) == pytest.approx(2.1e6, rel=1e-3)


def test_a_head_of_few_dimensions_does_not_tell_the_base_of_a_scaled_table():
    config = with_base({**PLAIN, "head_dim": 4, "rope_scaling": LLAMA31}, 2.1e6, 32768, keep_scaling=True)
    assert base_of(np.array([1.0, 1e-4]), read_rope(config)) is None


def test_a_part_of_a_head_is_spelled_for_both_generations():
    config = {**PLAIN, "rope_theta": None, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}
    edited = with_base(config, 1e6, 32768)
    assert edited["partial_rotary_factor"] == edited["rope_parameters"]["partial_rotary_factor"] == 0.5
    assert read_rope(edited).dims == 64


def test_a_file_without_a_base_has_that_of_its_class():
    bare = {key: value for key, value in PLAIN.items() if key != "rope_theta"}
    assert read_rope(bare).base == 10_000
    with pytest.raises(ModelError, match="'gpt_neox' names no base"):
        read_rope({**bare, "model_type": "gpt_neox"})


def test_the_default_base_is_that_of_the_classes():
    pytest.importorskip("transformers")
    from transformers import CONFIG_MAPPING

    from longattn.train.rope import DEFAULT_BASE, DEFAULT_BASE_OF

    for kind in sorted(DEFAULT_BASE_OF):
        assert CONFIG_MAPPING[kind]().rope_parameters["rope_theta"] == DEFAULT_BASE, kind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_parameters": {"rope_theta": 1e4}}, r"several bases, \[10000.0, 500000.0\]"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "kinds of layers"),
        ({"text_config": {}}, "kinds of layers"),
        ({"rope_local_base_freq": 1e4}, "two bases"),
        ({"head_dim": 2}, "only 2 dimensions"),
    ],
)
def test_what_one_base_cannot_describe_is_refused(change, message):
    with pytest.raises(ModelError, match=message):
        read_rope({**PLAIN, **change})


def test_queries_are_scaled_by_the_logarithm_of_their_position():
    """By hand, c = 16: 1 up to the 16th token, ln 64 / ln 16 = 1.5 at the 64th."""
    scale = entropy_scale(np.arange(256), 16)
    assert scale[:16].tolist() == [1.0] * 16
    assert scale[[63, 255]].tolist() == pytest.approx([1.5, 2.0])
