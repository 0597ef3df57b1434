"""Every kind of source gives the same lazy stack, on every scheduler, and its graph stays small."""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dask.array as da
import dask.base
import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stillstack.errors import InputError
from stillstack.sources import FileSource, image_of, open_source, open_stack, stack_of
from stillstack.sources.folder import FolderReader, checked_numbers
from stillstack.sources.names import coordinates_from_names, natural_key
from stillstack.sources.raw import RawReader

Frames = NDArray[Any]
optimize: Any = dask.base.optimize  # untyped there
N_FRAMES, HEIGHT, WIDTH = 13, 24, 32


@pytest.fixture(scope="module")
def frames() -> Frames:
    counts = np.random.default_rng(3).integers(0, 60_000, (N_FRAMES, HEIGHT, WIDTH))
    return counts.astype("uint16")


def write_tiff_folder(folder: Path, frames: Frames) -> Path:
    for number, frame in enumerate(frames):
        tifffile.imwrite(folder / f"scan{number}.tif", frame)
    return folder


def write_big_endian_folder(folder: Path, frames: Frames) -> Path:
    for number, frame in enumerate(frames):
        tifffile.imwrite(folder / f"s{number}.TIFF", frame, byteorder=">", compression="zlib")
    return folder


def write_pattern(folder: Path, frames: Frames) -> str:
    for number, frame in enumerate(frames):
        part = folder / f"part{number // 4}"
        part.mkdir(exist_ok=True)
        tifffile.imwrite(part / f"f{number}.tif", frame)
    return str(folder / "part*" / "f*.tif")


def write_png_folder(folder: Path, frames: Frames) -> Path:
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"f{number}.png")
    return folder


def write_npy_folder(folder: Path, frames: Frames) -> Path:
    for number, frame in enumerate(frames):
        np.save(folder / f"f{number}.npy", frame)
    (folder / "notes.txt").write_text("not a frame")
    return folder


def tiff_writer(**options: Any) -> Callable[[Path, Frames], Path]:
    def write(folder: Path, frames: Frames) -> Path:
        name = options.get("name", "stack.tif")
        rest = {key: value for key, value in options.items() if key != "name"}
        path = folder / str(name)
        tifffile.imwrite(path, frames, **rest)
        return path

    return write


def write_appended_tiff(folder: Path, frames: Frames) -> Path:
    with tifffile.TiffWriter(folder / "appended.tif") as writer:
        for frame in frames:
            writer.write(frame, contiguous=False, rowsperstrip=8)
    return folder / "appended.tif"


def write_pillow_tiff(folder: Path, frames: Frames) -> Path:
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(folder / "pillow.tif", save_all=True, append_images=others)
    return folder / "pillow.tif"


def write_npy(folder: Path, frames: Frames) -> Path:
    np.save(folder / "stack.npy", frames)
    return folder / "stack.npy"


def write_fortran_npy(folder: Path, frames: Frames) -> Path:
    np.save(folder / "stack.npy", np.asfortranarray(frames.astype(">u2")))
    return folder / "stack.npy"


def write_hdf5(folder: Path, frames: Frames) -> Path:
    with h5py.File(folder / "run.h5", "w") as file:
        options = {"chunks": (4, HEIGHT, WIDTH), "compression": "gzip"}
        file.create_dataset("entry/data/data", data=frames, **options)
        file["entry/dark"] = frames[0]
    return folder / "run.h5"


def write_hdf5_variable(folder: Path, frames: Frames) -> str:
    with h5py.File(folder / "run.nxs", "w") as file:
        file["a"] = frames[::-1]
        file["b"] = frames.astype(">u2")
    return f"{folder / 'run.nxs'}::/b"


