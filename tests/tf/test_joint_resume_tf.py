"""A killed fit resumes where it was; what holds for both backends is in ``joint_resume``."""

from __future__ import annotations

from joint_resume import Resumes


class TestResumes(Resumes):
    """PHY-32 and CLI-27, in TensorFlow."""
