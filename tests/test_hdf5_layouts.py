"""HDF5 and Zarr files that say themselves what their data are: NeXus, EMD, Velox, HyperSpy."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from stillstack.errors import InputError, UnreadableFrameError
from stillstack.sources import open_source, open_stack, stack_of

Frames = NDArray[Any]
N_FRAMES, HEIGHT, WIDTH = 12, 24, 32
SCAN = (3, 4)
FRAMES: Frames = (
    np.random.default_rng(8).integers(0, 60_000, (N_FRAMES, HEIGHT, WIDTH)).astype("uint16")
)
CUBE = FRAMES.reshape(*SCAN, HEIGHT, WIDTH)


def same(path: Path | str, frames: Frames = FRAMES, **options: Any) -> Any:
    """Source of a file, held against the frames in any range, and by what a task carries."""
    source = open_source(path, **options)
    assert (source.shape, source.dtype) == (frames.shape, frames.dtype)
    for start, stop in [(0, len(frames)), (1, 2), (2, len(frames)), (7, 9)]:
        np.testing.assert_array_equal(source.read(start, stop), frames[start:stop])
    carried = pickle.dumps(stack_of(source, 5, 9, chunk_frames=2).data)
    assert len(carried) < 6000
    np.testing.assert_array_equal(pickle.loads(carried).compute(scheduler="sync"), frames[5:9])
    return source


# ---- NeXus --------------------------------------------------------------------------------------


def write_nexus(path: Path, frames: Frames = FRAMES, *, axes: Sequence[str] = ()) -> Path:
    """As the NeXus manual has it: default and signal say what the data are."""
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": "images"})
        entry["start_time"] = "2026-01-31T02:00:00+01:00"
        data = entry.create_group("images")
        data.attrs.update({"NX_class": "NXdata", "signal": "counts"})
        if axes:
            data.attrs["axes"] = list(axes)
        data.create_dataset(
            "counts", data=frames, chunks=(1,) * (frames.ndim - 2) + frames.shape[-2:],
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )  # fmt: skip
        other = entry.create_group("preview")
        other.attrs.update({"NX_class": "NXdata", "signal": "counts"})
        other["counts"] = np.zeros((5, 6, 7), "uint16")
        entry["instrument/detector/count_time"] = 20.0
        entry["instrument/detector/count_time"].attrs["units"] = "ms"
        detector = entry["instrument/detector"]
        detector.attrs["NX_class"] = "NXdetector"
        detector["description"] = "Eiger"
        for axis in "xy":
            detector[f"{axis}_pixel_size"] = 75e-6
            detector[f"{axis}_pixel_size"].attrs["units"] = "m"
        entry["instrument/beam/incident_energy"] = 80.0
        entry["instrument/beam/incident_energy"].attrs["units"] = "keV"
    return path


def test_nexus_names_its_signal_and_what_the_detector_was(tmp_path: Path) -> None:
    source = same(write_nexus(tmp_path / "a.nxs"))
    told = {
        "exposure_s": 0.02, "detector": "Eiger", "pixel_size": 75e-6, "pixel_size_units": "m",
        "voltage_kv": 80.0, "acquired": "2026-01-31T02:00:00+01:00", "source_format": "NeXus",
    }  # fmt: skip
    assert {name: source.attrs[name] for name in told} == pytest.approx(told)


def test_axes_and_values_a_frame_become_coordinates(tmp_path: Path) -> None:
    path = write_nexus(tmp_path / "a.nxs", axes=("delay", "y", "x"))
    with h5py.File(path, "a") as file:
        file["entry/images/delay"] = np.arange(N_FRAMES) * 0.5
        file["entry/images/y"] = np.arange(HEIGHT)
        file["entry/instrument/detector/time"] = np.arange(N_FRAMES) * 20.0
        file["entry/instrument/detector/time"].attrs["units"] = "ms"
    source = same(path)
    assert set(source.coords) == {"delay", "time"}
    np.testing.assert_allclose(source.coords["time"], np.arange(N_FRAMES) * 0.02)


def test_without_a_default_several_signals_are_listed(tmp_path: Path) -> None:
    path = write_nexus(tmp_path / "a.nxs")
    with h5py.File(path, "a") as file:
        del file.attrs["default"], file["entry"].attrs["default"]
    with pytest.raises(
        InputError, match=r"2 stacks: /entry/images/counts \(12, 24, 32\)"
    ) as caught:
        open_source(path)
    assert "input.variable" in caught.value.cure
    same(path, variable="/entry/images/counts")
    same(f"{path}::/entry/images")


def test_the_signal_of_an_older_nexus_file_is_marked_itself(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file["entry/data/frames"] = FRAMES
        file["entry/data/frames"].attrs["signal"] = 1
        file["entry/data/errors"] = FRAMES
        file["entry/data"].attrs["NX_class"] = "NXdata"
    same(tmp_path / "a.nxs")


def write_master(folder: Path, lengths: Sequence[int]) -> Path:
    """A file that links to parts of the stack in others, as Dectris' file writer does."""
    start = 0
    with h5py.File(folder / "run_master.h5", "w") as master:
        data = master.create_group("entry/data")
        data.attrs["NX_class"] = "NXdata"
        for number, length in enumerate(lengths, 1):
            name = f"run_data_{number:06d}.h5"
            with h5py.File(folder / name, "w") as part:
                part.create_dataset(
                    "entry/data/data", data=FRAMES[start : start + length],
                    chunks=(1, HEIGHT, WIDTH), **hdf5plugin.Bitshuffle(cname="lz4"),
                )  # fmt: skip
            data[f"data_{number:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            start += length
    return folder / "run_master.h5"


def test_the_parts_that_a_master_file_links_are_one_stack(tmp_path: Path) -> None:
    source = same(write_master(tmp_path, (5, 5, 2)))
    assert len(pickle.dumps(source.narrow(6, 8))) < len(pickle.dumps(source.narrow(0, N_FRAMES)))
    before = source.fingerprint()
    with h5py.File(tmp_path / "run_data_000002.h5", "a") as part:
        part["more"] = 1
    assert source.fingerprint() != before


def test_parts_that_are_missing_at_the_end_are_said_and_in_the_middle_refused(
    tmp_path: Path,
) -> None:
    path = write_master(tmp_path, (5, 5, 2))
    (tmp_path / "run_data_000003.h5").unlink()
    source = same(path, FRAMES[:10])
    assert "the last 1 of them are not there" in source.notes[0]
    write_master(tmp_path, (5, 5, 2))
    (tmp_path / "run_data_000002.h5").unlink()
    with pytest.raises(InputError, match="data_000002 to a file that is missing"):
        open_source(path)


# ---- EMD ----------------------------------------------------------------------------------------


def test_an_emd_file_of_ncempy_is_read_with_its_dimensions(tmp_path: Path) -> None:
    emd = pytest.importorskip("ncempy.io.emd")
    path = tmp_path / "a.emd"
    with emd.fileEMD(path, readonly=False) as file:
        dims = (
            (np.arange(N_FRAMES) * 0.25, "time", "[s]"),
            (np.arange(HEIGHT) * 0.1, "y", "[n_m]"),
            (np.arange(WIDTH) * 0.1, "x", "[n_m]"),
        )
        file.put_emdgroup("drift", FRAMES, dims)
        file.microscope.attrs["voltage"] = 200000
    source = same(path)
    np.testing.assert_allclose(source.coords["time"], np.arange(N_FRAMES) * 0.25)
    assert source.attrs["pixel_size"] == pytest.approx(0.1)
    assert source.attrs["pixel_size_units"] == "nm"
    assert source.attrs["voltage"] == 200000


def test_an_emd_file_whose_frames_come_last_is_turned(tmp_path: Path) -> None:
    """As HyperSpy stores EMD: the dimensions in reverse, and named."""
    with h5py.File(tmp_path / "a.emd", "w") as file:
        group = file.create_group("signals/stack")
        group.attrs["emd_group_type"] = 1
        group["data"] = FRAMES.T
        for place, (name, length) in enumerate((("x", WIDTH), ("y", HEIGHT), ("z", N_FRAMES)), 1):
            group[f"dim{place}"] = np.arange(length)
            group[f"dim{place}"].attrs["name"] = name
    same(tmp_path / "a.emd")


def test_a_datacube_of_py4dstem_is_a_scan(tmp_path: Path) -> None:
    """EMD 1.0: dimensions counted from 0, of which the first two values stand for all."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update({"emd_group_type": "file", "version_major": 1, "version_minor": 0})
        group = file.create_group("datacube_root/datacube")
        group.attrs.update({"emd_group_type": "array", "python_class": "DataCube"})
        group["data"] = CUBE
        for place, (name, step, units) in enumerate(
            (("Rx", 2.0, "A"), ("Ry", 2.0, "A"), ("Qx", 0.01, "A^-1"), ("Qy", 0.01, "A^-1"))
        ):
            group[f"dim{place}"] = [0.0, step]
            group[f"dim{place}"].attrs.update({"name": name, "units": units})
    source = same(tmp_path / "a.h5")
    np.testing.assert_array_equal(source.coords["scan_y"], np.repeat(np.arange(3), 4))
    assert source.attrs["pixel_size"] == pytest.approx(0.01)
    assert (source.attrs["scan_step"], source.attrs["scan_step_units"]) == (2.0, "A")


def test_two_groups_of_an_emd_file_are_listed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.emd", "w") as file:
        for name in ("first", "second"):
            file[f"data/{name}/data"] = FRAMES
            file[f"data/{name}"].attrs["emd_group_type"] = 1
    with pytest.raises(InputError, match="2 stacks: /data/first/data"):
        open_source(tmp_path / "a.emd")
    same(tmp_path / "a.emd", variable="data/second")


def write_velox(path: Path, frames: Frames = FRAMES) -> Path:
    """Frames along the last axis, a JSON text in a column of bytes for each."""
    texts = np.zeros((4096, len(frames)), "u1")
    for number in range(len(frames)):
        about = {
            "BinaryResult": {
                "PixelSize": {"width": "2.5e-10", "height": "2.5e-10"},
                "PixelUnitX": "m", "PixelUnitY": "m", "Detector": "BM-Ceta",
            },
            "Optics": {"AccelerationVoltage": "300000", "CameraLength": "0.77"},
            "Detectors": {"Detector-0": {"DetectorName": "BM-Ceta", "ExposureTime": "0.04"}},
            "CustomProperties": {
                "Detectors[BM-Ceta].TimeStamp": {"type": "string",
                                                 "value": str(1769824800000000 + 40000 * number)}
            },
        }  # fmt: skip
        letters = np.frombuffer(json.dumps(about).encode(), "u1")
        texts[: len(letters), number] = letters
    with h5py.File(path, "w") as file:
        file["Version"] = json.dumps({"format": "Velox", "version": "1.10"})
        group = file.create_group("Data/Image/0123abcd")
        stored = np.moveaxis(frames, 0, -1)
        group.create_dataset("Data", data=stored, chunks=(*stored.shape[:2], 1), compression="gzip")
        group.create_dataset("Metadata", data=texts, chunks=(4096, 1), compression="gzip")
    return path


def test_a_velox_file_tells_times_pixels_exposure_and_voltage(tmp_path: Path) -> None:
    source = same(write_velox(tmp_path / "a.emd"))
    assert source.chunk_frames == 1
    assert str(source.coords["time"][0]) == "2026-01-31T02:00:00.000000000"
    np.testing.assert_array_equal(np.diff(source.coords["time"]).astype(int), 40_000_000)
    told = {
        "pixel_size": 2.5e-10, "pixel_size_units": "m", "voltage_kv": 300.0, "exposure_s": 0.04,
        "detector": "BM-Ceta", "camera_length": 0.77,
    }  # fmt: skip
    assert {name: source.attrs[name] for name in told} == pytest.approx(told)


# ---- HyperSpy -----------------------------------------------------------------------------------


def hyperspy_signal(data: Frames) -> dict[str, Any]:
    """What HyperSpy hands to the library that writes its files."""
    names = {3: ("time", "dy", "dx"), 4: ("y", "x", "dy", "dx")}[data.ndim]
    scales = {3: (0.5, 0.02, 0.02), 4: (4.0, 4.0, 0.02, 0.02)}[data.ndim]
    units = {3: ("s", "1/nm", "1/nm"), 4: ("nm", "nm", "1/nm", "1/nm")}[data.ndim]
    axes = [
        {
            "_type": "UniformDataAxis", "name": name, "scale": scale, "offset": 0.0, "units": unit,
            "size": size, "navigate": place < data.ndim - 2, "is_binned": False,
        }
        for place, (name, scale, unit, size) in enumerate(
            zip(names, scales, units, data.shape, strict=True)
        )
    ]  # fmt: skip
    return {
        "data": data,
        "axes": axes,
        "metadata": {
            "General": {"title": "drift", "date": "2026-01-31", "time": "02:00:00"},
            "Signal": {"signal_type": "electron_diffraction"},
            "Acquisition_instrument": {"TEM": {"beam_energy": 80.0}},
        },
        "original_metadata": {},
        "tmp_parameters": {},
        "package_info": {"package": "hyperspy", "package_version": "2.3"},
        "learning_results": {},
        "attributes": {"_lazy": False, "ragged": False},
        "models": {},
    }


def as_zspy(path: Path) -> Path:
    """The same tree in Zarr of format 2, as HyperSpy stores it there; its writer needs zarr 2."""
    folder = path.with_suffix(".zspy")

    def copy(node: Any, group: zarr.Group) -> None:
        group.attrs.update({name: _json(value) for name, value in node.attrs.items()})
        # as a list: the view holds the lock of HDF5 while it is gone through
        for name, child in list(node.items()):
            if isinstance(child, h5py.Group):
                copy(child, group.create_group(name))
            elif child.ndim > 2:
                chunks = (*[1] * (child.ndim - 2), *child.shape[-2:])
                group.create_array(name, shape=child.shape, dtype=child.dtype, chunks=chunks)[
                    ...
                ] = child[...]

    with h5py.File(path) as file:
        copy(file, zarr.open_group(folder, mode="w", zarr_format=2))
    return folder


def _json(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("suffix", ["hspy", "zspy"])
@pytest.mark.parametrize("data", [FRAMES, CUBE], ids=["stack", "scan"])
def test_signals_of_hyperspy_are_read_with_axes_and_metadata(
    suffix: str, data: Frames, tmp_path: Path
) -> None:
    writer = pytest.importorskip("rsciio.hspy")
    path = tmp_path / "a.hspy"
    writer.file_writer(str(path), hyperspy_signal(data), show_progressbar=False)
    if suffix == "zspy":
        path = as_zspy(path)
    source = same(path)
    told = {
        "pixel_size": 0.02, "pixel_size_units": "1/nm", "voltage_kv": 80.0, "title": "drift",
        "acquired": "2026-01-31T02:00:00",
    }  # fmt: skip
    assert {name: source.attrs[name] for name in told} == pytest.approx(told)
    if data.ndim == 3:
        np.testing.assert_allclose(source.coords["time"], np.arange(N_FRAMES) * 0.5)
    else:
        np.testing.assert_array_equal(source.coords["scan_x"], np.tile(np.arange(4), 3))
        assert source.attrs["scan_step"] == 4.0


@pytest.mark.parametrize("suffix", ["hspy", "zspy"])
def test_spectra_of_hyperspy_are_no_frames(suffix: str, tmp_path: Path) -> None:
    writer = pytest.importorskip("rsciio.hspy")
    signal = hyperspy_signal(FRAMES)
    signal["axes"][1]["navigate"] = True
    path = tmp_path / "a.hspy"
    writer.file_writer(str(path), signal, show_progressbar=False)
    with pytest.raises(InputError, match="holds spectra"):
        open_source(as_zspy(path) if suffix == "zspy" else path)


# ---- laziness and damage ------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes by /proc")
@pytest.mark.parametrize("write", [write_nexus, write_velox])
def test_files_are_opened_without_reading_pixels(write: Any, tmp_path: Path) -> None:
    large = np.random.default_rng(1).integers(0, 60_000, (40, 384, 384)).astype("uint16")
    path = write(tmp_path / "a.nxs", large)
    open_stack(path)  # whatever is imported late
    before = bytes_read()
    stack = open_stack(path, chunk_frames=4)[8:20]
    assert bytes_read() - before < 0.05 * large.nbytes
    stack.compute(scheduler="sync")
    assert bytes_read() - before < 0.5 * large.nbytes


def bytes_read() -> int:
    """Bytes that this process has read from anywhere."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_worker_processes_read_them(cluster_client: Any, tmp_path: Path) -> None:
    writer = pytest.importorskip("rsciio.hspy")
    signal = tmp_path / "a.hspy"
    writer.file_writer(str(signal), hyperspy_signal(FRAMES), show_progressbar=False)
    for path in (
        write_velox(tmp_path / "a.emd"),
        write_nexus(tmp_path / "a.nxs", CUBE),
        write_master(tmp_path, (7, 5)),
        signal,
        as_zspy(signal),
    ):
        stack = open_stack(path, chunk_frames=3)
        np.testing.assert_array_equal(stack.compute(), FRAMES)


def test_a_damaged_chunk_costs_its_own_frame(tmp_path: Path) -> None:
    path = write_nexus(tmp_path / "a.nxs", CUBE)
    with h5py.File(path, "r") as file:
        chunk = file["entry/images/counts"].id.get_chunk_info(6)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * 64)
    source = open_source(path)
    np.testing.assert_array_equal(source.read(0, 6), FRAMES[:6])
    with pytest.raises(UnreadableFrameError, match="Frame 6 of"):
        source.read(4, 9)
