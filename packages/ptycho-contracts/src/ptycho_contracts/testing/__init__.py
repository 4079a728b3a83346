"""For tests of this suite and of its users: NumPy references, hypothesis strategies, the conformance suite.

``reference``, ``reference_network``, ``network_cases`` and ``conformance`` need NumPy alone; ``strategies`` needs the
extra ``testing``.
"""
