"""What tests of several modules share."""

import pytest
from hypothesis import HealthCheck, settings

# the same examples everywhere; how long one takes is the affair of the machine
settings.register_profile("project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture
def generator():
    """Torch's random numbers, the same in every test."""
    torch = pytest.importorskip("torch")
    return torch.Generator().manual_seed(20260722)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A random Llama of two layers whose tokens are bytes."""
    from longattn.testing import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")