def write_zarr_array(version: int, **options: Any) -> Callable[[Path, Frames], Path]:
    def write(folder: Path, frames: Frames) -> Path:
        kwargs: dict[str, Any] = {"chunks": (4, frames.shape[1], 16), **options}
        array = zarr.create_array(
            folder / "stack.zarr",
            shape=frames.shape,
            dtype=frames.dtype,
            zarr_format=version,  # type: ignore[arg-type]
            **kwargs,
        )
        array[:] = frames
        return folder / "stack.zarr"

    return write


def write_xarray_zarr(version: int) -> Callable[[Path, Frames], str]:
    def write(folder: Path, frames: Frames) -> str:
        dataset = xr.Dataset(
            {
                "frames": (("frame", "y", "x"), frames),
                "cubes": (("time", "y", "x"), frames[:2]),
                "dark": (("y", "x"), frames[0]),
            },
        )
        dataset.to_zarr(folder / "run", zarr_format=version, consolidated=False)
        return str(folder / "run")

    return write


WRITERS: dict[str, Callable[[Path, Frames], Any]] = {
    "tiff folder": write_tiff_folder,
    "big-endian zlib tiff folder": write_big_endian_folder,
    "pattern": write_pattern,
    "png folder": write_png_folder,
    "npy folder": write_npy_folder,
    "multi-page tiff": tiff_writer(),
    "tiff of no metadata": tiff_writer(metadata=None),
    "big-endian tiff": tiff_writer(byteorder=">"),
    "zlib tiff": tiff_writer(compression="zlib"),
    "big-endian zlib bigtiff": tiff_writer(bigtiff=True, byteorder=">", compression="zlib"),
    "tiled tiff": tiff_writer(tile=(16, 16)),
    "tiff of one directory": tiff_writer(metadata={"truncate": True}, name="one.tif"),
    "imagej": tiff_writer(imagej=True),
    "ome": tiff_writer(name="stack.ome.tif", metadata={"axes": "TYX"}),
    "ome zlib": tiff_writer(name="s.ome.tif", metadata={"axes": "ZYX"}, compression="zlib"),
    "appended tiff": write_appended_tiff,
    "pillow tiff": write_pillow_tiff,
    "npy": write_npy,
    "fortran npy": write_fortran_npy,
    "hdf5": write_hdf5,
    "hdf5 variable": write_hdf5_variable,
    "zarr 2": write_zarr_array(2),
    "zarr 3": write_zarr_array(3),
    "zarr 3 shards": write_zarr_array(3, shards=(8, HEIGHT, WIDTH)),
    "xarray zarr 2": write_xarray_zarr(2),
    "xarray zarr 3": write_xarray_zarr(3),
}


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path, frames: Frames) -> Any:
    """Path of the frames, in one format after the other."""
    return WRITERS[request.param](tmp_path, frames)


# ---- what every format has in common --------------------------------------------------------


def test_every_format_gives_the_same_frames(written: Any, frames: Frames) -> None:
    stack = open_stack(written, chunk_frames=5)
    assert stack.dims == ("frame", "y", "x")
    assert stack.chunks == ((5, 5, 3), (HEIGHT,), (WIDTH,))
    assert stack.dtype == np.dtype("uint16")
    assert stack.dtype.isnative
    np.testing.assert_array_equal(stack.compute(scheduler="sync"), frames)
    np.testing.assert_array_equal(stack.frame, np.arange(N_FRAMES))


def test_every_format_reads_ranges_by_absolute_number(written: Any, frames: Frames) -> None:
    source = open_source(written)
    assert source.shape == frames.shape
    for start, stop in [(0, 1), (3, 9), (N_FRAMES - 1, N_FRAMES)]:
        part = source.read(start, stop)
        np.testing.assert_array_equal(part, frames[start:stop])
        assert part.dtype.isnative
        lazy = stack_of(source, start, stop, chunk_frames=2)
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), frames[start:stop])
        assert list(lazy.frame) == list(range(start, stop))


