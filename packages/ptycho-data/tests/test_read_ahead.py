"""Reading ahead: order, bounds and the end of it (specs/training.md IMG-1)."""

from __future__ import annotations

import threading

import pytest
from ptycho_data.batches.read_ahead import read_ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order(workers):
    """Invariant 42: the order is that of the requests, for any number of readers."""
    assert list(read_ahead(lambda one: one**2, range(50), workers=workers)) == [one**2 for one in range(50)]


def test_nothing_is_read_before_it_is_requested():
    """Without readers each thing is read when it is requested."""
    asked: list[int] = []
    reader = read_ahead(lambda one: asked.append(one) or one, range(10), workers=0)
    assert [next(reader), next(reader)] == [0, 1]
    assert asked == [0, 1]


def test_reading_ahead_ends_with_its_reader():
    """Invariant 39: each reader is ahead by two; one that is given up leaves no thread behind, and errors come out."""
    before = threading.active_count()
    asked: list[int] = []
    reader = read_ahead(lambda one: asked.append(one) or one, range(1000), workers=2, each=2)
    assert [next(reader), next(reader)] == [0, 1]
    reader.close()
    assert len(asked) <= 2 + 2 * 2
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda one: 1 // one, [1, 0], workers=2))
