"""One scan in the layouts of beamlines, other suites and microscopes, written by hand (specs/files.md, DOOR)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import tifffile
from ptycho_contracts.records import Scan

ENERGY_EV, DISTANCE_M, DETECTOR_PIXEL_M = 8800.0, 2.0, 75e-6
WAVELENGTH_M = 1.239841984332e-6 / ENERGY_EV
ROWS, COLUMNS, STEP_PX = 3, 4, 2.5

Layout = Callable[[Path, Scan], tuple[list[Path], dict[str, Any]]]
"""Writes a scan into a folder; the files to read, and what the user must tell."""

SET_UP = {"energy": "8.8keV", "distance": "2m", "detector_pixel": "75um"}


def object_pixel_m(N: int) -> float:
    """Far field: lambda z / (N detector pixel)."""
    return WAVELENGTH_M * DISTANCE_M / (N * DETECTOR_PIXEL_M)


def metres(scan: Scan) -> np.ndarray:
    """Positions [x, y] in m."""
    return scan.positions_px * object_pixel_m(scan.N)


def ptychoshelves(folder: Path, scan: Scan):
    """Patterns and parameters in two files (APS; AdvancedPhotonSource/pty-chi, tike and fold_slice readers)."""
    x, y = metres(scan).T
    with h5py.File(folder / "data_roi0_dp.hdf5", "w") as file:
        file["dp"] = scan.measurements
    with h5py.File(folder / "data_roi0_para.hdf5", "w") as file:
        file["ppX"], file["ppY"], file["lambda"], file["dx"] = x, y, WAVELENGTH_M, object_pixel_m(scan.N)
    return [folder / "data_roi0_dp.hdf5", folder / "data_roi0_para.hdf5"], {}


def pty_chi(folder: Path, scan: Scan):
    """Positions with their unit in the name, the object's pixel as its attribute, and a probe (pty-chi)."""
    x, y = metres(scan).T
    with h5py.File(folder / "dp.hdf5", "w") as file:
        file["dp"] = scan.measurements
    with h5py.File(folder / "para.hdf5", "w") as file:
        file["probe_position_x_m"], file["probe_position_y_m"] = x, y
        file["probe"], file["object"] = scan.probe, np.ones((1, 60, 60), np.complex64)
        file["object"].attrs["object_pixel_size_m"] = object_pixel_m(scan.N)
    return [folder / "dp.hdf5", folder / "para.hdf5"], {}


def ptylab(folder: Path, scan: Scan):
    """PtyLab: encoder (y, x) in m, zo, dxd."""
    with h5py.File(folder / "lab.hdf5", "w") as file:
        file["ptychogram"], file["encoder"] = scan.measurements, metres(scan)[:, ::-1]
        file["zo"], file["wavelength"], file["dxd"] = DISTANCE_M, WAVELENGTH_M, DETECTOR_PIXEL_M
        file["entrancePupilDiameter"], file["binningFactor"] = 1e-4, 1
    return [folder / "lab.hdf5"], {}


def hxn(folder: Path, scan: Scan):
    """NSLS-II HXN: amplitudes, points (2, M) in um, units at the end of names."""
    with h5py.File(folder / "scan_1.h5", "w") as file:
        file["diffamp"], file["points"] = np.sqrt(scan.counts()), metres(scan).T * 1e6
        file["lambda_nm"], file["z_m"], file["ccd_pixel_um"] = WAVELENGTH_M * 1e9, DISTANCE_M, DETECTOR_PIXEL_M * 1e6
    return [folder / "scan_1.h5"], {}


def nanomax(folder: Path, scan: Scan):
    """MAX IV NanoMAX: deep names, motors in um without a unit, no set-up."""
    x, y = metres(scan).T * 1e6
    with h5py.File(folder / "000123.h5", "w") as file:
        file["entry/measurement/eiger/frames"] = scan.measurements
        file["entry/measurement/pseudo/x"], file["entry/measurement/pseudo/y"] = x, y
        file["entry/measurement/alba/channel1"] = np.ones(len(scan))
    return [folder / "000123.h5"], {"position_unit": "um", **SET_UP}


