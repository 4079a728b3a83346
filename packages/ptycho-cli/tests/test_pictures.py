"""Pictures (specs/cli.md, CLI-23)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ptycho_cli.plots.maps import amplitude_and_phase, contrast, draw_reconstruction, extent_px, well_lit


def test_axes_are_object_pixels_from_the_origin(reconstruction):
    """Pixel [0, 0] has its centre at the origin: x -3, y 5."""
    assert extent_px(reconstruction) == (-3.5, 20.5, 24.5, 4.5)


def test_pixels_never_seen_are_masked_and_do_not_set_the_contrast(reconstruction):
    wild = reconstruction.object.copy()
    wild[0, 0] = 1e6
    spoilt = replace(reconstruction, object=wild)
    lit = well_lit(spoilt.weight)
    amplitude, phase = amplitude_and_phase(spoilt)
    np.testing.assert_array_equal(amplitude.mask, reconstruction.weight <= 0)
    np.testing.assert_array_equal(phase.mask, reconstruction.weight <= 0)
    low, high = contrast(amplitude, lit)
    assert 0.5 <= low < high <= 1.0


@given(angle=st.floats(-10, 10))
def test_a_global_phase_does_not_change_the_picture(reconstruction, angle):
    """The circular mean is taken out, also where angles would wrap."""
    turned = replace(reconstruction, object=(reconstruction.object * np.exp(1j * angle)).astype(np.complex64))
    difference = amplitude_and_phase(turned)[1] - amplitude_and_phase(reconstruction)[1]
    assert np.abs(difference).max() < 1e-5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_uniform_empty_and_unseen_objects_can_be_drawn(reconstruction, tmp_path, value):
    uniform = replace(reconstruction, object=np.full_like(reconstruction.object, value))
    unseen = replace(uniform, weight=np.zeros_like(uniform.weight))
    for degenerate in (uniform, unseen):
        for path in draw_reconstruction(degenerate, tmp_path):
            with Image.open(path) as picture:
                assert picture.size[0] > 400


def test_the_picture_shows_the_object_upright(reconstruction, tmp_path):
    """A bright upper left corner is bright in the upper left of the picture."""
    marked = np.full(reconstruction.object.shape, 0.2, np.complex64)
    marked[2:8, 2:8] = 1.0
    draw_reconstruction(replace(reconstruction, object=marked), tmp_path)
    with Image.open(tmp_path / "amplitude.png") as picture:
        grey = np.asarray(picture.convert("L"), float)
    height, width = grey.shape
    upper_left = grey[int(0.2 * height) : int(0.3 * height), int(0.2 * width) : int(0.25 * width)].mean()
    lower_right = grey[int(0.7 * height) : int(0.8 * height), int(0.6 * width) : int(0.65 * width)].mean()
    assert upper_left > lower_right + 50