def test_every_format_pickles_small_and_names_itself_the_same(written: Any) -> None:
    one, other = (stack_of(open_source(written), 2, 8, chunk_frames=2) for _ in range(2))
    assert one.data.name == other.data.name
    assert dict(one.data.dask).keys() == dict(other.data.dask).keys()
    assert len(pickle.dumps(one.data)) < 6000
    again = pickle.loads(pickle.dumps(open_source(written)))
    np.testing.assert_array_equal(
        stack_of(again, 2, 8).compute(scheduler="sync"), one.compute(scheduler="sync")
    )
    assert stack_of(again, 2, 8, chunk_frames=2).data.name == one.data.name


def test_every_format_stays_the_same_source_when_it_is_moved(written: Any, tmp_path: Path) -> None:
    before = open_source(written).fingerprint()
    assert open_source(written).fingerprint() == before
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    tmp_path.rename(moved)
    try:
        there = str(written).replace(str(tmp_path), str(moved))
        assert open_source(there).fingerprint() == before
    finally:
        moved.rename(tmp_path)


@pytest.mark.parametrize(
    "kind", ["tiff folder", "ome zlib", "imagej", "npy", "hdf5", "zarr 2", "zarr 3"]
)
def test_a_format_computes_on_every_scheduler(
    kind: str, engine: str, tmp_path: Path, frames: Frames
) -> None:
    stack = open_stack(WRITERS[kind](tmp_path, frames), chunk_frames=4)
    np.testing.assert_array_equal(stack.mean("frame").compute(), frames.mean(0))
    np.testing.assert_array_equal(stack[7].compute(), frames[7])


def test_a_source_that_changes_changes_its_fingerprint(written: Any, tmp_path: Path) -> None:
    source = open_source(written)
    before = source.fingerprint()
    pieces = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.name.startswith((".z", "zarr.json", "notes"))
    ]
    for path in pieces:
        path.write_bytes(path.read_bytes()[:-1])
    assert source.fingerprint() != before


# ---- graphs ------------------------------------------------------------------------------------


def fake_folder(n_files: int) -> FileSource:
    names = tuple(
        f"scan{number // 100:04d}_delay{number % 100:03d}.tif" for number in range(n_files)
    )
    reader = FolderReader("/nowhere", names, 0, (2048, 2048), "<u2")
    dtype = np.dtype("uint16")
    shape = (n_files, 2048, 2048)
    return FileSource("fake", "/nowhere", shape, dtype, 1, reader, {"file": np.array(names)})


def test_a_short_slice_of_a_long_folder_makes_a_small_graph() -> None:
    stack = stack_of(fake_folder(100_000), 50_000, 50_010, chunk_frames=1)
    assert len(pickle.dumps(stack)) < 50_000
    assert len(pickle.dumps(stack)) == pytest.approx(
        len(pickle.dumps(stack_of(fake_folder(20_000), 500, 510, chunk_frames=1))), rel=0.1
    )
    assert stack.file.values[0] == "scan0500_delay000.tif"


def test_a_task_carries_only_the_names_of_its_own_files() -> None:
    stack = stack_of(fake_folder(5000), chunk_frames=8)
    (computed,) = optimize(stack.data)
    optimised = dict(computed.dask)
    assert len(optimised) == 625
    assert max(len(pickle.dumps(task)) for task in optimised.values()) < 2000


def test_reading_fuses_with_what_is_mapped_over_it(tmp_path: Path, frames: Frames) -> None:
    stack = open_stack(write_npy(tmp_path, frames), chunk_frames=4)
    mapped = stack.data.map_blocks(np.negative, dtype=stack.dtype)
    (optimised,) = optimize(mapped)
    assert len(dict(optimised.dask)) == stack.data.numblocks[0]
    np.testing.assert_array_equal(mapped.compute(scheduler="sync"), np.negative(frames))


def test_opening_and_slicing_read_no_pixels(tmp_path: Path, frames: Frames) -> None:
    path = write_npy(tmp_path, frames)
    header = path.read_bytes()[:128]
    path.write_bytes(header)  # not one pixel is left
    stack = open_stack(path)
    assert stack[3:5].shape == (2, HEIGHT, WIDTH)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes by /proc")