def diamond(folder: Path, scan: Scan):
    """Diamond: a NeXus raster, patterns as a grid of views beside the two axes of the stage."""
    x, y = metres(scan).reshape(ROWS, COLUMNS, 2).transpose(2, 0, 1)
    with h5py.File(folder / "i13.nxs", "w") as file:
        group = file.create_group("entry/merlin_sw_hdf")
        group["data"] = scan.measurements.reshape(ROWS, COLUMNS, scan.N, scan.N)
        for name, axis in (("t1_sx", x[0]), ("t1_sy", y[:, 0])):
            group[name] = axis * 1e3
            group[name].attrs["units"] = "mm"
        file["entry/instrument/detector/x_pixel_size"] = DETECTOR_PIXEL_M * 1e3
        file["entry/instrument/detector/x_pixel_size"].attrs["units"] = "mm"
        file["entry/instrument/detector/distance"] = DISTANCE_M * 1e3
        file["entry/instrument/detector/distance"].attrs["units"] = "mm"
        file["entry/instrument/monochromator/energy"] = ENERGY_EV / 1e3
        file["entry/instrument/monochromator/energy"].attrs["units"] = "keV"
        file["entry/source/energy"] = 3.0e9
    return [folder / "i13.nxs"], {}


def tike(folder: Path, scan: Scan):
    """Tike: scan (y, x) in pixels."""
    np.savez(folder / "tike.npz", data=scan.measurements, scan=scan.positions_px[:, ::-1].astype(np.float32))
    return [folder / "tike.npz"], {"position_unit": "px"}


def matlab_5(folder: Path, scan: Scan):
    """MATLAB: patterns last, doubles, vectors of two axes, compressed."""
    x, y = metres(scan).T * 1e6
    content = {"cbed": np.moveaxis(scan.measurements, 0, -1).astype(np.float64), "x_um": x, "y_um": y}
    content |= {"energy_keV": ENERGY_EV / 1e3, "distance": DISTANCE_M, "det_pixel": DETECTOR_PIXEL_M}
    scipy.io.savemat(folder / "scan.mat", content, do_compression=True)
    return [folder / "scan.mat"], {}


def matlab_structure(folder: Path, scan: Scan):
    """MATLAB 5: everything in one structure, the set-up in another one within it."""
    set_up = {"wavelength": WAVELENGTH_M, "distance": DISTANCE_M, "det_pixel": DETECTOR_PIXEL_M}
    frames = np.moveaxis(scan.measurements, 0, -1).astype(np.float32)
    scipy.io.savemat(folder / "run.mat", {"run": {"p": set_up, "frames": frames, "positions": metres(scan)}})
    return [folder / "run.mat"], {"position_unit": "m"}


def matlab_73(folder: Path, scan: Scan):
    """MATLAB 7.3: HDF5 behind a header, every array with its axes in reverse order."""
    path = folder / "scan73.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        # In MATLAB: dps(y, x, pattern) and positions(pattern, 2).
        file["dps"] = scan.measurements.transpose(0, 2, 1)
        file["positions"], file["lambda"] = metres(scan).T, np.array([[WAVELENGTH_M]])
        file["detector_distance"], file["det_pixel_size"] = np.array([[DISTANCE_M]]), np.array([[DETECTOR_PIXEL_M]])
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return [path], {}


def numpy_and_csv(folder: Path, scan: Scan):
    """An array, and a table with more columns than positions, named after it."""
    np.save(folder / "run7.npy", scan.measurements)
    table = np.c_[np.arange(len(scan)), metres(scan) * 1e6, np.full(len(scan), 0.1)]
    np.savetxt(folder / "run7_pos.csv", table, delimiter=",", header="index,x [um],y [um],exposure [s]", comments="")
    return [folder / "run7.npy", folder / "run7_pos.csv"], dict(SET_UP)


def tiff_folder(folder: Path, scan: Scan):
    """Frames in a folder, numbers without leading zeros; the raster is told."""
    frames = folder / "tiff"
    frames.mkdir()
    for number, pattern in enumerate(scan.measurements, start=1):
        tifffile.imwrite(frames / f"im_{number}.tif", pattern)
    return [frames], {"raster": f"{ROWS},{COLUMNS}", "step": STEP_PX, "position_unit": "px"}


def tiff_stack(folder: Path, scan: Scan):
    """One file of pages."""
    tifffile.imwrite(folder / "stack.tif", scan.measurements, photometric="minisblack")
    return [folder / "stack.tif"], {"raster": f"{ROWS},{COLUMNS}", "step": STEP_PX, "position_unit": "px"}


