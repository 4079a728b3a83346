"""DOOR-1, DOOR-3 to DOOR-5: containers of other programs, whole and damaged."""

import struct
import sys
import zlib

import numpy as np
import pytest
import scipy.io
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, PtychoError
from ptycho_data.files.containers.images import ImageFile
from ptycho_data.files.containers.mat5 import MatFile, is_mat5
from ptycho_data.files.containers.opened import open_container
from ptycho_data.files.containers.text_table import TextTable, is_text_table

CONTENT = {
    "counts": np.arange(24, dtype=np.uint16).reshape(2, 3, 4),
    "doubles": np.arange(6.0).reshape(2, 3) / 7,
    "small": np.array([[1, 2]], np.uint8),
    "flags": np.array([[True, False]]),
    "probe": np.array([[1 + 2j, 3j]]),
}


@pytest.mark.parametrize("packed", [True, False])
def test_matlab_variables_are_listed_and_read(tmp_path, packed):
    """Names, shapes and values as SciPy wrote them; what is no array of numbers is listed and refused."""
    path = tmp_path / "a.mat"
    cells = np.array([[1], "two"], dtype=object)
    scipy.io.savemat(path, {**CONTENT, "words": "text", "parts": cells}, do_compression=packed)
    file = MatFile(path)
    assert is_mat5(path)
    listed = {name: (shape, dtype) for name, shape, dtype, _ in file.listed()}
    for name, array in CONTENT.items():
        read = file.array(name)
        assert listed[name][0] == array.shape
        np.testing.assert_array_equal(read, array)
        assert listed[name][1].kind == read.dtype.kind or name == "flags"
    assert listed["words"][1] is None
    assert listed["parts"][1] is None
    assert file.array("nothing") is None
    with pytest.raises(ContractError, match="save the array as a variable of its own"):
        file.array("parts")


STRUCTURES = {
    "run": {
        "frames": CONTENT["counts"],
        "name": "text",
        "scan": {"x": np.array([[0.5, 2.5]]), "deep": {"probe": CONTENT["probe"], "on": CONTENT["flags"]}},
        "empty": np.empty((0, 0)),
        "last": np.array([[7]], np.int8),
    },
    "several": np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "after": np.array([[3.0]]),
}


@pytest.mark.parametrize("packed", [True, False])
def test_arrays_in_matlab_structures_have_paths(tmp_path, packed):
    """DOOR-3: values as SciPy wrote them; text is no array, several structures are none, what follows is read."""
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, STRUCTURES, do_compression=packed)
    file = MatFile(path)
    expected = {
        "run/frames": CONTENT["counts"],
        "run/scan/x": np.array([[0.5, 2.5]]),
        "run/scan/deep/probe": CONTENT["probe"],
        "run/scan/deep/on": CONTENT["flags"],
        "run/empty": np.empty((0, 0)),
        "run/last": np.array([[7]]),
        "after": np.array([[3.0]]),
    }
    listed = {name: shape for name, shape, dtype, _ in file.listed() if dtype is not None}
    assert listed == {name: array.shape for name, array in expected.items()}
    for name, array in expected.items():
        np.testing.assert_array_equal(file.array(name), array)
    with pytest.raises(ContractError, match="several structures"):
        file.array("several")


def test_structures_are_followed_to_a_depth_of_eight(tmp_path):
    """DOOR-3: arrays below are passed over; nothing recurses without end."""
    content = {"x": 1.0}
    for _ in range(40):
        content = {"inner": content, "x": 1.0}
    scipy.io.savemat(tmp_path / "a.mat", {"run": content})
    names = [name for name, _, dtype, _ in MatFile(tmp_path / "a.mat").listed() if dtype is not None]
    assert max(name.count("/") for name in names) == 8


