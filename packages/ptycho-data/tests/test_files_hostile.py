"""FILE, NPY, NPZ: damaged and malicious files, made here, are each one clear error."""

import io
import os
import pickle
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError, PtychoError
from ptycho_contracts.records import Reconstruction
from ptycho_data.bundle_file import read_bundle
from ptycho_data.files import format_of, is_reconstruction, read_reconstruction, read_scan, write_reconstruction
from ptycho_data.files.containers.npy import read_npy
from ptycho_data.fitting.checkpoints import read_checkpoint
from ptycho_data.foreign_content import from_json, from_toml


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def good_members():
    counts = np.random.default_rng(0).poisson(9, (4, 6, 6)).astype(np.uint16)
    return {"diff3d": npy(counts), "positions_px": npy(np.arange(8.0).reshape(4, 2))}


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, content in members.items():
            target.writestr(f"{name}.npy", content)
    return path


def codes_of(path):
    with pytest.raises(ContractError) as caught:
        read_scan(path)
    return caught.value.codes


def one_error(call, path):
    """The code of the one error that a reader gives, whatever the content does inside it."""
    with pytest.raises(PtychoError) as caught:
        call(path)
    (code,) = set(caught.value.codes)
    return code


READERS = {
    "scan": read_scan,
    "reconstruction": read_reconstruction,
    "kind": is_reconstruction,
    "bundle": read_bundle,
    "array": read_npy,
    "format": format_of,
    "checkpoint": read_checkpoint,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "empty"])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, name, kind):
    """FILE-2: a pipe would hang, and /dev/zero never ends."""
    path = {"device": Path("/dev/zero"), "folder": tmp_path}.get(kind, tmp_path / "x.npz")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    assert one_error(READERS[name], path) in ("file.kind", "file.empty", "bundle.broken", "checkpoint.broken")


@pytest.mark.parametrize("name", READERS)
def test_a_name_that_no_disk_can_hold_is_a_missing_file(name):
    with pytest.raises(MissingFileError):
        READERS[name](Path("x" * 5000))


@pytest.mark.parametrize("name", ["scan", "format"])
def test_any_exception_inside_a_reader_is_one_error(tmp_path, monkeypatch, name):
    """FILE-8."""

    def broken(path):
        raise AssertionError("a bug\nof two lines")

    path = archive(tmp_path / "a.npz", good_members())
    monkeypatch.setattr("ptycho_data.files.formats.npz.matches", broken)
    with pytest.raises(ContractError, match=r"a.npz: .*AssertionError: a bug of two lines") as caught:
        READERS[name](path)
    assert caught.value.codes == ("file.unreadable",)


@pytest.mark.parametrize(
    "text",
    ["9" * 5000, "[" * 900 + "]" * 900, "[" * 100_000, "[" * 65 + "]" * 65, '{"a":' * 70 + "1" + "}" * 70, "{", "\x00"],
    ids=["digits", "900 levels", "open", "65 levels", "70 tables", "cut", "nul"],
)
def test_forged_texts_are_value_errors(text):
    """FILE-9."""
    with pytest.raises(ValueError, match=r"levels|digits|Expecting|Invalid|property name"):
        from_json(text)
    with pytest.raises(ValueError, match=r"levels|digits|Invalid|Unclosed|Cannot|Expected"):
        from_toml(f"a = {text}")


def test_texts_of_64_levels_are_read():
    value = from_json("[" * 63 + "1" + "]" * 63)
    for _ in range(63):
        (value,) = value
    assert value == 1
    assert from_toml("a = [[1]]") == {"a": [[1]]}


@pytest.mark.parametrize("forged", [0x7FFFFFFF, 0x110000, 0xD800])
def test_text_of_no_characters_is_one_error_or_a_text(tmp_path, forged):
    """FILE-8: code points that are none."""
    content = bytearray(npy(np.array("counts")))
    content[-4:] = struct.pack("<I", forged)
    path = archive(tmp_path / "a.npz", {**good_members(), "measurement": bytes(content)})
    assert one_error(read_scan, path) in ("file.unreadable", "scan.unit", "npz.damaged")


def test_a_flipped_name_in_the_directory_is_damage_and_drops_no_probe(tmp_path):
    """NPZ-4: a probe whose name is altered would be missing in silence."""
    members = {**good_members(), "probeGuess": npy(np.ones((6, 6), np.complex64))}
    path = archive(tmp_path / "a.npz", members)
    assert read_scan(path).probe is not None
    content = bytearray(path.read_bytes())
    content[content.rindex(b"probeGuess.npy")] ^= 1
    path.write_bytes(content)
    assert codes_of(path) == ("npz.damaged",)
    assert not is_reconstruction(path)


