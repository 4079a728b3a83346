"""HDF: files that lead outside, lie about their size, or need what is not there, are each one clear error."""

import struct
import zlib
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_contracts.records import Reconstruction
from ptycho_data.files import read_scan, write_product, write_scan
from ptycho_data.files.containers.global_heaps import first_bad_heap
from ptycho_data.files.containers.hdf5 import Hdf5File
from ptycho_data.files.containers.hdf5_filters import size_of_zstd_frame
from ptycho_data.simulate import simulate


def good(path):
    """A Ptychodus training file, the simplest HDF5 that holds a whole scan."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["patterns"] = rng.poisson(9, (4, 8, 8)).astype(np.uint16)
        file["bad_pixels"] = np.zeros((8, 8), bool)
        file["probe"] = np.ones((1, 8, 8), np.complex64)
        file["object"] = np.ones((20, 20), np.complex64)
        file["probe_position_x_px"] = np.array([5.0, 7, 9, 11])
        file["probe_position_y_px"] = np.array([5.0, 9, 6, 11])
    return path


def codes_of(path):
    with pytest.raises(ContractError) as caught:
        read_scan(path)
    return caught.value.codes


def replaced(path, make):
    with h5py.File(good(path), "r+") as file:
        del file["patterns"]
        make(file)
    return path


@pytest.fixture
def secret(tmp_path):
    """Data outside the file that must never be read."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.full((4, 8, 8), 7, np.uint16)
    (tmp_path / "secret.bin").write_bytes(np.full(256, 7, np.uint16).tobytes())
    return tmp_path


def test_the_good_file_is_read(tmp_path):
    assert len(read_scan(good(tmp_path / "a.h5"))) == 4


def external_link(file):
    file["patterns"] = h5py.ExternalLink("secret.h5", "/x")


def external_behind_soft_links(file):
    file["door"] = h5py.ExternalLink("secret.h5", "/")
    file["patterns"] = h5py.SoftLink("/door/x")


def loop(file):
    file["patterns"] = h5py.SoftLink("/other")
    file["other"] = h5py.SoftLink("/patterns")


def external_storage(file):
    file.create_dataset("patterns", (4, 8, 8), np.uint16, external=[("secret.bin", 0, 512)])


def virtual(file):
    layout = h5py.VirtualLayout((4, 8, 8), np.uint16)
    layout[...] = h5py.VirtualSource("secret.h5", "x", (4, 8, 8))
    file.create_virtual_dataset("patterns", layout)


def objects(file):
    file.create_dataset("patterns", (4, 8, 8), h5py.vlen_dtype(np.uint16))


def records(file):
    file["patterns"] = np.zeros((4, 8, 8), [("a", "u2"), ("b", "u2")])


def huge_unwritten(file):
    file.create_dataset("patterns", (1 << 20, 4096, 4096), np.uint16)


def huge_chunked(file):
    file.create_dataset("patterns", (1 << 20, 4096, 4096), np.uint16, chunks=(1, 64, 64))


def huge_chunk(file):
    file.create_dataset("patterns", (4, 8, 8), np.uint16, chunks=(1024, 512, 512), maxshape=(None, None, None))
    file["patterns"].id.write_direct_chunk((0, 0, 0), b"\0" * 64)


def half_written(file):
    file.create_dataset("patterns", (4, 8, 8), np.uint16, chunks=(1, 8, 8))[0] = 1


def bomb(file):
    data = file.create_dataset("patterns", (400, 512, 512), np.uint16, chunks=(400, 512, 512), compression="gzip")
    data[...] = 0


