"""Which devices of this machine scorers work on, and whether those that were named are there."""

from longattn import settings


def devices(compute: settings.Compute, needed: bool = True) -> list[str]:
    """The devices to score on; ``auto`` is every GPU, or the CPU where there is none or no model is needed.

    Raises ``ValueError`` for a device that is needed and that this machine does not have.
    """
    if compute.devices == ("auto",):
        return (_accelerators() or ["cpu"]) if needed else ["cpu"]
    for name in compute.devices if needed else ():
        _check(name)
    return list(compute.devices)


def device(name: str, needed: bool = True) -> str:
    """The device of this name; ``auto`` is the first GPU, or the CPU. Raises what :func:`devices` raises."""
    return devices(settings.Compute(devices=(name,)), needed)[0]


def _accelerators() -> list[str]:
    import torch

    if torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["mps"] if torch.backends.mps.is_available() else []


def _check(name: str) -> None:
    if name == "cpu":
        return
    import torch

    there = ["cpu", *_accelerators()]
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = None
    # of other kinds torch knows best
    if kind is None or (kind in ("cuda", "mps") and name not in (*there, *(one.partition(":")[0] for one in there))):
        raise ValueError(f"a device must be auto or one that this machine has ({', '.join(there)}), got {name!r}")
