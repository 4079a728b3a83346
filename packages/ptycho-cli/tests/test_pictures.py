"""Pictures (specs/cli.md, CLI-11, CLI-18, CLI-23)."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from PIL import Image
from ptycho_cli import plots
from ptycho_cli.plots import comparisons
from ptycho_cli.plots.losses import draw_losses, losses_figure
from ptycho_cli.plots.maps import contrast, round_length
from ptycho_cli.plots.phases import emptiest_phase, flattening
from ptycho_cli.plots.probes import probe_figure
from ptycho_cli.plots.reconstructions import coverage_figure, draw_part, draw_reconstruction, draw_run
from ptycho_cli.plots.views import scale_for, view, view_of
from ptycho_data.metrics import align, frc
from ptycho_data.metrics.ramps import own_ramp
from ptycho_data.workflows import compare_with_truth
from scipy import ndimage

FOUR = ["amplitude.png", "phase.png", "coverage.png", "probe.png"]


def drawn(reconstruction, name):
    """The axes of one part."""
    figure = Figure()
    draw_part(figure, figure.add_subplot(), reconstruction, name)
    return figure.axes[0]


def scale_bars(axes) -> list[str]:
    return [part.txt_label.get_text() for part in axes.get_children() if isinstance(part, AnchoredSizeBar)]


def smooth(shape=(60, 70), *, seed=0, sigma=6.0):
    """Real, about -1 to 1."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma, mode="wrap")
    return field / np.abs(field).max()


class TestWhatIsShown:
    def test_axes_are_object_pixels_from_the_origin(self, reconstruction):
        """The unseen margin of 2 px is cut off; pixel [2, 2] has its centre at x -1, y 7."""
        shown = view(reconstruction)
        assert shown.extent == (-1.5, 18.5, 22.5, 6.5)
        assert shown.shape == (16, 20)
        assert (shown.unit, shown.size) == ("px", "20 x 16 px")

    def test_axes_are_lengths_where_the_pixel_is_known(self, reconstruction):
        shown = view(replace(reconstruction, pixel_size_m=2e-7))
        assert shown.extent == pytest.approx((-0.3, 3.7, 4.5, 1.3))
        assert (shown.unit, shown.size) == ("µm", "20 x 16 px, 4 x 3.2 µm")

    @given(margin=st.integers(0, 12), dim=st.floats(0, 0.15))
    def test_a_dim_margin_changes_nothing(self, reconstruction, margin, dim):
        """The same part of the object is shown, on the same greys."""
        dim *= 3.0
        weight = np.where(reconstruction.weight > 0, reconstruction.weight, dim)
        padded = replace(
            reconstruction,
            object=np.pad(reconstruction.object, margin, constant_values=50j),
            weight=np.pad(weight, margin, constant_values=dim).astype(np.float32),
            origin_yx_px=reconstruction.origin_yx_px - margin,
        )
        before, after = view(reconstruction), view(padded)
        assert after.extent == before.extent
        limits = [
            contrast(np.abs(one.object), shown.well_lit) for one, shown in ((reconstruction, before), (padded, after))
        ]
        assert limits[0] == limits[1]

    def test_an_edge_of_noise_is_cut_off_and_sets_no_grey(self):
        """Weight falls towards the edge, noise grows: both were seen, one is shown."""
        y, x = np.mgrid[:80, :90]
        weight = (1e3 * np.exp(-((np.hypot(y - 40, x - 45) / 22) ** 8)) + 1).astype(np.float32)
        rng = np.random.default_rng(0)
        noise = (rng.normal(size=weight.shape) + 1j * rng.normal(size=weight.shape)) / np.sqrt(weight)
        clean = (1 + 0.2 * smooth(weight.shape)).astype(np.complex128)
        shown = view_of(weight)
        assert 40 <= min(shown.shape) <= max(shown.shape) <= 50
        limits = contrast(np.abs(clean + noise), shown.well_lit)
        assert limits[0] > 0.6
        assert limits[1] < 1.4
        assert np.percentile(np.abs(clean + noise), 99) > 2

    def test_a_scan_that_is_denser_in_its_middle_is_shown_to_its_rim(self):
        """Fewer positions per area outside, as on a spiral of equal steps in radius."""
        y, x = np.mgrid[:101, :101] - 50
        radius = np.hypot(y, x)
        weight = np.where(radius <= 40, 40 / np.maximum(radius, 4), 0).astype(np.float32)
        assert view_of(weight).shape == (81, 81)

    def test_pixels_that_are_not_scanned_are_masked(self, reconstruction):
        picture = drawn(reconstruction, "amplitude").images[0].get_array()
        assert not picture.mask.any()
        hole = reconstruction.weight.copy()
        hole[9, 9] = 0.1
        picture = drawn(replace(reconstruction, weight=hole), "amplitude").images[0].get_array()
        assert np.argwhere(picture.mask).tolist() == [[7, 7]]

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_uniform_empty_and_unseen_objects_can_be_drawn(self, reconstruction, tmp_path, value):
        uniform = replace(reconstruction, object=np.full_like(reconstruction.object, value))
        unseen = replace(uniform, weight=np.zeros_like(uniform.weight), probe=np.zeros_like(uniform.probe))
        for degenerate in (uniform, unseen):
            for path in draw_reconstruction(degenerate, tmp_path):
                with Image.open(path) as picture:
                    assert picture.size[0] > 400

    def test_the_picture_shows_the_object_upright(self, reconstruction, tmp_path):
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

    def test_a_large_image_is_drawn_with_more_pixels(self, reconstruction, tmp_path):
        """1,000 px of object on at least as many of the picture."""
        large = replace(
            reconstruction, object=np.ones((1000, 1000), np.complex64), weight=np.ones((1000, 1000), np.float32)
        )
        draw_reconstruction(large, tmp_path)
        with Image.open(tmp_path / "phase.png") as picture:
            assert picture.size[0] > 1400


