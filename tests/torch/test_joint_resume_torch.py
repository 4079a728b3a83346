"""A killed descent goes on where it was; what holds for both backends stands in ``joint_resume``."""

from __future__ import annotations

from joint_resume import Resumes


class TestResumes(Resumes):
    """PHY-32 and CLI-27, in PyTorch."""
