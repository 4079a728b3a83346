"""TRN-14 and TRN-16: when a training begins anew."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_data.fitting.collapse import CollapseWatch, is_flat


def test_flat_is_a_loss_near_that_of_empty_space():
    assert is_flat(0.098, 0.1)
    assert is_flat(math.nan, 0.1)
    assert not is_flat(0.0979, 0.1)


def test_judged_from_a_quarter_of_the_budget_on():
    """Invariant 46: not before, but at the end in any case; and once."""
    watch = CollapseWatch(0.1, epochs=20)
    assert not watch.collapsed(0.1, epoch=4, share=0.2, ending=False)
    assert watch.collapsed(0.1, epoch=5, share=0.25, ending=False)
    assert watch.restarts == 1
    assert "after epoch 5 of 20" in watch.reason
    assert not watch.collapsed(0.1, epoch=20, share=1.0, ending=True)
    early = CollapseWatch(0.1, epochs=20)
    assert early.collapsed(0.2, epoch=1, share=0.05, ending=True)


def test_what_has_learned_before_is_not_thrown_away():
    """A loss that was once well below empty space keeps its training, whatever comes after."""
    watch = CollapseWatch(0.1, epochs=4)
    assert not watch.collapsed(0.05, epoch=1, share=0.1, ending=False)
    assert not watch.collapsed(0.3, epoch=4, share=1.0, ending=True)
    assert (watch.restarts, watch.reason) == (0, None)


@given(st.integers(1, 1000), st.integers(0, 1000), st.floats(0.1, 1e6), st.floats(0, 1e6))
def test_what_is_left(epochs, done, seconds, used):
    """What was not used, and at least a quarter; whole epochs."""
    watch = CollapseWatch(0.1, epochs=epochs, max_seconds=seconds)
    left = watch.epochs_left(min(done, epochs))
    assert left >= epochs - done
    assert 1 <= left <= epochs
    assert 4 * left >= epochs
    assert watch.seconds_left(used) == pytest.approx(max(seconds - used, seconds / 4))
    assert CollapseWatch(0.1, epochs=1).seconds_left(5.0) is None