def with_filters(file, name, filters, shape=(4, 8, 8), chunks=(1, 8, 8)):
    """A dataset of uint16 with these filters, as pairs of code and parameters; nothing is written."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(chunks)
    for code, values in filters:
        plist.set_filter(code, h5py.h5z.FLAG_OPTIONAL, values)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype("u2")), space, plist)
    return file[name]


def raw_chunks(data, raw):
    for place in range(4):
        data.id.write_direct_chunk((place, 0, 0), raw)


def gzip_twice(file):
    """198 KB that became 3 GB: gzip of gzip."""
    data = with_filters(file, "patterns", [(1, (9,)), (1, (9,))])
    raw_chunks(data, zlib.compress(zlib.compress(bytes(1 << 28))))


def gzip_of_lzf(file):
    with_filters(file, "patterns", [(32000, (4, 261, 128)), (1, (9,))])[...] = 1


def shuffled_after_gzip(file):
    with_filters(file, "patterns", [(1, (9,)), (2, (2,))])[...] = 1


def chunk_of_gzip_that_lies(file):
    raw_chunks(with_filters(file, "patterns", [(1, (9,))]), zlib.compress(bytes(1 << 29)))


def chunk_of_szip_that_lies(file):
    raw_chunks(with_filters(file, "patterns", [(4, (169, 8, 16, 64))]), struct.pack("<I", 1 << 31) + bytes(60))


def forged_scaleoffset(file):
    data = file.create_dataset("patterns", (4, 8, 8), np.uint16, chunks=(1, 8, 8), scaleoffset=0)
    data[...] = np.arange(256).reshape(4, 8, 8)


@pytest.mark.parametrize(
    ("make", "codes"),
    [
        (gzip_twice, {"hdf5.filter"}),
        (gzip_of_lzf, {"hdf5.filter"}),
        (shuffled_after_gzip, {"hdf5.filter"}),
        (chunk_of_gzip_that_lies, {"hdf5.bomb"}),
        (chunk_of_szip_that_lies, {"hdf5.bomb"}),
        (external_link, {"hdf5.link"}),
        (external_behind_soft_links, {"hdf5.link"}),
        (loop, {"hdf5.link"}),
        (external_storage, {"hdf5.external"}),
        (virtual, {"hdf5.virtual"}),
        (objects, {"hdf5.dtype"}),
        (records, {"hdf5.dtype"}),
        (huge_unwritten, {"hdf5.unwritten"}),
        (huge_chunked, {"hdf5.bomb"}),
        (huge_chunk, {"hdf5.bomb"}),
        (half_written, {"hdf5.unwritten"}),
        (bomb, {"hdf5.bomb"}),
    ],
)
def test_malicious_datasets_are_refused(secret, monkeypatch, make, codes):
    """Invariant 45: nothing outside the file is read, nothing huge allocated."""
    monkeypatch.chdir(secret)
    assert set(codes_of(replaced(secret / "bad.h5", make))) == codes


def test_a_filter_whose_parameters_are_forged_is_refused(tmp_path):
    """HDF-4a: scale-offset allocates the number of values that its parameters in the file tell."""
    path = replaced(tmp_path / "a.h5", forged_scaleoffset)
    assert len(read_scan(path)) == 4
    content = bytearray(path.read_bytes())
    parameters = struct.pack("<5I", 2, 0, 64, 0, 2)
    assert content.count(parameters) == 1
    struct.pack_into("<I", content, content.index(parameters) + 8, 1 << 30)
    path.write_bytes(content)
    assert codes_of(path) == ("hdf5.bomb",)


@pytest.mark.parametrize(
    "packed",
    [
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf", "shuffle": True},
        {"compression": "szip"},
        {"scaleoffset": 0, "compression": "gzip"},
    ],
)
def test_sound_compressions_are_read(tmp_path, packed, monkeypatch):
    """HDF-4a: also where every chunk is inflated under its bound first."""
    monkeypatch.setattr("ptycho_data.files.containers.hdf5_filters.INFLATED_BYTES", 0)
    counts = np.random.default_rng(0).poisson(9, (4, 32, 32)).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=counts, chunks=(2, 32, 32), **packed)
    with Hdf5File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file.array("x"), counts)


def test_text_is_inflated_under_the_same_bound(tmp_path):
    """HDF-4a: a text of fixed length is data, too."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("text", (1,), "S100000000", chunks=(1,), compression="gzip")[0] = b"x"
    with Hdf5File(tmp_path / "a.h5") as file, pytest.raises(ContractError) as caught:
        file.text("text")
    assert caught.value.codes == ("hdf5.bomb",)


@pytest.mark.parametrize("size", [5, 300, 70_000])
@pytest.mark.parametrize("single", [0, 1])
def test_the_size_of_a_zstd_frame_is_read_from_its_head(size, single):
    """Oracle: heads built by RFC 8878, section 3.1.1.1."""
    flag, width = (0, 1) if size < 256 else (1, 2) if size < 65_792 else (2, 4)
    told = (size - 256 if width == 2 else size).to_bytes(width, "little")
    head = b"\x28\xb5\x2f\xfd" + bytes([flag << 6 | single << 5]) + (b"" if single else b"\x58")
    frame = head + (told if single or flag else b"") + bytes(40)
    assert size_of_zstd_frame(frame) == (size if single or flag else None)


def test_a_soft_link_within_the_file_is_followed(tmp_path):
    def make(file):
        file["data/here"] = np.ones((4, 8, 8), np.uint16)
        file["data/there"] = h5py.SoftLink("here")
        file["patterns"] = h5py.SoftLink("/data/there")

    assert len(read_scan(replaced(tmp_path / "a.h5", make))) == 4


def test_an_unknown_filter_names_the_extra(tmp_path):
    """Compressed detector files: the error says what to install."""

    def make(file):
        file.create_dataset("patterns", data=np.ones((4, 8, 8), np.uint16), chunks=(4, 8, 8), compression="lzf")

    path = replaced(tmp_path / "a.h5", make)
    content = bytearray(path.read_bytes())
    name = content.index(b"lzf\0")
    code = content.rindex(struct.pack("<H", 32000), 0, name)
    content[code : code + 2] = struct.pack("<H", 31999)
    path.write_bytes(content)
    with pytest.raises(ContractError, match=r"filter 31999.*pip install 'ptycho-data\[hdf5plugin\]'"):
        read_scan(path)


