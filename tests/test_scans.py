"""Scans: a grid of frames goes in as a line of them, and comes out as the grid again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

import stillstack
from stillstack.cli import app
from stillstack.errors import InputError, UnreadableFrameError
from stillstack.ingest import StackOptions, ingest
from stillstack.scan import scan_coordinates, unstack_scan
from stillstack.sources import open_source, open_stack
from stillstack.sources.contents import contents
from stillstack.sources.folding import boxes

Frames = NDArray[Any]
SCAN = (4, 5)
N_FRAMES = 20
CUBE: Frames = np.random.default_rng(2).integers(0, 60_000, (*SCAN, 16, 24)).astype("uint16")
FRAMES = CUBE.reshape(N_FRAMES, 16, 24)


def write_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", CUBE)
    return folder / "a.npy"


def write_fortran_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", np.asfortranarray(CUBE.astype(">u2")))
    return folder / "a.npy"


def write_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("cube", data=CUBE, chunks=(2, 2, 16, 24), compression="gzip")
    return folder / "a.h5"


def write_zarr(folder: Path) -> Path:
    zarr.create_array(folder / "a.zarr", data=CUBE, chunks=(1, 3, 16, 24))
    return folder / "a.zarr"


def write_xarray(folder: Path) -> Path:
    cube = xr.DataArray(CUBE, dims=("scan_y", "scan_x", "y", "x"), name="frames")
    cube.to_dataset().to_zarr(folder / "a.zarr", zarr_format=3, consolidated=False)
    return folder / "a.zarr"


WRITERS = {w.__name__: w for w in (write_npy, write_fortran_npy, write_hdf5, write_zarr,
                                   write_xarray)}  # fmt: skip


@pytest.fixture(params=WRITERS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A scan, in one format after the other."""
    return WRITERS[request.param](tmp_path)


def test_a_scan_is_folded_row_after_row(path: Path) -> None:
    source = open_source(path)
    assert source.shape == FRAMES.shape
    for start, stop in [(0, N_FRAMES), (3, 4), (3, 7), (5, 15), (7, 19), (4, 6)]:
        part = source.read(start, stop)
        np.testing.assert_array_equal(part, FRAMES[start:stop])
        assert part.dtype.isnative
    np.testing.assert_array_equal(source.coords["scan_y"], np.repeat(np.arange(4), 5))
    np.testing.assert_array_equal(source.coords["scan_x"], np.tile(np.arange(5), 4))


def test_folding_and_unfolding_give_the_grid_without_reading(path: Path) -> None:
    stack = open_stack(path, chunk_frames=2)
    grid = unstack_scan(stack)
    assert isinstance(grid.data, da.Array)
    assert grid.dims == ("scan_y", "scan_x", "y", "x")
    assert max(grid.data.chunksize[:2]) <= 2
    np.testing.assert_array_equal(grid.compute(scheduler="sync"), CUBE)
    np.testing.assert_array_equal(grid["frame"], np.arange(N_FRAMES).reshape(SCAN))


@pytest.mark.parametrize("chunks", [None, (2, 3, 16, 24)])
def test_an_array_of_a_scan_is_folded_and_stays_lazy(chunks: tuple[int, ...] | None) -> None:
    cube = xr.DataArray(
        CUBE,
        dims=("row", "column", "y", "x"),
        coords={"y": np.arange(16) * 0.1, "row": np.arange(4) * 2.0},
    )
    if chunks is not None:
        cube = cube.chunk(dict(zip(cube.dims, chunks, strict=True)))
    stack = open_stack(cube)
    assert stack.dims == ("frame", "y", "x")
    np.testing.assert_array_equal(stack.compute(scheduler="sync"), FRAMES)
    np.testing.assert_array_equal(unstack_scan(stack), CUBE)
    np.testing.assert_allclose(stack["y"], np.arange(16) * 0.1)
    if chunks is not None:
        assert max(stack.data.chunksize[:1]) <= 3
    turned = open_stack(cube.transpose("y", "x", "row", "column"))
    np.testing.assert_array_equal(turned.compute(scheduler="sync"), FRAMES)


def test_worker_processes_read_scans(cluster_client: Any, tmp_path: Path) -> None:
    for number, write in enumerate((write_hdf5, write_zarr)):
        (tmp_path / str(number)).mkdir()
        stack = open_stack(write(tmp_path / str(number)), chunk_frames=3)
        np.testing.assert_array_equal(stack.compute(), FRAMES)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_boxes_hold_a_range_in_order(sizes: list[int], data: st.DataObject) -> None:
    n = math.prod(sizes)
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    numbers = np.arange(n).reshape(sizes)
    found = [numbers[box] for box in boxes(start, stop, sizes)]
    assert np.concatenate([part.ravel() for part in found]).tolist() == list(range(start, stop))
    assert len(found) <= 2 * len(sizes) - 1


