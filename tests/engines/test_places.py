"""Which devices are worked on, and what is said of one that is not there."""

import pytest

from longattn import engines
from longattn.settings import Compute

torch = pytest.importorskip("torch")


def pretend(monkeypatch, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(("gpus", "expected"), [(0, ["cpu"]), (2, ["cuda:0", "cuda:1"])])
def test_auto_is_every_gpu_or_the_cpu(monkeypatch, gpus, expected):
    pretend(monkeypatch, gpus)
    assert engines.devices(Compute()) == expected
    assert engines.device("auto") == expected[0]
    assert engines.devices(Compute(), needed=False) == ["cpu"]


def test_devices_that_are_named_are_taken_in_that_order(monkeypatch):
    pretend(monkeypatch, 2)
    assert engines.devices(Compute(devices=("cuda:1", "cpu", "cuda"))) == ["cuda:1", "cpu", "cuda"]


@pytest.mark.parametrize("name", ["gpu", "cuda:2", "mps", "cuda:", "auto,cpu"])
def test_a_device_that_is_not_there_is_answered_with_those_that_are(monkeypatch, name):
    pretend(monkeypatch, 2)
    with pytest.raises(ValueError, match=r"this machine has \(cpu, cuda:0, cuda:1\), got '" + name):
        engines.device(name)
    # where nothing is asked of a model nothing is put on it
    assert engines.devices(Compute(devices=(name,)), needed=False) == [name]
