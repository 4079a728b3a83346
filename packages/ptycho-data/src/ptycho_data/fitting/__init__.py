"""Fits by gradient descent, framework-free: loop, checkpoints, probe estimation, collapse (specs/physics.md, PHY-27)."""
