"""The state of a joint reconstruction in TensorFlow; what holds for both backends is in ``joint_state``."""

from __future__ import annotations

from joint_state import JointState


class TestJointState(JointState):
    """PHY-30 to PHY-32 and CKP-3 to CKP-5, in TensorFlow."""
