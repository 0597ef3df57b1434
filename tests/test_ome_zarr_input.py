"""OME-Zarr images that other libraries wrote, read by their metadata."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import dask
import ngff_zarr
import numpy as np
import pytest
import yaml
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image
from ome_zarr_models.v05.axes import Axis
from pydantic_zarr.v3 import ArraySpec
from typer.testing import CliRunner

from reading_costs import costs, opened_lightly
from stillstack.cli import app
from stillstack.errors import InputError
from stillstack.run import open_run
from stillstack.simulation import simulate_stack
from stillstack.sources import open_source, open_stack

SPACES = {"z": "micrometer", "y": "nanometer", "x": "nanometer"}


def stillstack(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def pixels(shape: tuple[int, ...], seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 4000, shape).astype("uint16")


def write_image(
    path: Path,
    values: NDArray[Any],
    dims: str,
    version: str = "0.5",
    *,
    units: dict[str, str] | None = None,
    chunks: Any = None,
) -> str:
    """An image, with a smaller level where it is not flat, as ngff-zarr writes it."""
    steps = {"t": 0.5, "c": 1.0, "z": 2.0, "y": 0.25, "x": 0.125}
    names: Any = tuple(dims)
    image = ngff_zarr.to_ngff_image(
        values,
        dims=names,
        scale={dim: steps[dim] for dim in dims},
        axes_units={**SPACES, "t": "second", **(units or {})},
        name="ring",
    )
    flat = "z" in dims and values.shape[dims.index("z")] == 1  # which it cannot halve
    with dask.config.set(scheduler="synchronous"):  # its arrays do not travel
        factors = [] if flat else [2]
        levels = ngff_zarr.to_multiscales(image, scale_factors=factors, chunks=chunks)
        ngff_zarr.to_ngff_zarr(str(path), levels, version=version)
    return str(path)


def metadata_of(path: str) -> Path:
    root = Path(path)
    return root / "zarr.json" if (root / "zarr.json").exists() else root / ".zattrs"


def mend(path: str, change: Any) -> None:
    """Change the metadata of the image, and drop what was consolidated of them."""
    file = metadata_of(path)
    whole = json.loads(file.read_text())
    whole.pop("consolidated_metadata", None)
    change(whole["attributes"]["ome"] if file.name == "zarr.json" else whole)
    file.write_text(json.dumps(whole))
    (Path(path) / ".zmetadata").unlink(missing_ok=True)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        ("tyx", (6, 40, 50)),
        ("yx", (40, 50)),
        ("cyx", (3, 40, 50)),
        ("tczyx", (4, 1, 1, 40, 50)),
        ("tczyx", (1, 1, 5, 40, 50)),
        ("tczyx", (3, 2, 4, 40, 50)),
    ],
)
def test_the_frames_are_those_of_the_largest_level_in_the_order_of_the_array(
    dims: str, shape: tuple[int, ...], version: str, tmp_path: Path
) -> None:
    values = pixels(shape)
    source = open_source(write_image(tmp_path / "image.ome.zarr", values, dims, version))
    frames = values.reshape(-1, *shape[-2:])
    assert source.shape == frames.shape
    assert source.attrs["source_format"] == f"OME-Zarr {version}"
    assert source.attrs["pixel_size"] == [0.25, 0.125]
    assert source.attrs["pixel_size_units"] == "nanometer"
    assert source.attrs["image_name"] == "ring"
    for start in range(len(frames)):
        for stop in range(start + 1, len(frames) + 1):
            np.testing.assert_array_equal(source.read(start, stop), frames[start:stop])
    np.testing.assert_array_equal(open_stack(source.path).compute(scheduler="threads"), frames)


def test_every_axis_of_several_is_a_coordinate_of_the_frames(tmp_path: Path) -> None:
    source = open_source(write_image(tmp_path / "i.zarr", pixels((3, 2, 4, 8, 9)), "tczyx"))
    t, c, z = (index.ravel() for index in np.indices((3, 2, 4)))
    np.testing.assert_allclose(source.coords["time"], 0.5 * t)
    np.testing.assert_array_equal(source.coords["c"], c)
    np.testing.assert_allclose(source.coords["z"], 2.0 * z)
    assert source.attrs["z_units"] == "micrometer"
    assert set(source.coords) == {"time", "c", "z"}


def test_time_is_in_seconds_whatever_its_unit_and_absent_without_one(tmp_path: Path) -> None:
    picoseconds = write_image(
        tmp_path / "ps.zarr", pixels((3, 8, 9)), "tyx", units={"t": "picosecond"}
    )
    np.testing.assert_allclose(open_source(picoseconds).coords["time"], [0, 5e-13, 1e-12])
    mend(picoseconds, lambda ome: ome["multiscales"][0]["axes"][0].pop("unit"))
    assert not open_source(picoseconds).coords


def test_channels_are_known_by_their_labels(tmp_path: Path) -> None:
    path = write_image(tmp_path / "i.zarr", pixels((2, 3, 8, 9)), "tcyx")
    labels = ["pumped", "probe", "dark"]
    mend(path, lambda ome: ome.update(omero={"channels": [{"label": n} for n in labels]}))
    assert open_source(path).coords["channel"].tolist() == 2 * labels
    mend(path, lambda ome: ome.update(omero={"channels": [{"label": "x"}] * 3}))
    assert "channel" not in open_source(path).coords


def test_steps_follow_from_both_transformations(tmp_path: Path) -> None:
    path = write_image(tmp_path / "i.zarr", pixels((3, 8, 9)), "tyx", "0.4")
    whole = [{"type": "scale", "scale": [10, 4, 4]}]
    mend(path, lambda ome: ome["multiscales"][0].update(coordinateTransformations=whole))
    source = open_source(path)
    assert source.attrs["pixel_size"] == [1.0, 0.5]
    np.testing.assert_allclose(source.coords["time"], [0, 5, 10])


def test_a_smaller_level_is_read_when_it_is_named(tmp_path: Path) -> None:
    path = write_image(tmp_path / "i.zarr", pixels((3, 40, 50)), "tyx")
    small = open_source(f"{path}::scale1/ring")
    assert small.shape == (3, 20, 25)
    assert small.attrs["pixel_size"] == [0.5, 0.25]


def test_a_piece_is_as_many_frames_as_lie_in_one_chunk(tmp_path: Path) -> None:
    values = pixels((6, 1, 4, 8, 9))
    chunks = {"t": 1, "c": 1, "z": 4, "y": 8, "x": 9}
    by_depth = write_image(tmp_path / "z.zarr", values, "tczyx", chunks=chunks)
    assert open_source(by_depth).chunk_frames == 4
    chunks = {"t": 3, "c": 1, "z": 1, "y": 8, "x": 9}
    by_time = write_image(tmp_path / "t.zarr", values, "tczyx", chunks=chunks)
    assert open_source(by_time).chunk_frames == 12


def without(name: str) -> Any:
    return lambda ome: ome["multiscales"][0].pop(name)


FAULTS: dict[str, tuple[Any, str]] = {
    "no axes": (without("axes"), "has no axes"),
    "axes of version 0.3": (
        lambda ome: ome["multiscales"][0].update(axes=["t", "y", "x"]),
        r"axes\[0\] is 't'",
    ),
    "no datasets": (without("datasets"), "names no array"),
    "no scale": (
        lambda ome: ome["multiscales"][0]["datasets"][0].pop("coordinateTransformations"),
        r"datasets\[0\] has no coordinateTransformations",
    ),
    "scale of two axes": (
        lambda ome: ome["multiscales"][0]["datasets"][0].update(
            coordinateTransformations=[{"type": "scale", "scale": [1, 1]}]
        ),
        "is not of 3 axes",
    ),
    "negative scale": (
        lambda ome: ome["multiscales"][0]["datasets"][0].update(
            coordinateTransformations=[{"type": "scale", "scale": [1, -1, 1]}]
        ),
        "not positive",
    ),
    "time last": (
        lambda ome: ome["multiscales"][0]["axes"].reverse(),
        "the last two axes are not of the type space",
    ),
    "columns before rows": (
        lambda ome: ome["multiscales"][0].update(
            axes=[{"name": "t", "type": "time"}, *({"name": n, "type": "space"} for n in "xy")]
        ),
        "rows and columns are the other way round",
    ),
    "an axis too many": (
        lambda ome: ome["multiscales"][0]["axes"].insert(0, {"name": "c", "type": "channel"}),
        "is not of 4 axes",
    ),
    "another version": (lambda ome: ome.update(version="0.9"), "its version is 0.9"),
    "nothing": (lambda ome: ome.update(multiscales=[]), "is not a list of images"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_metadata_that_are_wrong_are_refused_with_what_is_wrong(fault: str, tmp_path: Path) -> None:
    change, said = FAULTS[fault]
    path = write_image(tmp_path / "i.zarr", pixels((3, 8, 9)), "tyx")
    mend(path, change)
    with pytest.raises(InputError, match=said) as caught:
        open_source(path)
    assert "::NAME" in caught.value.cure


def test_an_array_that_is_named_opens_whatever_the_metadata_say_and_that_is_noted(
    tmp_path: Path,
) -> None:
    values = pixels((3, 8, 9))
    path = write_image(tmp_path / "i.zarr", values, "tyx")
    mend(path, without("axes"))
    source = open_source(path, variable="scale0/ring")
    np.testing.assert_array_equal(source.read(0, 3), values)
    assert "has no axes" in source.notes[0]


def test_an_array_that_the_metadata_name_and_that_is_not_there_is_missed(tmp_path: Path) -> None:
    path = write_image(tmp_path / "i.zarr", pixels((3, 8, 9)), "tyx")
    shutil.rmtree(Path(path) / "scale0" / "ring")
    with pytest.raises(InputError, match="has no array 'scale0/ring'"):
        open_source(path)


def series(folder: Path, n_images: int, version: str) -> str:
    """Images under numbers, as bioformats2raw writes them."""
    layout: dict[str, Any] = {"bioformats2raw.layout": 3}
    ours: dict[str, Any] = {"ome": {"version": "0.5", **layout}} if version == "0.5" else layout
    zarr.open_group(folder, mode="w", zarr_format=3 if version == "0.5" else 2, attributes=ours)
    for number in range(n_images):
        write_image(folder / str(number), pixels((3, 8, 9), number), "tyx", version)
    return str(folder)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_of_a_series_the_only_image_is_read_and_of_several_one_has_to_be_named(
    version: str, tmp_path: Path
) -> None:
    one = open_source(series(tmp_path / "one.zarr", 1, version))
    np.testing.assert_array_equal(one.read(0, 3), pixels((3, 8, 9), 0))
    several = series(tmp_path / "several.zarr", 3, version)
    with pytest.raises(InputError, match="holds 3 OME-Zarr images: 0, 1, 2"):
        open_source(several)
    np.testing.assert_array_equal(open_source(f"{several}::2").read(0, 3), pixels((3, 8, 9), 2))


def test_of_a_plate_a_field_has_to_be_named(tmp_path: Path) -> None:
    plate: dict[str, Any] = {"version": "0.5", "plate": {"wells": []}}
    root = zarr.open_group(tmp_path / "plate.zarr", mode="w", attributes={"ome": plate})
    for well in ("A/1/0", "B/2/0"):
        root.create_group(well.rpartition("/")[0])
        write_image(tmp_path / "plate.zarr" / well, pixels((3, 8, 9)), "tyx")
    with pytest.raises(InputError, match="holds 2 OME-Zarr images: A/1/0, B/2/0"):
        open_source(tmp_path / "plate.zarr")
    assert open_source(f"{tmp_path}/plate.zarr::B/2/0").shape == (3, 8, 9)


def test_an_image_that_the_models_of_the_specification_made_is_read(tmp_path: Path) -> None:
    values = pixels((4, 2, 8, 9))
    spec: Any = ArraySpec.from_array(values, dimension_names=("time", "wave", "row", "column"))
    image = Image.new(
        array_specs=[spec],
        paths=["full/counts"],
        axes=[
            Axis(name="time", type="time", unit="minute"),
            Axis(name="wave", type="wavelength"),
            Axis(name="row", type="space"),
            Axis(name="column", type="space"),
        ],
        scales=[[2.0, 1.0, 1.0, 1.0]],
        translations=[None],
    )
    group = image.to_zarr(zarr.storage.LocalStore(tmp_path / "i.zarr"), path="")
    counts = group["full/counts"]
    assert isinstance(counts, zarr.Array)
    counts[...] = values
    source = open_source(tmp_path / "i.zarr")
    np.testing.assert_array_equal(source.read(0, 8), values.reshape(8, 8, 9))
    np.testing.assert_allclose(source.coords["time"], 120.0 * np.repeat(np.arange(4), 2))
    np.testing.assert_array_equal(source.coords["wave"], np.tile([0, 1], 4))
    assert "pixel_size" not in source.attrs


def test_opening_reads_no_frame_and_what_travels_is_small(tmp_path: Path) -> None:
    values = pixels((32, 1, 1, 512, 512))  # 16 MiB that do not compress
    chunks = {"t": 1, "c": 1, "z": 1, "y": 512, "x": 512}
    path = write_image(tmp_path / "i.zarr", values, "tczyx", chunks=chunks)
    travelling = opened_lightly(path, most_read=200_000)
    with costs() as found:
        np.testing.assert_array_equal(pickle.loads(travelling)[7].compute(), values[7, 0, 0])
    assert found.read < 64 * 512 * 512


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_info_tells_what_an_image_is(version: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "i.zarr", pixels((6, 40, 50)), "tyx", version)
    told = json.loads(stillstack("info", path, "--json").stdout)
    assert told["format"] == f"OME-Zarr {version}"
    assert told["shape"] == [6, 40, 50]
    assert told["attrs"]["pixel_size"] == "[0.25, 0.125]"
    assert told["attrs"]["pixel_size_units"] == "nanometer"
    assert told["coords"]["time"]["last"] == 2.5


def test_the_command_runs_an_image_on_a_cluster_of_its_own(tmp_path: Path) -> None:
    stack = simulate_stack(8, (96, 96), seed=3, planted=False)
    image = stack.read(0, 8)[:, None, None]
    given = write_image(tmp_path / "i.zarr", image, "tczyx", "0.4")
    config = tmp_path / "run.yaml"
    settings = {
        "input": {"path": given},
        "output": {"path": "out.zarr"},
        "registration": {"max_shift_px": 16},
        "cluster": {"workers": 2},
    }
    config.write_text(yaml.safe_dump(settings))
    done = stillstack("run", config)
    assert done.exit_code == 0, done.output
    found = open_run(tmp_path / "out.zarr")
    good = found["status"].values & 0xFF == 0
    assert good.all()
    np.testing.assert_allclose(found["time"], 0.5 * np.arange(8))
