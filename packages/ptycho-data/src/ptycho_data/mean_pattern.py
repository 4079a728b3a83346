"""A probe made of the mean pattern (specs/training.md, TRN-3a)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def from_mean_pattern(modulus: NDArray[np.floating[Any]], *, defocus_cycles: float) -> NDArray[np.complex64]:
    """A probe whose far field has a measured modulus and the phase of a defocus.

    Args:
        modulus: (N, N) square root of the mean pattern, zero frequency at ``[N // 2, N // 2]``.
        defocus_cycles: d in the far field's phase ``pi d N |q|^2``, q in cycles per pixel: intensity at the Nyquist
            frequency is displaced by d N / 2 pixels.

    Returns:
        (1, N, N) complex64 of unit energy.
    """
    side = modulus.shape[-1]
    q = (np.arange(side) - side // 2) / side
    phase = np.pi * defocus_cycles * side * (q[:, None] ** 2 + q[None] ** 2)
    field = np.fft.ifftshift(modulus * np.exp(1j * phase))
    wavefield = np.fft.fftshift(np.fft.ifft2(field, norm="ortho"))
    return (wavefield / np.linalg.norm(wavefield))[None].astype(np.complex64)
