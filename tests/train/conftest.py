"""Windows that a tiny model can learn, as rows and as an export."""

import numpy as np
import pytest

WINDOW = 32


def make_rows(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"input_ids": np.tile(random.integers(0, 256, 8), WINDOW // 8).astype(np.int32)} for _ in range(count)]


@pytest.fixture(scope="session")
def rows():
    """Sixteen windows of eight tokens, four times over."""
    return make_rows(16)


@pytest.fixture(scope="session")
def held_out():
    """Three others."""
    return make_rows(3, seed=1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of this test's own."""
    monkeypatch.setenv("LONGATTN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def load_tiny(tiny_model_folder):
    """Load the tiny model, the same each time it is called."""
    from longattn import settings
    from longattn.models import resolve
    from longattn.train import Training
    from longattn.train.models import load_trainable, trainable_config

    facts = settings.Model(name=str(tiny_model_folder))
    checkpoint = resolve(facts)
    return lambda dropout=0.0: load_trainable(checkpoint, trainable_config(checkpoint, facts, dropout), Training())