def hdf5_parts(folder: Path, scan: Scan):
    """A detector's data files, each a stack, with positions in text without a header."""
    parts = folder / "parts"
    parts.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(scan)), 3), start=1):
        with h5py.File(parts / f"run_data_{number:06d}.h5", "w") as file:
            file["entry/data/data"] = scan.measurements[rows]
    np.savetxt(folder / "stage.txt", metres(scan) * 1e9)
    return [parts], {"positions": folder / "stage.txt", "position_unit": "nm", **SET_UP}


def matlab_frames(folder: Path, scan: Scan):
    """Electron 4D-STEM: one .mat file for each pattern, row and column in its name."""
    frames = folder / "mat"
    frames.mkdir()
    for number, pattern in enumerate(scan.measurements):
        row, column = divmod(number, COLUMNS)
        scipy.io.savemat(frames / f"cbed_{row + 1}_{column + 9}.mat", {"m": pattern.astype(np.float64)})
    return [frames], {"step": STEP_PX, "position_unit": "px"}


def stem_4d(folder: Path, scan: Scan):
    """A 4-d array of electrons, its set-up told: 0.5 mrad a pixel at 200 kV, the raster in Angstrom."""
    np.save(folder / "stem.npy", scan.measurements.reshape(ROWS, COLUMNS, scan.N, scan.N))
    # lambda of 200 kV electrons is 2.50793 pm; pixel = lambda / (N 0.5e-3).
    step = STEP_PX * 2.50793e-12 / (scan.N * 0.5e-3) * 1e10
    return [folder / "stem.npy"], {"step": step, "position_unit": "A", "kv": 200.0, "detector_pixel": "0.5mrad"}


def stem_matlab(folder: Path, scan: Scan):
    """The same in MATLAB: detector first, then row and column."""
    cube = scan.measurements.reshape(ROWS, COLUMNS, scan.N, scan.N).transpose(2, 3, 0, 1).astype(np.float32)
    scipy.io.savemat(folder / "stem.mat", {"cube": cube})
    return [folder / "stem.mat"], {"step": STEP_PX, "position_unit": "px"}


def emd(folder: Path, scan: Scan):
    """EMD of NCEM: a 4-d array with a vector for each of its axes, units in brackets."""
    x, y = metres(scan).reshape(ROWS, COLUMNS, 2).transpose(2, 0, 1)
    with h5py.File(folder / "stem.emd", "w") as file:
        group = file.create_group("data/datacube_000")
        group["data"] = scan.measurements.reshape(ROWS, COLUMNS, scan.N, scan.N)
        angles = (np.arange(scan.N) - scan.N // 2) * 0.5
        for number, (axis, unit) in enumerate(
            ((y[:, 0] * 1e9, "[n_m]"), (x[0] * 1e9, "[n_m]"), (angles, "[m_r_a_d]"), (angles, "[m_r_a_d]")), start=1
        ):
            group[f"dim{number}"] = axis
            group[f"dim{number}"].attrs["units"] = unit
    return [folder / "stem.emd"], {"object_pixel": f"{float(object_pixel_m(scan.N) * 1e9)!r}nm"}


def py4dstem(folder: Path, scan: Scan):
    """py4DSTEM: steps and angles as attributes of a calibration, units beside them."""
    pixel = 2.50793e-12 / (scan.N * 0.5e-3)
    with h5py.File(folder / "py4d.h5", "w") as file:
        file["root/datacube/data"] = scan.measurements.reshape(ROWS, COLUMNS, scan.N, scan.N)
        calibration = file.create_group("root/metadatabundle/calibration")
        calibration.attrs.update({"R_pixel_size": STEP_PX * pixel * 1e10, "R_pixel_units": "A"})
        calibration.attrs.update({"Q_pixel_size": 0.5, "Q_pixel_units": "mrad"})
    return [folder / "py4d.h5"], {"kv": 200.0}


LAYOUTS: tuple[Layout, ...] = (
    ptychoshelves,
    pty_chi,
    ptylab,
    hxn,
    nanomax,
    diamond,
    tike,
    matlab_5,
    matlab_structure,
    matlab_73,
    numpy_and_csv,
    tiff_folder,
    tiff_stack,
    hdf5_parts,
    matlab_frames,
    stem_4d,
    stem_matlab,
    emd,
    py4dstem,
)
