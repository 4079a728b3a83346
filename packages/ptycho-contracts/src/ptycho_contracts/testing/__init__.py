"""For tests of this suite and of its users: a NumPy reference of specs/physics.md and hypothesis strategies.

``reference`` needs NumPy alone; ``strategies`` needs the extra ``testing``.
"""