@pytest.mark.parametrize(
    "kind", ["tiff folder", "zlib tiff", "imagej", "ome", "npy", "hdf5 variable", "zarr 3"]
)
def test_every_kind_of_format_opens_without_reading_pixels(kind: str, tmp_path: Path) -> None:
    large = np.random.default_rng(1).integers(0, 60_000, (40, 512, 512)).astype("uint16")
    path = WRITERS[kind](tmp_path, large)
    open_stack(path)  # whatever is imported late
    before = bytes_read()
    stack = open_stack(path, chunk_frames=4)[8:20]
    opened = bytes_read() - before
    stack.compute(scheduler="sync")
    assert opened < 0.05 * large.nbytes
    # and computing reads what was asked for, with a margin for whole chunks
    assert bytes_read() - before < 0.55 * large.nbytes


def bytes_read() -> int:
    """Bytes that this process has read from anywhere."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_default_chunks_are_whole_pieces_of_the_file_of_about_32_mib() -> None:
    reader = RawReader("/nowhere", 0, (2048, 2048), "<u2")
    shape = (1000, 2048, 2048)
    for piece, expected in [(1, 4), (3, 3), (2, 4), (16, 16)]:
        source = FileSource("s", "/s", shape, np.dtype("u2"), piece, reader)
        assert stack_of(source).data.chunksize[0] == expected


def test_other_sources_of_the_same_shape_work_as_well(frames: Frames) -> None:
    class InMemory:
        name, chunk_frames = "memory", 1
        shape, dtype = frames.shape, frames.dtype
        coords = attrs = MappingProxyType[str, Any]({})

        def read(self, start: int, stop: int) -> Frames:
            return frames[start:stop]

        def fingerprint(self) -> str:
            return "memory"

    stack = stack_of(InMemory(), 2, 9, chunk_frames=3)
    np.testing.assert_array_equal(stack.compute(scheduler="sync"), frames[2:9])


@given(
    start=st.integers(0, N_FRAMES - 1),
    length=st.integers(1, N_FRAMES),
    chunk_frames=st.integers(1, N_FRAMES + 2),
)
def test_every_frame_of_a_range_is_in_exactly_one_chunk(
    start: int, length: int, chunk_frames: int
) -> None:
    stop = min(start + length, N_FRAMES)
    source = fake_folder(N_FRAMES)
    stack = stack_of(source, start, stop, chunk_frames)
    pieces = [piece for task in dict(stack.data.dask).values() for piece in numbers_of(task)]
    assert sorted(pieces) == list(range(start, stop))
    assert set(stack.chunks[0][:-1]) <= {chunk_frames}  # type: ignore[index]


def numbers_of(task: Any) -> range:
    """Frames that a task reads."""
    (carried,) = task.args
    _, start, stop, *_ = carried.value
    return range(start, stop)


# ---- coordinates -------------------------------------------------------------------------------


def test_files_come_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 2, 100, 1):
        tifffile.imwrite(tmp_path / f"scan{number}.tif", np.full((8, 8), number, "uint16"))
    tifffile.imwrite(tmp_path / "._scan3.tif", np.zeros((8, 8), "uint16"))
    stack = open_stack(tmp_path)
    assert [int(value) for value in stack[:, 0, 0]] == [1, 2, 9, 10, 100]
    assert list(stack.file.values[:2]) == ["scan1.tif", "scan2.tif"]


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=30, unique=True))
def test_natural_order_is_the_order_of_numbers(numbers: list[int]) -> None:
    names = [f"run7_{number}.tif" for number in numbers]
    assert sorted(names, key=natural_key) == [f"run7_{number}.tif" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=8), max_size=20, unique=True))
def test_natural_order_sorts_any_names(names: list[str]) -> None:
    assert sorted(sorted(names, key=natural_key)) == sorted(names)


def test_patterns_turn_names_into_coordinates(tmp_path: Path) -> None:
    for number, delay in enumerate((-1.5, 0.0, 12.25)):
        name = f"scan{number:03d}_delay{delay:.2f}_pumped_{number}.tif"
        tifffile.imwrite(tmp_path / name, np.zeros((8, 8), "uint16"))
    pattern = "scan{scan:d}_delay{delay:f}_{state}_{n:d}.tif"
    stack = open_stack(tmp_path, pattern=pattern)
    assert stack.delay.dims == ("frame",)
    np.testing.assert_array_equal(stack.delay, [-1.5, 0.0, 12.25])
    np.testing.assert_array_equal(stack.scan, [0, 1, 2])
    assert stack.scan.dtype == np.int64
    assert set(stack.state.values) == {"pumped"}


def test_a_pattern_with_a_slash_sees_the_folders(tmp_path: Path, frames: Frames) -> None:
    stack = open_stack(write_pattern(tmp_path, frames), pattern="part{part:d}/f{n:d}.tif")
    np.testing.assert_array_equal(stack.part, np.arange(N_FRAMES) // 4)
    np.testing.assert_array_equal(
        open_stack(str(tmp_path / "part*/f*.tif"), pattern="f{n:d}.tif").n, np.arange(N_FRAMES)
    )


def test_times_in_names_become_times() -> None:
    coords = coordinates_from_names(["a_2024-05-01T12:30:00.tif"], "a_{when:ti}.tif")
    assert coords["when"][0] == np.datetime64("2024-05-01T12:30:00")


def test_the_time_of_each_image_comes_along(tmp_path: Path) -> None:
    for number in range(3):
        when = f"2024:05:01 12:30:0{number}"
        tifffile.imwrite(tmp_path / f"{number}.tif", np.zeros((8, 8), "uint16"), datetime=when)
    times = open_stack(tmp_path).time
    assert times.values[2] == np.datetime64("2024-05-01T12:30:02")
    tifffile.imwrite(tmp_path / "3.tif", np.zeros((8, 8), "uint16"))
    assert "time" not in open_stack(tmp_path).coords


def test_hyperstacks_are_folded_and_keep_their_axes(tmp_path: Path) -> None:
    cube = np.arange(3 * 4 * 8 * 8, dtype="uint16").reshape(3, 4, 8, 8)
    tifffile.imwrite(tmp_path / "a.ome.tif", cube, metadata={"axes": "TZYX"})
    tifffile.imwrite(tmp_path / "b.tif", cube, imagej=True, metadata={"axes": "TZYX"})
    tifffile.imwrite(
        tmp_path / "c.tif",
        cube,
        metadata={"axes": "TZYX"},
        compression="zlib",
        photometric="minisblack",
    )
    for name in ("a.ome.tif", "b.tif", "c.tif"):
        stack = open_stack(tmp_path / name)
        np.testing.assert_array_equal(stack.compute(scheduler="sync"), cube.reshape(12, 8, 8))
        np.testing.assert_array_equal(stack.t, np.repeat([0, 1, 2], 4))
        np.testing.assert_array_equal(stack.z, np.tile([0, 1, 2, 3], 3))


def test_ome_times_come_along_in_seconds(tmp_path: Path) -> None:
    metadata = {
        "axes": "TYX",
        "Plane": {"DeltaT": [0.0, 500.0, 1500.0], "DeltaTUnit": ["ms"] * 3},
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((3, 8, 8), "u2"), metadata=metadata)
    np.testing.assert_allclose(open_stack(tmp_path / "a.ome.tif").time, [0, 0.5, 1.5])


def test_an_ome_stack_over_several_files_is_read_whole(tmp_path: Path) -> None:
    data = np.arange(4 * 8 * 8, dtype="uint16").reshape(4, 8, 8)
    plane = '<TiffData IFD="0" FirstT="{t}" PlaneCount="1"><UUID FileName="{f}">urn:uuid:{u}</UUID>'
    uuids = [f"00000000-0000-0000-0000-00000000000{t}" for t in range(4)]
    tiffs = "".join(
        plane.format(t=t, f=f"part{t}.ome.tif", u=uuids[t]) + "</TiffData>" for t in range(4)
    )
    for t in range(4):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?><OME '
            'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{uuids[t]}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            'DimensionOrder="XYCZT" Type="uint16" SizeX="8" SizeY="8" SizeC="1" SizeZ="1" '
            f'SizeT="4"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{tiffs}'
            "</Pixels></Image></OME>"
        )
        tifffile.imwrite(
            tmp_path / f"part{t}.ome.tif", data[t], description=xml, metadata=None, ome=False
        )
    stack = open_stack(tmp_path / "part0.ome.tif", chunk_frames=4)
    np.testing.assert_array_equal(stack.compute(scheduler="sync"), data)


def test_zarr_coordinates_and_attributes_come_along(tmp_path: Path, frames: Frames) -> None:
    times = np.datetime64("2024-05-01T00:00:00", "ns") + np.arange(N_FRAMES) * np.timedelta64(
        1, "s"
    )
    dataset = xr.Dataset(
        {"counts": (("time", "row", "col"), frames, {"units": "count", "_FillValue": 65535})},
        coords={
            "time": times,
            "delay": ("time", np.linspace(-1, 1, N_FRAMES)),
            "label": ("time", [f"f{number}" for number in range(N_FRAMES)]),
            "row": np.arange(HEIGHT),
        },
    )
    for version in (2, 3):
        path = tmp_path / f"v{version}.zarr"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # text in Zarr 3
            dataset.to_zarr(path, zarr_format=version, consolidated=False)
        stack = open_stack(path)
        assert set(stack.coords) == {"frame", "time", "delay", "label"}
        np.testing.assert_array_equal(stack.time, times)
        np.testing.assert_array_equal(stack.delay, dataset.delay)
        assert list(stack.label.values[:2]) == ["f0", "f1"]
        assert stack.attrs["units"] == "count"
        assert "_FillValue" not in stack.attrs
        assert stack[3:5].delay.shape == (2,)


def test_a_run_is_a_source_of_its_aligned_frames(tmp_path: Path, frames: Frames) -> None:
    run = xr.Dataset(
        {
            "aligned": (("frame", "y", "x"), frames),
            "reference": (("group", "y", "x"), frames[:1].astype("float32")),
            "ncc": ("frame", np.ones(N_FRAMES, "float32")),
        },
        coords={"frame": np.arange(N_FRAMES) + 40},
    )
    run.to_zarr(tmp_path / "run.zarr", zarr_format=3, consolidated=False)
    stack = open_stack(tmp_path / "run.zarr")
    np.testing.assert_array_equal(stack.compute(scheduler="sync"), frames)
    assert set(stack.coords) == {"frame", "source_frame"}
    assert stack.frame[0] == 0
    assert stack.source_frame[0] == 40


def test_hdf5_scales_become_coordinates(tmp_path: Path, frames: Frames) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = frames
        file["delay"] = np.linspace(0, 1, N_FRAMES)
        file["delay"].make_scale("delay")
        file["data"].dims[0].attach_scale(file["delay"])
        file["data"].attrs["units"] = "count"
    stack = open_stack(tmp_path / "a.h5")
    np.testing.assert_array_equal(stack.delay, np.linspace(0, 1, N_FRAMES))
    assert stack.attrs["units"] == "count"


def test_an_hdf5_stack_over_several_files_is_read_whole(tmp_path: Path, frames: Frames) -> None:
    layout = h5py.VirtualLayout(shape=(4, HEIGHT, WIDTH), dtype="u2")
    for part in range(2):
        with h5py.File(tmp_path / f"part{part}.h5", "w") as file:
            file["data"] = frames[2 * part : 2 * part + 2]
        layout[2 * part : 2 * part + 2] = h5py.VirtualSource(
            f"part{part}.h5", "data", shape=(2, HEIGHT, WIDTH)
        )
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    source = open_source(tmp_path / "master.h5")
    np.testing.assert_array_equal(source.read(0, 4), frames[:4])
    before = source.fingerprint()
    with h5py.File(tmp_path / "part1.h5", "a") as file:
        file["more"] = 1
    assert source.fingerprint() != before
    (tmp_path / "part1.h5").unlink()
    with pytest.raises(InputError, match=r"part1\.h5 is missing"):
        open_source(tmp_path / "master.h5")


# ---- Zarr handles ------------------------------------------------------------------------------


def test_a_store_that_is_replaced_is_opened_again(tmp_path: Path, frames: Frames) -> None:
    write = write_zarr_array(3)
    path = write(tmp_path, frames)
    source = open_source(path)
    np.testing.assert_array_equal(source.read(0, 2), frames[:2])
    shutil.rmtree(path)
    write_zarr_array(3, chunks=(1, HEIGHT, WIDTH))(tmp_path, frames[::-1])
    np.testing.assert_array_equal(source.read(0, 2), frames[::-1][:2])


def test_a_chunk_that_was_never_written_reads_as_the_fill_value(
    tmp_path: Path, frames: Frames
) -> None:
    path = write_zarr_array(3, chunks=(1, HEIGHT, WIDTH))(tmp_path, frames)
    (path / "c" / "5" / "0" / "0").unlink()
    part = open_source(path).read(4, 7)
    assert not part[1].any()
    np.testing.assert_array_equal(part[[0, 2]], frames[[4, 6]])


def test_the_natural_piece_of_a_sharded_store_is_the_inner_chunk(
    tmp_path: Path, frames: Frames
) -> None:
    path = write_zarr_array(3, shards=(8, HEIGHT, WIDTH))(tmp_path, frames)
    assert open_source(path).chunk_frames == 4


# ---- arrays ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "order"),
    [
        (("frame", "y", "x"), (0, 1, 2)),
        (("t", "row", "col"), (0, 1, 2)),
        (("time", "y", "x"), (0, 1, 2)),
        (("y", "x", "frame"), (2, 0, 1)),
        (("x", "y", "time"), (2, 1, 0)),
    ],
)
def test_dimensions_of_an_array_find_their_roles(
    dims: tuple[str, ...], order: tuple[int, ...], frames: Frames
) -> None:
    array = xr.DataArray(frames, dims=dims, coords={dims[0]: np.arange(N_FRAMES) * 0.5})
    if dims[0] == "frame":
        array = array.drop_vars("frame")
    stack = open_stack(array, chunk_frames=3)
    assert stack.dims == ("frame", "y", "x")
    np.testing.assert_array_equal(stack.values, frames.transpose(order))
    assert stack.chunks is not None
    assert stack.chunks[1:] == ((stack.sizes["y"],), (stack.sizes["x"],))
    if dims[0] in {"t", "time"}:
        np.testing.assert_array_equal(stack[dims[0]], np.arange(N_FRAMES) * 0.5)
        assert stack[dims[0]].dims == ("frame",)


def test_a_lazy_array_stays_lazy_and_is_cut_into_whole_frames() -> None:
    def refuse(block: Frames) -> Frames:
        raise AssertionError

    lazy = da.zeros((6, 8, 8), chunks=(2, 4, 8), dtype="u2").map_blocks(refuse, dtype="u2")
    stack = open_stack(xr.DataArray(lazy, dims=("frame", "y", "x")))
    assert stack.chunks == ((2, 2, 2), (8,), (8,))


def test_frame_numbers_of_a_selection_are_kept(frames: Frames) -> None:
    array = xr.DataArray(frames, dims=("frame", "y", "x"), coords={"frame": np.arange(N_FRAMES)})
    assert list(open_stack(array[4:7]).frame) == [4, 5, 6]
    odd = array.assign_coords(frame=[0.5] * N_FRAMES)
    stack = open_stack(odd)
    assert list(stack.frame) == list(range(N_FRAMES))
    assert stack.source_frame.values[0] == 0.5


def test_an_array_of_another_byte_order_is_turned(frames: Frames) -> None:
    stack = open_stack(xr.DataArray(frames.astype(">u2"), dims=("frame", "y", "x")))
    assert stack.dtype.isnative
    np.testing.assert_array_equal(stack.values, frames)


# ---- single images -----------------------------------------------------------------------------


def test_images_are_read_from_every_kind_of_file(tmp_path: Path, frames: Frames) -> None:
    frame = frames[0]
    tifffile.imwrite(tmp_path / "a.tif", frame, byteorder=">")
    np.save(tmp_path / "a.npy", frame.astype(">u2"))
    Image.fromarray(frame).save(tmp_path / "a.png")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/image"] = frame
    zarr.create_array(tmp_path / "a.zarr", data=frame)
    for name in ("a.tif", "a.npy", "a.png", "a.h5::/deep/image", "a.zarr"):
        image = image_of(tmp_path / name)
        np.testing.assert_array_equal(image, frame)
        assert image.dtype == np.dtype("uint16"), name


def test_valid_areas_are_read_from_booleans_and_from_painted_pictures(tmp_path: Path) -> None:
    valid = np.zeros((8, 10), bool)
    valid[2:5] = True
    np.save(tmp_path / "valid.npy", valid)
    tifffile.imwrite(tmp_path / "valid.tif", valid)
    painted = Image.fromarray(valid.astype("uint8") * 255)
    painted.save(tmp_path / "grey.bmp")
    painted.convert("RGB").save(tmp_path / "rgb.png")
    painted.convert("RGBA").save(tmp_path / "rgba.png")
    painted.convert("1").save(tmp_path / "bits.png")
    for name in ("valid.npy", "valid.tif", "grey.bmp", "rgb.png", "rgba.png", "bits.png"):
        np.testing.assert_array_equal(image_of(tmp_path / name) != 0, valid, err_msg=name)


def test_single_images_are_stacks_of_one_frame(tmp_path: Path, frames: Frames) -> None:
    tifffile.imwrite(tmp_path / "a.tif", frames[0])
    np.save(tmp_path / "a.npy", frames[0])
    np.save(tmp_path / "f.npy", np.asfortranarray(frames[0]))
    Image.fromarray(frames[0]).save(tmp_path / "a.png")
    zarr.create_array(tmp_path / "a.zarr", data=frames[0])
    for name in ("a.tif", "a.npy", "f.npy", "a.png", "a.zarr"):
        np.testing.assert_array_equal(open_source(tmp_path / name).read(0, 1)[0], frames[0])


def test_a_file_is_known_by_its_first_bytes(tmp_path: Path, frames: Frames) -> None:
    for kind in ("npy", "hdf5", "multi-page tiff"):
        path = WRITERS[kind](tmp_path, frames)
        strange = path.rename(tmp_path / f"{kind} of detector.dat")
        np.testing.assert_array_equal(open_source(strange).read(0, N_FRAMES), frames)


def test_all_files_are_checked_up_to_a_thousand_then_ends_and_200_spread() -> None:
    assert list(checked_numbers(1000)) == list(range(1000))
    spread = list(checked_numbers(100_000))
    assert (spread[0], spread[-1], len(set(spread))) == (0, 99_999, 202)


def test_a_home_folder_and_a_relative_path_are_understood(
    tmp_path: Path, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npy(tmp_path, frames)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("~/stack.npy", "stack.npy"):
        assert open_source(path).path == str(tmp_path / "stack.npy")