def test_arrays_beyond_the_memory_are_refused(tmp_path, monkeypatch):
    path = good(tmp_path / "a.h5")
    monkeypatch.setattr("ptycho_data.free_memory.available_bytes", lambda: 300)
    assert codes_of(path) == ("memory.free",)


def test_a_forged_heap_of_text_is_refused_before_libhdf5_walks_it(tmp_path):
    """Invariant 45: an object of size 0 in a heap lets libhdf5 run for ever."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["text"] = "counts"
    assert first_bad_heap(path) is None
    with Hdf5File(path) as file:
        assert file.text("text") == "counts"
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    struct.pack_into("<HHIQ", content, heap + 16, 0, 0, 0, 0)
    path.write_bytes(content)
    assert first_bad_heap(path) == heap
    with Hdf5File(path) as file, pytest.raises(ContractError, match="broken heap"):
        file.text("text")


def test_large_attributes_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["big"] = np.zeros(100_000)
        file.attrs["small"] = 3.0
    with Hdf5File(path) as file:
        assert file.attribute_number("/", "small") == 3.0
        with pytest.raises(ContractError, match="64 KiB"):
            file.attribute("/", "big")


def test_deep_groups_and_loops_cost_linear_time(tmp_path):
    """HDF-7: the listing ends at 32 levels; groups that hold themselves end, too."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        group = file
        for level in range(3000):
            if level < 50:
                group["x"] = level
            group = group.create_group("g")
        group["round"] = file["/"]
        file["g/round"] = file["/"]
    with Hdf5File(path) as file:
        listed = file.listing()
        assert "/x () int64" in listed
        assert max(line.count("/") for line in listed) <= 34
        assert len(listed) <= 200
        with pytest.raises(ContractError, match="a short path"):
            file.has("g/round/" * 100_000)


@given(data=st.data())
@settings(max_examples=40)
def test_truncated_anywhere(tmp_path_factory, data):
    """Invariant 44: an HDF5 file cut at any byte is refused."""
    path = good(tmp_path_factory.mktemp("cut") / "a.h5")
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert len(codes_of(path)) == 1


SET_UP = {"photon_energy_ev": 8e3, "detector_distance_m": 1.0, "detector_pixel_size_m": 75e-6}
OWN = {
    "cxi": [
        "entry_1/instrument_1/detector_1/data",
        "entry_1/sample_1/geometry_1/translation",
        "entry_1/image_1/data",
        "entry_1/image_2/data",
        "entry_1/instrument_1/detector_1/mask",
        "entry_1/ptycho_1/scan_index",
        "entry_1/ptycho_1/object_origin_yx_px",
    ],
    "h5": [
        "patterns",
        "probe_position_x_m",
        "probe_position_y_m",
        "probe_position_indexes",
        "probe",
        "object",
        "bad_pixels",
        "indexes",
        "ptycho_scan_index",
        "ptycho_object_origin_yx_px",
    ],
}


@pytest.fixture(scope="module")
def own_files(tmp_path_factory):
    """A scan of ours in both formats of HDF5: bytes and, for each array, the place of its only chunk."""
    scan = replace(simulate(N=16, n_patterns=6, seed=0), bad_pixels=np.eye(16, dtype=bool))
    held = {}
    for suffix, names in OWN.items():
        path = tmp_path_factory.mktemp("own") / f"a.{suffix}"
        write_scan(path, scan, geometry=SET_UP)
        assert len(read_scan(path)) == 6
        with h5py.File(path) as file:
            chunks = {name: file[name].id.get_chunk_info(0) for name in names}
            held[suffix] = path.read_bytes(), {name: (one.byte_offset, one.size) for name, one in chunks.items()}
    return held


@pytest.mark.parametrize(("suffix", "name"), [(suffix, name) for suffix, names in OWN.items() for name in names])
@given(data=st.data())
@settings(max_examples=10)
def test_damage_in_our_own_arrays_is_detected_by_the_checksum(tmp_path_factory, own_files, suffix, name, data):
    """Invariant 44, OUT-3: a flipped bit of patterns, probe, object or positions is an error, not another scan."""
    whole, places = own_files[suffix]
    begin, size = places[name]
    content = bytearray(whole)
    content[begin + data.draw(st.integers(0, size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / f"a.{suffix}"
    path.write_bytes(content)
    assert codes_of(path) == ("hdf5.damaged",)


def test_damage_in_a_product_of_ours_is_detected(tmp_path):
    """OUT-3: the image that convert writes for Ptychodus."""
    scan = simulate(N=16, n_patterns=6, seed=0)
    image = Reconstruction(
        object=np.array(scan.object_truth),
        origin_yx_px=scan.object_origin_yx_px,
        weight=np.ones(scan.object_truth.shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
    )
    write_product(tmp_path / "product.h5", image, geometry=SET_UP, losses=[0.5])
    with h5py.File(tmp_path / "product.h5") as file:
        assert all(file[name].fletcher32 for name in ("probe", "object", "probe_position_x_m", "loss_values"))
