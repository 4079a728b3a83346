"""A stopped training resumes where it was; what holds for both backends is in ``training_resume``."""

from __future__ import annotations

from training_resume import ResumesTraining


class TestResumesTraining(ResumesTraining):
    """CKP-9, TRN-17 and TRN-19, in PyTorch."""