class TestLengths:
    @given(decimals=st.floats(-1, 6), pixel=st.floats(-11.5, -5))
    def test_axes_are_in_the_unit_that_keeps_numbers_short(self, decimals, pixel):
        span, size = 10.0**decimals, 10.0**pixel
        unit, per_px = scale_for(span, size)
        metres = {"mm": 1e-3, "µm": 1e-6, "nm": 1e-9, "pm": 1e-12}[unit]
        assert per_px * metres == pytest.approx(size, rel=1e-9)
        if 2e-12 <= span * size < 2:
            assert 2 * (1 - 1e-9) <= span * per_px < 2000 or unit == "mm"

    @given(length=st.floats(1e-3, 1e4))
    def test_a_scale_bar_is_a_round_length(self, length):
        bar = round_length(length)
        assert f"{bar:e}"[0] in "125"
        assert length / 2.5001 <= bar <= length * 1.0001

    def test_a_scale_bar_is_drawn_where_lengths_are_known(self, reconstruction):
        """20 px of 100 nm are 2 um; a fifth is 400 nm."""
        assert scale_bars(drawn(reconstruction, "phase")) == []
        known = replace(reconstruction, pixel_size_m=1e-7)
        assert scale_bars(drawn(known, "phase")) == ["0.2 µm"]
        assert drawn(known, "phase").get_xlabel() == "x [µm]"
        assert scale_bars(probe_figure(known.probe, pixel_size_m=1e-9).axes[0]) == ["2 nm"]

    def test_positions_lie_on_the_illumination(self, reconstruction):
        known = replace(reconstruction, pixel_size_m=1e-7, positions_px=np.array([[1.0, 10.0], [4.0, 12.0]]))
        axes = coverage_figure(known).axes[0]
        np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0.1, 1.0], [0.4, 1.2]])
        assert axes.get_xlim() == pytest.approx((-0.35, 2.05))
        assert axes.get_ylim() == pytest.approx((2.45, 0.45))

    def test_a_scan_has_lengths_where_its_geometry_is_known(self, scan):
        known = replace(scan, metadata={"geometry": {"object_pixel_size_m": 1e-8}})
        assert [axes.get_xlabel() for axes in plots.scan(scan).axes[:3]] == ["x [px]"] * 3
        labels = [axes.get_xlabel() for axes in plots.scan(known).axes[:3]]
        assert labels == ["x [px]", "x [nm]", "x [nm]"]


