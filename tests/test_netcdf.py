"""netCDF that netCDF4, h5py, SciPy and xarray wrote, and groups that xarray alone understands."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import yaml
from numpy.typing import NDArray
from scipy.io import netcdf_file
from typer.testing import CliRunner

from reading_costs import costs, opened_lightly
from stillstack.cli import app
from stillstack.errors import InputError, MissingExtraError, UnreadableFrameError
from stillstack.ingest import ingest
from stillstack.run import open_run, run
from stillstack.simulation import simulate_stack
from stillstack.sources import open_source, open_stack

SHAPE = (8, 40, 50)
PACKING = {"dtype": "int16", "scale_factor": 0.5, "add_offset": 10.0, "_FillValue": -32768}
DELAYS = np.linspace(-1.0, 2.5, SHAPE[0])


def stillstack(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def counts(dtype: str = "uint16", shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    return np.random.default_rng(4).integers(0, 3000, shape).astype(dtype)


def write_netcdf4(path: Path, values: NDArray[Any], **options: Any) -> str:
    """A file as the netCDF library writes it, with times, delays, and a calibrated detector."""
    with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
        n_frames, height, width = values.shape
        for name, length in (("time", n_frames), ("qy", height), ("qx", width)):
            file.createDimension(name, length)
        time = file.createVariable("time", "f8", ("time",))
        time[:] = 0.5 * np.arange(n_frames)
        time.units, time.calendar = "seconds since 2026-03-01 12:00:00", "standard"
        delay = file.createVariable("delay", "f4", ("time",))
        delay[:] = np.linspace(-1.0, 2.5, n_frames)
        delay.units = "ps"
        for name, length in (("qy", height), ("qx", width)):
            axis = file.createVariable(name, "f4", (name,))
            axis[:] = 0.25 * np.arange(length)
            axis.units = "1/nm"
        shape = file.createVariable(
            "counts", values.dtype, ("time", "qy", "qx"), **{"zlib": True, **options}
        )
        shape[:] = values
        shape.coordinates = "delay"
        file.voltage = 100e3
    return str(path)


def write_classic(path: Path, values: NDArray[Any], *, record: bool = True) -> str:
    """A file of format 3 as SciPy writes it, its frames in records or in one piece."""
    file: Any = netcdf_file(path, "w", version=2)
    file.createDimension("time", None if record else len(values))
    file.createDimension("y", values.shape[1])
    file.createDimension("x", values.shape[2])
    time = file.createVariable("time", "f8", ("time",))
    time[:] = np.arange(len(values))
    time.units = "seconds since 2026-03-01"
    variable = file.createVariable("frames", values.dtype.str[1:], ("time", "y", "x"))
    variable[:] = values
    del time, variable
    file.close()
    return str(path)


def test_a_file_of_the_netcdf_library_is_read_with_all_that_it_knows(tmp_path: Path) -> None:
    values = counts()
    source = open_source(write_netcdf4(tmp_path / "run.nc", values, chunksizes=(4, 40, 50)))
    assert (source.shape, source.dtype, source.chunk_frames) == (SHAPE, values.dtype, 4)
    for start, stop in ((0, 8), (3, 5), (7, 8)):
        np.testing.assert_array_equal(source.read(start, stop), values[start:stop])
    began = np.datetime64("2026-03-01T12:00:00", "ns")
    times = began + np.arange(SHAPE[0]) * np.timedelta64(500, "ms")
    np.testing.assert_array_equal(source.coords["time"], times)
    np.testing.assert_allclose(source.coords["delay"], DELAYS)
    assert source.attrs["delay_units"] == "ps"
    assert source.attrs["pixel_size"] == 0.25
    assert source.attrs["pixel_size_units"] == "1/nm"
    assert source.attrs["voltage"] == 100e3
    assert source.attrs["source_format"] == "netCDF 4"


@pytest.mark.parametrize("record", [True, False], ids=["records", "one-piece"])
def test_classic_files_need_no_extra(record: bool, tmp_path: Path) -> None:
    values = counts("int16")
    source = open_source(write_classic(tmp_path / "old.cdf", values, record=record))
    assert source.dtype == np.dtype("int16")
    assert source.dtype.isnative
    np.testing.assert_array_equal(source.read(0, 8), values)
    np.testing.assert_array_equal(source.read(6, 7), values[6:7])
    assert source.coords["time"][1] == np.datetime64("2026-03-01T00:00:01", "ns")
    assert source.attrs["source_format"] == "netCDF 3"


def test_a_classic_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = Path(write_classic(tmp_path / "old.cdf", counts("int16")))
    assert open_source(path.rename(tmp_path / "no_suffix")).shape == SHAPE


def test_a_file_of_h5py_without_names_of_dimensions_is_read(tmp_path: Path) -> None:
    values = counts()
    with h5py.File(tmp_path / "plain.nc", "w") as file:
        file["frames"] = values
    np.testing.assert_array_equal(open_source(tmp_path / "plain.nc").read(0, 8), values)


def test_missing_values_are_invalid_pixels_and_packed_numbers_are_counts(tmp_path: Path) -> None:
    values = counts("int16")
    values[2, 3, 4] = -1
    missing = open_source(write_netcdf4(tmp_path / "missing.nc", values, fill_value=-1))
    assert missing.dtype == np.dtype("float32")
    np.testing.assert_array_equal(missing.read(2, 3)[0], np.where(values[2] < 0, np.nan, values[2]))
    packed = xr.Dataset({"frames": (("frame", "y", "x"), counts("f8"))})
    encoding = {"frames": PACKING}
    packed.to_netcdf(tmp_path / "packed.nc", engine="h5netcdf", encoding=encoding)
    np.testing.assert_allclose(open_source(tmp_path / "packed.nc").read(0, 8), counts("f8"))


def test_unsigned_counts_of_a_classic_file_are_unsigned(tmp_path: Path) -> None:
    values = np.full((2, 3, 4), 40_000, np.uint16)
    file: Any = netcdf_file(tmp_path / "u.nc", "w")
    for name, length in zip("tyx", values.shape, strict=True):
        file.createDimension(name, length)
    variable = file.createVariable("frames", "i2", ("t", "y", "x"))
    variable[:] = values.view(np.int16)
    variable._Unsigned = "true"
    del variable
    file.close()
    source = open_source(tmp_path / "u.nc")
    assert source.dtype == np.uint16
    np.testing.assert_array_equal(source.read(0, 2), values)


def test_several_dimensions_are_folded_and_kept_as_coordinates(tmp_path: Path) -> None:
    values = counts("float32", (2, 3, 8, 9))
    data = xr.Dataset(
        {"frames": (("scan", "delay", "y", "x"), values)},
        coords={"delay": ("delay", [-1.0, 0.0, 2.0], {"units": "ps"})},
    )
    data.to_netcdf(tmp_path / "scan.nc", engine="netcdf4")
    source = open_source(tmp_path / "scan.nc")
    np.testing.assert_array_equal(source.read(0, 6), values.reshape(6, 8, 9))
    np.testing.assert_array_equal(source.read(2, 5), values.reshape(6, 8, 9)[2:5])
    np.testing.assert_array_equal(source.coords["scan"], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(source.coords["delay"], [-1, 0, 2, -1, 0, 2])


def test_of_several_stacks_one_has_to_be_named_and_groups_count_as_names(tmp_path: Path) -> None:
    path = write_netcdf4(tmp_path / "two.nc", counts())
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("dark", "u2", ("time", "qy", "qx"))[:] = 7
        inside = file.createGroup("raw").createVariable("frames", "u2", ("time", "qy", "qx"))
        inside[:] = 9
    with pytest.raises(InputError, match=r"holds 2 stacks: counts \(time: 8, qy: 40") as caught:
        open_source(path)
    assert "input.variable" in caught.value.cure
    assert (open_source(path, variable="dark").read(0, 1) == 7).all()
    assert (open_source(f"{path}::/raw/frames").read(0, 1) == 9).all()
    with pytest.raises(InputError, match="no variable 'nothing'") as caught:
        open_source(path, variable="nothing")
    assert "counts" in caught.value.cure


def test_a_file_without_a_stack_says_what_it_holds(tmp_path: Path) -> None:
    xr.Dataset({"line": ("x", [1.0, 2.0])}).to_netcdf(tmp_path / "line.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="no variable of three dimensions") as caught:
        open_source(tmp_path / "line.nc")
    assert "line (x: 2) float64" in caught.value.cure


def test_frames_that_are_not_the_first_dimension_are_refused(tmp_path: Path) -> None:
    data = xr.Dataset({"frames": (("y", "x", "frame"), counts("f4"))})
    data.to_netcdf(tmp_path / "last.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="has its dimensions in the order"):
        open_source(tmp_path / "last.nc")


def test_times_of_another_calendar_or_no_unit_that_is_known_are_kept(tmp_path: Path) -> None:
    path = write_netcdf4(tmp_path / "run.nc", counts())
    with netCDF4.Dataset(path, "a") as file:
        file["time"].calendar = "360_day"
    assert open_source(path).coords["time"][1] == "2026-03-01 12:00:00.500000"
    with netCDF4.Dataset(path, "a") as file:
        file["time"].units = "fortnights since the flood"
    source = open_source(path)
    np.testing.assert_allclose(source.coords["time"], 0.5 * np.arange(SHAPE[0]))
    assert "time is kept as it is stored" in source.notes[0]


@pytest.mark.parametrize("kept", [0.2, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["netcdf4", "records", "one-piece"])
def test_a_file_that_was_cut_off_is_refused(kind: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.nc"
    if kind == "netcdf4":
        write_netcdf4(path, counts(), zlib=False)
    else:
        write_classic(path, counts("int16"), record=kind == "records")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=r"truncated|it ends before its last frame"):
        open_source(path)


def test_frames_that_get_lost_later_are_named(tmp_path: Path) -> None:
    path = Path(write_netcdf4(tmp_path / "run.nc", counts(), zlib=False))
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(UnreadableFrameError, match=r"Frame 2 of .*run\.nc::counts"):
        source.read(2, 4)


def test_formats_that_the_netcdf_library_reads_past_their_end_are_refused(tmp_path: Path) -> None:
    """Of a file in classic format that was cut off, the library makes zeros without a word."""
    with netCDF4.Dataset(tmp_path / "five.nc", "w", format="NETCDF3_64BIT_DATA") as file:
        for name, length in zip("tyx", SHAPE, strict=True):
            file.createDimension(name, length)
        file.createVariable("frames", "u2", tuple("tyx"))[:] = counts()
    with pytest.raises(InputError, match=r"CDF-5.*reads the frames that are missing as zeros"):
        open_source(tmp_path / "five.nc")
    classic = write_classic(tmp_path / "old.nc", counts("int16"))
    with pytest.raises(InputError, match="as zeros"):
        open_source(classic, engine="netcdf4")


def test_without_its_package_the_extra_is_named(tmp_path: Path) -> None:
    path = write_netcdf4(tmp_path / "run.nc", counts())
    program = (
        "import sys; sys.modules['h5netcdf'] = sys.modules['netCDF4'] = None\n"
        "from stillstack.sources import open_source\n"
        f"open_source({path!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert MissingExtraError.__name__ in done.stderr
    assert "stillstack[netcdf]" in done.stderr


def test_a_group_of_packed_numbers_is_read_by_the_engine_that_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "packed.zarr"
    packed = xr.Dataset(
        {"frames": (("time", "y", "x"), counts("f8"))},
        coords={"time": np.datetime64("2026-01-01", "ns") + np.arange(8) * np.timedelta64(1, "s")},
    ).chunk(time=2)
    encoding = {"frames": PACKING}
    packed.to_zarr(path, encoding=encoding, consolidated=False)
    with pytest.raises(InputError, match="packed numbers"):
        open_source(path)
    source = open_source(path, engine="zarr")
    np.testing.assert_allclose(source.read(0, 8), counts("f8"))
    assert source.chunk_frames == 2
    np.testing.assert_array_equal(source.coords["time"], packed["time"])
    before = source.fingerprint()
    packed.isel(time=slice(0, 2)).to_zarr(path, region={"time": slice(0, 2)}, consolidated=False)
    assert source.fingerprint() != before


def test_an_engine_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = write_netcdf4(tmp_path / "run.nc", counts())
    with pytest.raises(InputError, match="no engine 'cfgrib'") as caught:
        open_source(path, engine="cfgrib")
    assert "h5netcdf" in caught.value.cure
    with pytest.raises(InputError, match="cannot open"):
        open_source("s3://bucket/run.nc", engine="h5netcdf")


def test_many_threads_read_one_file_at_once(tmp_path: Path) -> None:
    values = counts()
    source = open_source(write_netcdf4(tmp_path / "run.nc", values))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: source.read(n % 8, n % 8 + 1), range(64)))
    for number, frames in enumerate(found):
        np.testing.assert_array_equal(frames[0], values[number % 8])


def test_every_scheduler_reads_the_same(engine: str, tmp_path: Path) -> None:
    values = counts()
    stack = open_stack(write_netcdf4(tmp_path / "run.nc", values), chunk_frames=2)
    np.testing.assert_array_equal(stack.compute(), values)


@pytest.mark.parametrize("kind", ["netcdf4", "classic"])
def test_opening_reads_no_frame_and_what_travels_is_small(kind: str, tmp_path: Path) -> None:
    values = counts("int16", (64, 512, 512))  # 32 MiB
    write = write_classic if kind == "classic" else write_netcdf4
    path = write(tmp_path / "run.nc", values, **({} if kind == "classic" else {"zlib": False}))
    travelling = opened_lightly(path, most_read=500_000)
    with costs() as found:
        np.testing.assert_array_equal(pickle.loads(travelling)[40].compute(), values[40])
    assert found.read < 40 * 2**20


def test_info_tells_what_a_file_is_and_proposes_a_config_that_opens_it(tmp_path: Path) -> None:
    path = write_netcdf4(tmp_path / "run.nc", counts())
    told = json.loads(stillstack("info", path, "--engine", "h5netcdf", "--json").stdout)
    assert (told["format"], told["shape"]) == ("netCDF 4", list(SHAPE))
    assert told["attrs"]["pixel_size_units"] == "1/nm"
    assert told["coords"]["delay"]["last"] == 2.5
    assert yaml.safe_load(told["config"])["input"] == {"path": path, "engine": "h5netcdf"}


def test_ingest_keeps_what_the_file_knows(tmp_path: Path) -> None:
    values = counts()
    source = open_source(write_netcdf4(tmp_path / "run.nc", values))
    ingest(source, tmp_path / "copy.zarr")
    copied = open_source(tmp_path / "copy.zarr")
    np.testing.assert_array_equal(copied.read(0, 8), values)
    np.testing.assert_array_equal(copied.coords["time"], source.coords["time"])
    assert copied.attrs["pixel_size"] == 0.25
    assert copied.attrs["delay_units"] == "ps"


def test_a_run_finds_its_frames_again_by_the_engine_that_the_config_names(tmp_path: Path) -> None:
    stack = simulate_stack(6, (96, 96), seed=3, planted=False)
    data = xr.Dataset({"frames": (("time", "y", "x"), stack.read(0, 6).astype("f8"))})
    data.to_zarr(tmp_path / "p.zarr", encoding={"frames": PACKING}, consolidated=False)
    settings: dict[str, Any] = {
        "input": {"path": str(tmp_path / "p.zarr"), "engine": "zarr"},
        "output": {"path": str(tmp_path / "out.zarr"), "aligned": False},
        "registration": {"max_shift_px": 16},
        "cluster": {"workers": 1},
    }
    found = run(settings)
    whole = np.isfinite(found["aligned"][2].values)
    assert whole.mean() > 0.7


def test_the_command_runs_a_file_on_a_cluster_of_its_own(tmp_path: Path) -> None:
    stack = simulate_stack(8, (96, 96), seed=3, planted=False)
    given = write_netcdf4(tmp_path / "run.nc", stack.read(0, 8))
    config = tmp_path / "run.yaml"
    settings = {
        "input": {"path": given},
        "output": {"path": "out.zarr", "block_frames": 2},
        "registration": {"max_shift_px": 16},
        "cluster": {"workers": 2},
    }
    config.write_text(yaml.safe_dump(settings))
    done = stillstack("run", config)
    assert done.exit_code == 0, done.output
    found = open_run(tmp_path / "out.zarr")
    assert (found["status"].values & 0xFF == 0).all()
    np.testing.assert_allclose(found["delay"], DELAYS)
    assert found["time"].dtype.kind == "M"
