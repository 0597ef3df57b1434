"""What `stillstack info` says of a path: frames of any format, a stack, a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import yaml
from typer.testing import CliRunner

from stillstack.cli import app
from stillstack.config import make_config
from stillstack.errors import InputError
from stillstack.plan import plan
from stillstack.run import run
from stillstack.sources.contents import contents, span_of


def stillstack(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def tiffs(tmp_path: Path) -> Path:
    """Twelve images of two scans and six delays."""
    noise = np.random.default_rng(1).poisson(50, (12, 40, 56)).astype("uint16")
    for number, image in enumerate(noise):
        scan, delay = divmod(number, 6)
        tifffile.imwrite(tmp_path / f"scan{scan}_delay{delay / 2 - 1}.tif", image)
    return tmp_path


def test_a_pattern_of_files_is_told_with_what_its_names_say(tiffs: Path) -> None:
    found = contents(str(tiffs / "*.tif"), pattern="scan{scan:d}_delay{delay:f}.tif")
    assert (found.kind, found.format) == ("source", "folder of images")
    assert (found.shape, found.dtype, found.chunk_frames) == ((12, 40, 56), "uint16", 1)
    delay = found.coords["delay"]
    assert (delay.first, delay.last, delay.n_distinct) == (-1.0, 1.5, 6)
    assert found.to_json()["raw_bytes"] == 12 * 40 * 56 * 2


def test_the_config_that_it_proposes_opens_the_same_frames(tiffs: Path, tmp_path: Path) -> None:
    asked = {"pattern": "scan{scan:d}_delay{delay:f}.tif"}
    found = contents(str(tiffs / "*.tif"), **asked)
    proposed = yaml.safe_load(found.config)
    proposed["output"]["path"] = str(tmp_path / proposed["output"]["path"])
    planned = plan(make_config(proposed))
    assert planned.source.shape == found.shape
    assert set(planned.source.coords) == set(found.coords)


def test_what_an_hdf5_file_says_of_pixels_and_exposure_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "/entry/data", data=np.zeros((5, 8, 6), "uint16"), chunks=(1, 8, 6)
        )
        data.attrs["sample"] = "chromium"
        data.attrs["exposure_s"] = 0.25
        data.attrs["pixel_size_um"] = 55.0
    found = contents(path)
    assert (found.format, found.shape) == ("HDF5", (5, 8, 6))
    assert list(found.attrs.items())[:2] == [("exposure_s", "0.25"), ("pixel_size_um", "55.0")]
    assert found.attrs["sample"] == "chromium"


def test_a_stack_of_ours_says_so_and_whether_it_is_whole(tmp_path: Path) -> None:
    stack = tmp_path / "frames.zarr"
    assert stillstack("simulate", stack, "--frames", 20, "--shape", "64x64").exit_code == 0
    found = contents(stack)
    assert (found.kind, found.complete, found.shape) == ("stack", True, (20, 64, 64))
    assert {"true_shift_y", "true_shift_x", "planted"} <= set(found.coords)
    assert "layout" not in found.attrs
    text = stillstack("info", stack)
    assert text.exit_code == 0
    assert "20 of 64 x 64 pixels, uint16" in text.stdout
    assert "a stack of stillstack, complete" in text.stdout
    assert yaml.safe_load(text.stdout.partition("belong:")[2])["input"]["path"] == str(stack)


def test_a_run_is_told_with_its_variables_and_units(cluster_client: Any, small_config: Any) -> None:
    run(small_config)
    path = small_config["output"]["path"]
    found = contents(path)
    assert (found.kind, found.complete, found.shape) == ("run", True, (60, 128, 128))
    assert found.variables["shift"] == "frame x axis, float64, pixel"
    assert found.variables["status"] == "frame, uint16"
    assert found.config == ""
    shown = stillstack("info", path)
    assert "a run of stillstack, complete" in shown.stdout
    assert json.loads(stillstack("info", path, "--json").stdout)["kind"] == "run"


def test_no_frame_is_read(tiffs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> Any:
        raise AssertionError

    monkeypatch.setattr("stillstack.sources.folder.FolderReader.read", refused)
    assert contents(tiffs).shape == (12, 40, 56)


@pytest.mark.parametrize(
    ("values", "first", "last", "n_distinct", "n_missing"),
    [
        ([3, 1, 3], 1, 3, 2, 0),
        ([np.nan, np.nan], None, None, 0, 2),
        (["b", "a", "b"], "b", "b", 2, 0),
        (np.array(["2026-01-02", "NaT"], "M8[D]"), "2026-01-02", "2026-01-02", 1, 1),
    ],
)
def test_values_are_told_from_where_to_where(
    values: Any, first: Any, last: Any, n_distinct: int, n_missing: int
) -> None:
    span = span_of(np.asarray(values))
    assert (span.first, span.last) == (first, last)
    assert (span.n_distinct, span.n_missing) == (n_distinct, n_missing)


def test_what_holds_no_frames_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no frames")
    with pytest.raises(InputError, match=r"notes\.txt"):
        contents(tmp_path / "notes.txt")
    assert stillstack("info", tmp_path / "absent.h5").exit_code == 2