class TestPhase:
    @given(angle=st.floats(-10, 10), ramp_y=st.floats(-0.5, 0.5), ramp_x=st.floats(-0.5, 0.5))
    def test_global_phase_and_ramp_do_not_change_the_picture(self, reconstruction, angle, ramp_y, ramp_x):
        """Also where angles would wrap."""
        y, x = np.mgrid[:20, :24]
        turned = reconstruction.object * np.exp(1j * (angle + ramp_y * y + ramp_x * x))
        shown = view(reconstruction)
        first, second = (shown.cut(flattening(one, shown).phase(one)) for one in (reconstruction.object, turned))
        assert np.abs(first - second).max() < 1e-4

    def test_the_picture_says_which_ramp_was_removed(self, reconstruction):
        """Oracle: the fixture's phase is x / 24 rad."""
        assert drawn(reconstruction, "phase").get_title().endswith("\nphase ramp removed: x 42, y 0 mrad/px")
        known = replace(reconstruction, pixel_size_m=1e-6 / 6)
        assert drawn(known, "phase").get_title().endswith("\nphase ramp removed: x 0.25, y 0 rad/µm")
        assert "ramp" not in drawn(reconstruction, "amplitude").get_title()

    @given(depth=st.floats(-5.0, 5.0), width=st.floats(3, 30), mean=st.floats(-4, 4))
    def test_phases_within_a_turn_do_not_wrap(self, depth, width, mean):
        """A bump in the middle, which has no ramp: the picture is its phase, and a constant."""
        y, x = np.mgrid[-20:21, -25:26]
        phase = depth * np.exp(-((y / width) ** 2) - (x / width) ** 2)
        image, shown = np.exp(1j * (phase + mean)), view_of(np.ones(phase.shape))
        flat = flattening(image, shown)
        assert np.ptp(flat.phase(image) - phase) < 1e-3
        assert flat.wrapped == 0

    def test_a_phase_that_wraps_is_said_to(self):
        """A bump of 20 rad has three turns; one of 3 rad none."""
        weight = np.ones((60, 70))
        y, x = np.mgrid[:60, :70]
        bump = np.exp(-(((y - 30) / 15) ** 2) - ((x - 35) / 15) ** 2)
        deep, flat = (flattening(np.exp(1j * depth * bump), view_of(weight)) for depth in (20, 3))
        assert "phase wraps between" in deep.words(view_of(weight))
        assert "wraps" not in flat.words(view_of(weight))
        assert flat.wrapped == 0

    @given(middle=st.floats(-3.1, 3.1), width=st.floats(0.1, 5.0))
    def test_the_cut_is_far_from_all_phases(self, middle, width):
        phases = middle + np.linspace(-width / 2, width / 2, 500)
        cut = emptiest_phase(np.angle(np.exp(1j * phases)), np.ones(500))
        distance = np.abs(np.angle(np.exp(1j * (cut - phases)))).min()
        assert distance > min(0.5, (2 * np.pi - width) / 3)
        assert 0 < cut <= 2 * np.pi

    def test_a_large_image_loses_the_same_ramp(self):
        """Above 1024 px the ramp comes from blocks."""
        y, x = np.mgrid[:40, :1300]
        image = np.exp(1j * (0.02 * y - 0.013 * x + 0.2 * smooth((40, 1300))))
        seen = view_of(np.ones(image.shape))
        expected = own_ramp(image, seen.scanned, np.array([19.5, 649.5]))
        np.testing.assert_allclose(flattening(image, seen).ramp_yx_rad_per_px, expected, atol=1e-5)
        assert np.abs(flattening(image, seen).phase(image)).max() < 0.4


