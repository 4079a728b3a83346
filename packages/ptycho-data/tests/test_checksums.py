"""SUM: the checksum against the formula of the specification in Python integers."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.testing import strategies
from ptycho_data import checksums
from ptycho_data.checksums import BLOCK_BYTES, Checksum, checksum_of

ROW = 1 << 15


def by_the_formula(data):
    """SUM-1 in Python integers, word by word."""
    blocks = []
    for begin in range(0, len(data), BLOCK_BYTES):
        block = data[begin : begin + BLOCK_BYTES]
        block += b"\0" * (-len(block) % ROW)
        lanes = list(range(1, 4097))
        for number in range(len(block) // 8):
            word = int.from_bytes(block[8 * number : 8 * number + 8], "little")
            lane = (lanes[number % 4096] ^ word) * 0x9E3779B97F4A7C15 % 2**64
            lanes[number % 4096] = lane ^ (lane >> 29)
        blocks.append(hashlib.sha256(b"".join(lane.to_bytes(8, "little") for lane in lanes)).digest())
    return hashlib.sha256(b"".join(blocks) + len(data).to_bytes(8, "little")).hexdigest()


def of(data):
    state = Checksum()
    state.update(memoryview(data))
    return state.hexdigest()


def test_checksum_is_that_of_the_specification():
    """Invariant 27: any other program can verify a store."""
    data = np.random.default_rng(0).bytes(3 * ROW + 11)
    for length in (0, 1, 8, ROW, ROW + 1, len(data)):
        assert of(data[:length]) == by_the_formula(data[:length])


@given(st.lists(st.integers(0, 3 * ROW), max_size=6), strategies.generators)
def test_pieces_do_not_matter(cuts, rng):
    """Invariant 39: chunked equals whole."""
    data = rng.bytes(3 * ROW + 5)
    state = Checksum()
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        state.update(memoryview(data)[begin:end])
        state.hexdigest()  # a look in between changes nothing
    assert state.hexdigest() == of(data)


@given(strategies.generators, st.integers(0, 3 * ROW), st.integers(1, 64))
def test_any_close_change_shows(rng, at, length):
    """Invariant 27: altered bytes, and one zero more, always show."""
    data = bytearray(rng.bytes(3 * ROW + 70))
    before = of(bytes(data))
    changed = bytearray(data)
    changed[at : at + length] = bytes(255 - value for value in changed[at : at + length])
    assert of(bytes(changed)) != before
    assert of(bytes(data) + b"\0") != before


def test_changes_that_cancel_in_plain_sums_show():
    """Invariant 26: flipped signs of all, swapped rows, and rows moved by a lane's length."""
    values = np.random.default_rng(0).normal(size=(3 * 4096, 2))
    rows = values.reshape(-1, 4096)
    others = [-values, values * [1, -1], values[::-1], rows[[1, 0, 2, 3, 4, 5]], np.roll(rows, 1, axis=0)]
    assert len({checksum_of(np.ascontiguousarray(other)) for other in [values, *others]}) == 6


def test_blocks_and_states_after_them(monkeypatch):
    """STORE-5: a state made from the digests of whole blocks continues like the one that read them."""
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 2 * ROW)
    data = np.random.default_rng(0).bytes(7 * ROW)
    whole = Checksum()
    whole.update(memoryview(data))
    assert len(whole.blocks) == 3
    later = Checksum.after(whole.blocks[:2])
    later.update(memoryview(data)[4 * ROW :])
    assert later.hexdigest() == whole.hexdigest()
    assert whole.blocks[1] != whole.blocks[0]
