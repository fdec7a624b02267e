import json

import pytest

from longattn import settings
from longattn.errors import ModelError
from longattn.models import resolve
from longattn.models.configuration import max_positions, read_config


def read(folder, window, layers=(0,), **options):
    model = settings.Model(name=str(folder), **options)
    return read_config(resolve(model), model, layers=layers, window=window)


def test_longer_windows_need_another_base_or_leave(make_folder):
    folder = make_folder("llama")
    read(folder, 64)
    with pytest.raises(
        ModelError, match=r"made for 64 positions, windows have 65 .* rope_theta .* allow_extrapolation"
    ):
        read(folder, 65)
    assert read(folder, 65, allow_extrapolation=True)
    assert read(folder, 65, rope_theta=1e6).rope_parameters["rope_theta"] == 1e6


def test_settings_do_not_change_the_checkpoint(make_folder):
    model = settings.Model(name=str(make_folder("llama")), rope_theta=1e6)
    checkpoint = resolve(model)
    before = json.dumps(checkpoint.config)
    read_config(checkpoint, model, layers=(0,), window=8)
    assert json.dumps(checkpoint.config) == before


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_type": "default"}, 64),
        ({"rope_type": "linear", "factor": 4.0}, 64),
        ({"rope_type": "dynamic", "factor": 4.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
    ],
)
def test_stretched_positions_count(make_folder, rope, positions):
    folder = make_folder("llama", rope_parameters={"rope_theta": 1e4, **rope})
    assert max_positions(read(folder, positions)) == positions


def test_position_embeddings_that_are_learned_cannot_be_extended(make_folder):
    folder = make_folder("gpt2", num_key_value_heads=None)
    with pytest.raises(ModelError, match="more than the 64 positions"):
        read(folder, 65, allow_extrapolation=True)
    with pytest.raises(ModelError, match="rope_theta does not apply"):
        read(folder, 64, rope_theta=1e6)


def test_layers_that_do_not_exist_are_refused(make_folder):
    folder = make_folder("llama")
    for layers in [(3,), (-1,), ()]:
        with pytest.raises(ModelError, match="from 0 to 2"):
            read(folder, 8, layers)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"model_type": "nonsense"}, "no model type 'nonsense'"),
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"hidden_size": "many"}, "does not fit llama"),
        ({"is_causal": False}, "not causal"),
    ],
)
def test_configs_of_other_models_are_refused(make_folder, edit_config, facts, message):
    folder = edit_config(make_folder("llama"), **facts)
    with pytest.raises(ModelError, match=message):
        read(folder, 8)