def test_every_variable_along_frame_is_unfolded() -> None:
    run = xr.Dataset(
        {
            "shift": (("frame", "axis"), np.arange(40.0).reshape(20, 2), {"units": "pixel"}),
            "valid": (("y", "x"), np.ones((3, 3), bool)),
            "status": ("frame", np.arange(20, dtype="uint16")),
        },
        {"frame": np.arange(100, 120), "axis": ["y", "x"], "delay": ("frame", np.arange(20.0))},
        {"title": "a run"},
    ).assign_coords({name: ("frame", v) for name, v in scan_coordinates(SCAN).items()})
    grid = unstack_scan(run)
    assert grid["shift"].dims == ("scan_y", "scan_x", "axis")
    assert grid["shift"].attrs == {"units": "pixel"}
    assert grid["status"].dtype == np.uint16
    assert grid["valid"].dims == ("y", "x")
    assert grid.attrs == {"title": "a run"}
    assert int(grid["frame"].sel(scan_y=2, scan_x=3)) == 113
    assert float(grid["delay"].sel(scan_y=2, scan_x=3)) == 13.0
    np.testing.assert_array_equal(grid["shift"].values.reshape(20, 2), run["shift"].values)


def test_a_scan_with_frames_left_out_has_nan_there() -> None:
    stack = xr.DataArray(FRAMES, dims=("frame", "y", "x"), coords={"frame": np.arange(20)})
    stack = stack.assign_coords({name: ("frame", v) for name, v in scan_coordinates(SCAN).items()})
    kept = np.delete(np.arange(20), [3, 11])
    grid = unstack_scan(stack.isel(frame=kept))
    assert grid.dims == ("scan_y", "scan_x", "y", "x")
    assert np.isnan(grid.values[0, 3]).all()
    assert np.isnan(grid.values[2, 1]).all()
    np.testing.assert_array_equal(grid.values[1], CUBE[1])


def test_frames_in_another_order_find_their_places() -> None:
    stack = xr.DataArray(FRAMES, dims=("frame", "y", "x"))
    stack = stack.assign_coords({name: ("frame", v) for name, v in scan_coordinates(SCAN).items()})
    shuffled = stack.isel(frame=np.random.default_rng(0).permutation(20))
    np.testing.assert_array_equal(unstack_scan(shuffled), CUBE)


def test_what_is_no_scan_is_refused() -> None:
    stack = xr.DataArray(FRAMES, dims=("frame", "y", "x"))
    with pytest.raises(InputError, match="no coordinates scan_y and scan_x along frame"):
        unstack_scan(stack)
    twice = stack.assign_coords(
        {"scan_y": ("frame", np.zeros(20, int)), "scan_x": ("frame", np.arange(20) // 2)}
    )
    with pytest.raises(InputError, match="2 frames lie at the same place"):
        unstack_scan(twice)


def test_dimensions_that_are_no_scan_keep_their_names(tmp_path: Path) -> None:
    stack = xr.DataArray(CUBE, dims=("time", "z", "y", "x"), name="frames")
    stack.to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    assert set(open_source(tmp_path / "a.zarr").coords) == {"time", "z"}
    opened = open_stack(tmp_path / "a.zarr")
    np.testing.assert_array_equal(unstack_scan(opened, dims=("time", "z")), CUBE)


def test_a_stack_beside_a_scan_is_not_chosen_in_silence(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan"], file["stack"] = CUBE, FRAMES
    with pytest.raises(InputError, match=r"2 stacks: /scan \(4, 5, 16, 24\)"):
        open_source(tmp_path / "a.h5")


def test_a_damaged_chunk_costs_its_frames_alone(tmp_path: Path) -> None:
    path = write_zarr(tmp_path)
    (path / "c/1/0/0/0").write_bytes(b"damaged")
    source = open_source(path)
    np.testing.assert_array_equal(source.read(0, 5), FRAMES[:5])
    np.testing.assert_array_equal(source.read(8, 20), FRAMES[8:])
    with pytest.raises(UnreadableFrameError, match="Frame 5 of"):
        source.read(2, 20)


def test_an_ingested_scan_and_what_it_says_stay_a_scan(path: Path, tmp_path: Path) -> None:
    ingest(open_source(path), tmp_path / "copy.zarr", StackOptions(durable=False))
    grid = stillstack.unstack_scan(open_stack(tmp_path / "copy.zarr"))
    np.testing.assert_array_equal(grid, CUBE)
    found = contents(tmp_path / "copy.zarr")
    assert found.scan == SCAN
    text = CliRunner().invoke(app, ["info", str(path)]).stdout
    assert "4 x 5 positions" in text
    assert "not in the file" in text