@given(data=st.data())
@settings(max_examples=40)
def test_a_damaged_matlab_file_is_an_error_or_other_numbers(tmp_path_factory, data):
    """FILE-6: cut anywhere, or with one byte changed."""
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    content = data.draw(st.sampled_from([CONTENT, STRUCTURES]))
    scipy.io.savemat(path, content, do_compression=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        with open_container(path) as container:
            for entry in container.entries():
                if entry.dtype is not None:
                    container.array(entry.key)
    except PtychoError:
        pass


def test_a_matlab_file_that_claims_to_unpack_to_terabytes_is_refused(tmp_path):
    """A few bytes that declare 10^12 doubles: named before anything is unpacked."""

    def element(kind, payload):
        return struct.pack("<II", kind, len(payload)) + payload + b"\0" * (-len(payload) % 8)

    head = element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack("<2i", 10**6, 10**6)) + element(1, b"bomb")
    matrix = struct.pack("<II", 14, 0xFFFFFFF0) + head + struct.pack("<II", 9, 0xFFFFFF00) + b"\0" * 64
    packed = zlib.compress(matrix)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    (tmp_path / "a.mat").write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ContractError) as caught:
        MatFile(tmp_path / "a.mat").array("bomb")
    assert caught.value.codes == ("mat.bomb",)


@pytest.mark.parametrize(
    ("text", "names", "second"),
    [
        ("x [um], y (nm)\n1, 2\n3, 4\n", ["x", "y"], [2.0, 4.0]),
        ("# a comment\n# pos_x pos_y\n1 2\n3 4e0\n", ["pos_x", "pos_y"], [2.0, 4.0]),
        ("1;2;\n\n3;4;\n", ["1", "2"], [2.0, 4.0]),
        ("\ufeffindex\tx\n1\t2\n3\t4\n# end\n", ["index", "x"], [2.0, 4.0]),
        ("x y z\n1 2\n3 4\n", ["1", "2"], [2.0, 4.0]),
    ],
)
def test_tables_in_text(tmp_path, text, names, second):
    """DOOR-4: dividers, comments, header, names of columns."""
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    assert is_text_table(path)
    table = TextTable(path)
    listed = {name: unit for name, _, _, unit in table.listed()}
    assert list(listed) == ["table", *names]
    np.testing.assert_array_equal(table.array(names[1]), second)
    np.testing.assert_array_equal(table.array("table"), [[1, 2], [3, 4]])
    if "um" in text:
        assert listed["x"] == "um"


def test_a_row_of_another_length_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3\n")
    with pytest.raises(ContractError, match=r"a\.csv, line 3: expected 2 numbers"):
        TextTable(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("x,y\n1,2\nthree,4\n")
    with pytest.raises(ContractError, match="line 3"):
        TextTable(tmp_path / "b.csv")


@given(content=st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_container_or_an_error(tmp_path_factory, content):
    """FILE-6."""
    path = tmp_path_factory.mktemp("any") / "a"
    path.write_bytes(content)
    try:
        with open_container(path) as container:
            for entry in container.entries():
                container.array(entry.key)
    except PtychoError:
        pass


def test_pages_of_a_tiff_are_one_array(tmp_path):
    """DOOR-5: one page has two axes, several have three; colours and cut files are errors."""
    pages = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", pages[0])
    np.testing.assert_array_equal(ImageFile(tmp_path / "a.tif").array("image"), pages)
    np.testing.assert_array_equal(ImageFile(tmp_path / "b.tif").array("image"), pages[0])
    assert ImageFile(tmp_path / "a.tif").listed()[0][1] == (3, 4, 5)
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    (tmp_path / "d.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:100])
    for name in ("c.tif", "d.tif"):
        with pytest.raises(ContractError) as caught:
            ImageFile(tmp_path / name).array("image")
        assert caught.value.codes == ("image.damaged",)


@pytest.mark.parametrize(("head", "extra"), [(b"II*\0", "tiff"), (b"###CBF: VERSION", "fabio")])
def test_a_reader_that_is_not_installed_is_named(tmp_path, monkeypatch, head, extra):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    monkeypatch.setitem(sys.modules, "fabio", None)
    (tmp_path / "a").write_bytes(head.ljust(64, b"\0"))
    with pytest.raises(ContractError, match=rf"pip install 'ptycho-data\[{extra}\]'"):
        ImageFile(tmp_path / "a").listed()
