"""What tests of the native kernel share."""

import pytest
import torch


@pytest.fixture
def isa(request, monkeypatch):
    """This instruction set answers, and memory that it does not write shows as NaN."""
    monkeypatch.setenv("LONGATTN_ISA", request.param)
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: torch.full(shape, torch.nan, **options))
    return request.param
