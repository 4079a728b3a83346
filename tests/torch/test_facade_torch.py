"""``import ptycho_torch`` in a notebook; what holds for both backends is in ``facade``."""

from __future__ import annotations

from facade import Facade


class TestFacade(Facade):
    """Scans, models and images in memory, in PyTorch."""