class Bomb:
    """Would create a file if it were unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture(scope="module", params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def whole(request, tmp_path_factory):
    path = archive(tmp_path_factory.mktemp("whole") / "scan.npz", good_members(), request.param)
    assert len(read_scan(path)) == 4
    return path.read_bytes()


@given(data=st.data())
def test_truncated_anywhere(whole, tmp_path_factory, data):
    """Invariant 44: a file cut at any byte is one clear error."""
    path = tmp_path_factory.mktemp("cut") / "scan.npz"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert len(codes_of(path)) == 1


@given(data=st.data())
@settings(max_examples=60)
def test_any_altered_byte_never_gives_a_wrong_scan(whole, tmp_path_factory, data):
    """Invariant 44: a flipped byte is an error, or is in unused bytes."""
    path = tmp_path_factory.mktemp("flip") / "scan.npz"
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        scan = read_scan(path)
    except ContractError:
        return
    counts = np.random.default_rng(0).poisson(9, (4, 6, 6))
    np.testing.assert_array_equal(scan.measurements, counts)
    np.testing.assert_array_equal(scan.positions_px, np.arange(8.0).reshape(4, 2))


@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY"]))
def test_random_bytes_are_refused(tmp_path_factory, content, magic):
    """Invariant 44: a foreign file is one clear error."""
    path = tmp_path_factory.mktemp("random") / "scan.npz"
    path.write_bytes(magic + content)
    assert len(set(codes_of(path))) == 1


def test_pickles_are_refused_and_not_run(tmp_path):
    """Invariant 45: object arrays, bare pickles, and pickles that pose as arrays."""
    marker = tmp_path / "executed"
    evil = np.empty((4, 6, 6), dtype=object)
    evil[...] = [[[Bomb(marker)] * 6] * 6] * 4
    path = archive(tmp_path / "object.npz", {**good_members(), "diff3d": npy(evil)})
    assert codes_of(path) == ("npy.pickled",)
    path = archive(tmp_path / "posing.npz", {**good_members(), "diff3d": pickle.dumps(Bomb(marker))})
    assert codes_of(path) == ("npy.header",)
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb(marker)))
    assert codes_of(tmp_path / "bare.npz") == ("file.format",)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ContractError):
        read_npy(tmp_path / "bare.npy")
    assert not marker.exists()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (100000000, 1000, 1000), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-4, 6, 6), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 6, 5), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': __import__('os').getcwd(), }",
        "{'descr': [('a', '<f8'), ('b', '<f8')], 'fortran_order': False, 'shape': (4,), }",
        "{'descr': '|V8', 'fortran_order': False, 'shape': (4,), }",
        "(" * 3000,
        "not a dictionary",
    ],
)
def test_forged_headers_are_refused_before_anything_is_allocated(tmp_path, header):
    """Invariant 45: declared sizes are checked against real ones; a header is data, never code."""
    text = header.encode().ljust(118) + b"\n"
    forged = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * (4 * 36 * 8)
    path = archive(tmp_path / "forged.npz", {**good_members(), "diff3d": forged})
    assert codes_of(path)[0] in ("npy.size", "npy.header", "npy.dtype")
    (tmp_path / "forged.npy").write_bytes(forged)
    with pytest.raises(ContractError):
        read_npy(tmp_path / "forged.npy")


def test_decompression_bomb_is_refused(tmp_path):
    """Invariant 45: 100 MiB of zeros in 100 kB are not unpacked."""
    head = io.BytesIO()
    shape = (100, 1024, 1024)
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    path = archive(tmp_path / "bomb.npz", {"positions_px": good_members()["positions_px"]})
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
        target.open("diff3d.npy", "w") as stream,
    ):
        stream.write(head.getvalue())
        for _ in range(100):
            stream.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    assert codes_of(path) == ("npz.bomb",)


def test_arrays_beyond_the_memory_are_refused(tmp_path, monkeypatch):
    """Invariant 45: many arrays that are each legal must fit the memory together."""
    path = archive(tmp_path / "scan.npz", good_members())
    monkeypatch.setattr("ptycho_data.free_memory.available_bytes", lambda: 300)
    assert codes_of(path) == ("memory.free",)


def test_directory_that_lies_about_sizes_is_refused(tmp_path):
    """Invariant 45: the archive claims another size than its stream has."""
    path = archive(tmp_path / "scan.npz", good_members(), zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    size = struct.unpack_from("<I", content, directory + 24)[0]
    struct.pack_into("<I", content, directory + 24, size * 1000)
    path.write_bytes(content)
    assert codes_of(path) == ("npy.size",)


def test_unusual_archives_are_refused(tmp_path):
    """Invariant 45: other compressions, encryption, and names stored twice."""
    assert codes_of(archive(tmp_path / "a.npz", good_members(), zipfile.ZIP_BZIP2)) == ("npz.compression",) * 2
    path = archive(tmp_path / "b.npz", good_members())
    with zipfile.ZipFile(path, "a") as target, pytest.warns(UserWarning, match="Duplicate name"):
        target.writestr("diff3d.npy", good_members()["diff3d"])
    assert codes_of(path) == ("npz.repeated",)
    path = archive(tmp_path / "c.npz", good_members())
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption
    path.write_bytes(content)
    assert codes_of(path) == ("npz.compression",)
    assert codes_of(archive(tmp_path / "d.npz", {})) == ("scan.no_patterns", "scan.no_positions")


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(MissingFileError, match=r"nothing\.npz"):
        read_scan(tmp_path / "nothing.npz")
    assert codes_of(tmp_path) == ("file.kind",)
    (tmp_path / "empty.npz").touch()
    assert codes_of(tmp_path / "empty.npz") == ("file.empty",)


def reconstruction():
    rng = np.random.default_rng(0)
    return Reconstruction(
        object=(rng.normal(size=(9, 7)) + 1j).astype(np.complex64),
        origin_yx_px=np.array([-3.0, 5.0]),
        weight=rng.uniform(0, 2, (9, 7)).astype(np.float32),
        probe=np.ones((2, 4, 4), np.complex64),
        positions_px=rng.uniform(0, 4, (6, 2)),
    )


def test_reconstruction_round_trip_and_its_exact_keys(tmp_path):
    """Invariant 15: a canvas carries its origin."""
    written = reconstruction()
    write_reconstruction(tmp_path / "object.npz", written)
    with np.load(tmp_path / "object.npz") as plain:
        assert sorted(plain.files) == ["object", "origin_yx_px", "positions_px", "probe", "weight"]
    back = read_reconstruction(tmp_path / "object.npz")
    for key in ("object", "origin_yx_px", "weight", "probe", "positions_px"):
        np.testing.assert_array_equal(getattr(back, key), getattr(written, key))
        assert getattr(back, key).dtype == getattr(written, key).dtype
    assert back.pixel_size_m is None


def test_a_reconstruction_keeps_its_pixel_size(tmp_path):
    """REC-1, ARR-18: to the last bit, beside the five arrays that every reader knows."""
    write_reconstruction(tmp_path / "object.npz", replace(reconstruction(), pixel_size_m=1.23e-8))
    with np.load(tmp_path / "object.npz") as plain:
        content = dict(plain)
    assert set(content) == {"object", "origin_yx_px", "positions_px", "probe", "weight", "pixel_size_m"}
    assert (content["pixel_size_m"].shape, content["pixel_size_m"].dtype) == ((), np.float64)
    assert read_reconstruction(tmp_path / "object.npz").pixel_size_m == 1.23e-8


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, np.array([1e-8]), np.int64(1), np.array("12 nm")])
def test_a_pixel_size_that_is_none_is_refused(tmp_path, value):
    write_reconstruction(tmp_path / "object.npz", reconstruction())
    with np.load(tmp_path / "object.npz") as plain:
        content = dict(plain)
    np.savez(tmp_path / "bad.npz", **content, pixel_size_m=value)
    with pytest.raises(ContractError, match=r"bad\.npz: pixel_size_m: "):
        read_reconstruction(tmp_path / "bad.npz")


def test_incomplete_or_foreign_reconstruction_is_refused(tmp_path):
    """Invariant 44: removing any member is one clear error."""
    write_reconstruction(tmp_path / "object.npz", reconstruction())
    with np.load(tmp_path / "object.npz") as plain:
        content = dict(plain)
    for key in content:
        np.savez(tmp_path / "less.npz", **{name: array for name, array in content.items() if name != key})
        with pytest.raises(ContractError, match=f"less.npz: {key}: "):
            read_reconstruction(tmp_path / "less.npz")
    with pytest.raises(ContractError, match="keys: diff3d, positions_px"):
        read_reconstruction(archive(tmp_path / "scan.npz", good_members()))
