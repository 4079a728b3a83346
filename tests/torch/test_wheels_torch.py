"""The wheels of this backend at work without the other's framework."""

from __future__ import annotations

import pytest
from wheel_use import BackendWheels


@pytest.mark.slow
class TestWheels(BackendWheels):
    """``pip install ptycho-cli[torch]``."""

    @pytest.fixture
    def other_framework(self) -> str:
        """What is not installed."""
        return "tensorflow"