class TestProbe:
    def test_modes_have_their_powers(self):
        """Energies 9 : 1."""
        probe = np.stack([np.full((8, 8), 3.0), np.full((8, 8), 1j)]).astype(np.complex64)
        titles = [axes.get_title() for axes in probe_figure(probe).axes]
        assert [title for title in titles if title] == ["mode 1: 90.0% of the power", "mode 2: 10.0% of the power"]

    def test_zero_is_at_the_pixel_N_2(self):
        """Odd and even N."""
        for N in (8, 9):
            left, right, bottom, top = probe_figure(np.ones((1, N, N), np.complex64)).axes[0].images[0].get_extent()
            assert (left, top) == (-(N // 2) - 0.5, -(N // 2) - 0.5)
            assert right - left == bottom - top == N

    def test_many_modes_are_told(self):
        figure = probe_figure(np.ones((11, 4, 4), np.complex64))
        assert figure.get_suptitle() == "8 of 11 modes"


SUMMARY = {
    "losses": [0.4, 0.2],
    "loss": "amplitude",
    "validation": {"losses": [0.5, 0.3]},
    "residual": {"used": 0.2},
    "poisson_floor": {"used": 0.1},
}


class TestLosses:
    def test_are_drawn_where_epochs_were_run(self, reconstruction, tmp_path):
        assert [path.name for path in draw_run(reconstruction, {}, tmp_path)] == FOUR
        assert [path.name for path in draw_run(reconstruction, SUMMARY, tmp_path)] == [*FOUR, "losses.png"]

    @pytest.mark.parametrize(("loss", "levels"), [("amplitude", [0.2, 0.1]), ("poisson", [])])
    def test_r_and_floor_are_lines_where_the_loss_is_comparable(self, tmp_path, monkeypatch, loss, levels):
        made = []
        monkeypatch.setattr("ptycho_cli.plots.losses.save", lambda figure, path: made.append(figure) or path)
        draw_losses({**SUMMARY, "loss": loss}, tmp_path / "losses.png")
        axes = made[0].axes[0]
        flat = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]
        assert flat == levels
        assert axes.get_title() == "R 0.2 is 2.00 times its Poisson floor 0.1"
        assert "validation patterns" in [text.get_text() for text in axes.get_legend().get_texts()]

    def test_an_axis_over_decades_is_logarithmic(self):
        assert losses_figure({"a": [9.0, 1.0]}, {}).axes[0].get_yscale() == "linear"
        assert losses_figure({"a": [11.0, None, 1.0]}, {}).axes[0].get_yscale() == "log"
        assert losses_figure({"a": [11.0, -1.0]}, {"R": None}).axes[0].get_yscale() == "linear"


class TestComparison:
    def test_two_images_are_cropped_to_what_was_scanned(self, reconstruction):
        """Weight 1 in the middle, 0.15 around it: scored everywhere, shown in the middle."""
        image = (1 + 0.2 * smooth()) * np.exp(0.3j * smooth(seed=1))
        weight = np.full(image.shape, 0.15, np.float32)
        weight[10:50, 12:60] = 1
        alignment = align(image, image, weight=weight)
        assert alignment.mask.all()
        whole = replace(reconstruction, object=image.astype(np.complex64), weight=weight, pixel_size_m=1e-8)
        panels = comparisons.comparison_figure(alignment, image=whole).axes[:6]
        assert {axes.images[0].get_array().shape for axes in panels} == {(40, 48)}
        assert [scale_bars(axes) for axes in panels] == [["50 nm"]] * 6
        # Rows 10 to 49 and columns 12 to 59, from the origin at y 5, x -3 px, of 10 nm.
        assert panels[0].images[0].get_extent() == pytest.approx([85, 565, 545, 145])

    def test_frc_says_not_crossed(self):
        """MET-14."""
        image = smooth(sigma=1.0)
        (half, half_bit) = self.legend(comparisons.frc_figure({"same": frc(image, image)}))
        assert (half, half_bit) == ("0.5, not crossed", "half-bit, not crossed")
        (half, half_bit) = self.legend(comparisons.frc_figure({"none": frc(image, np.ones_like(image))}))
        assert (half, half_bit) == ("0.5, undefined", "half-bit, undefined")

    def test_frc_has_half_periods_where_the_pixel_is_known(self):
        curve = replace(frc(smooth(), smooth(seed=1)), resolution_half=0.4, resolution_half_bit=0.5)
        figure = comparisons.frc_figure({"halves": curve}, pixel_size_m=1e-8)
        assert self.legend(figure) == ["0.5, crossed at 0.400: 25 nm", "half-bit, crossed at 0.500: 20 nm"]
        above = figure.axes[1]
        assert above.get_xlabel() == "half period [nm]"
        assert dict(zip(above.get_xticks(), above.get_xticklabels(), strict=True))[0.4].get_text() == "25"
        assert self.legend(comparisons.frc_figure({"halves": curve})) == [
            "0.5, crossed at 0.400",
            "half-bit, crossed at 0.500",
        ]

    @staticmethod
    def legend(figure) -> list[str]:
        return [text.get_text() for text in figure.axes[0].get_legend().get_texts()][1:]


def test_figures_can_be_drawn_again(reconstruction):
    """A module of the name of one of these functions would take its place once it is imported."""
    evaluation = compare_with_truth(reconstruction, reconstruction)
    for _ in range(2):
        assert len(plots.comparison(evaluation).axes) == 12
        assert plots.frc(evaluation).axes[0].get_ylabel() == "Fourier ring correlation"
        assert len(plots.reconstruction(reconstruction).axes) == 4


def test_a_notebook_s_figure_has_both_parts(reconstruction):
    titles = [axes.get_title().splitlines()[0] for axes in plots.reconstruction(reconstruction).axes[:2]]
    assert titles == ["object amplitude, 20 x 16 px", "object phase, 20 x 16 px"]


def test_a_notebook_draws_a_figure_without_pyplot(reconstruction):
    """CLI-23: Jupyter asks the last value of a cell for a PNG."""
    content = plots.reconstruction(reconstruction)._repr_png_()
    width, height = Image.open(BytesIO(content)).size
    assert width > height > 300
