"""Runs as OME-Zarr 0.5 images: held against the specification's models, and read by another reader.

What the levels have to hold is taken from the aligned frames by NumPy.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import dask
import ngff_zarr
import numpy as np
import pytest
import xarray as xr
import zarr
from ome_zarr_models.v05 import Image

from object_servers import Bucket
from stillstack.config import config_digest, make_config
from stillstack.errors import InputError
from stillstack.ingest import ingest
from stillstack.memory import task_bytes
from stillstack.plan import plan
from stillstack.run import open_run, run
from stillstack.simulation import beam_block_figure, simulate_stack
from stillstack.sources import open_source
from stillstack.sources.contents import contents
from stillstack.storage import Axes, RunStore, digest_store, lock_run
from stillstack.verification import verify_store
from stores import stored
from test_downsampling import means_by_numpy
from test_run_kill import Command
from test_storage import template
from workers import worker_threads

pytestmark = pytest.mark.usefixtures("cluster_client")

SHAPE = (300, 523)
N_FRAMES = 7
LEVELS = ("pyramid/1", "pyramid/2")


@pytest.fixture(scope="module")
def frames_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames large enough to have smaller levels, of sides that are no multiples of anything."""
    path = tmp_path_factory.mktemp("frames") / "large.npy"
    stack = simulate_stack(N_FRAMES, SHAPE, seed=2, drift_px=4.0, planted={"blank": [3]})
    np.save(path, stack.read(0, N_FRAMES))
    return path


@pytest.fixture
def config(frames_file: Path, tmp_path: Path) -> dict[str, Any]:
    block = beam_block_figure(SHAPE, margin_px=3.0)
    return {
        "input": {"path": str(frames_file)},
        "output": {"path": str(tmp_path / "out.zarr"), "block_frames": 3, "ome_zarr": True},
        "valid": {"frames": {"exclude": [{"rectangle": block.rod}, {"circle": block.disc}]}},
        "registration": {"max_shift_px": 16},
        "cluster": {"workers": 1},
    }


def changed(config: dict[str, Any], **sections: Any) -> dict[str, Any]:
    merged = {name: {**config.get(name, {}), **more} for name, more in sections.items()}
    return {**config, **merged}


def image_of(path: str | Path) -> Image:
    """The image as the models of the specification have it; they refuse what is wrong."""
    return Image.from_zarr(zarr.open_group(path, mode="r"))


def assert_levels_follow_from_the_frames(path: str | Path) -> None:
    group = zarr.open_group(path, mode="r")
    aligned = group["aligned"]
    assert isinstance(aligned, zarr.Array)
    for number, name in enumerate(LEVELS, start=1):
        level = group[name]
        assert isinstance(level, zarr.Array)
        assert level.chunks[0] == aligned.chunks[0]
        assert level.fill_value == aligned.fill_value or np.isnan(level.fill_value)
        for frame in (0, N_FRAMES - 1):
            wanted = means_by_numpy(np.asarray(aligned[frame]), 2**number, aligned.fill_value)
            np.testing.assert_allclose(np.asarray(level[frame]), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"output": {"shards": True}},
        {"output": {"chunk_frames": 3, "codec": "lz4"}},
        {"alignment": {"canvas": "common", "dtype": "float32"}},
    ],
    ids=["chunks", "shards", "several-in-a-chunk", "common-canvas"],
)
def test_a_run_is_an_image_that_the_specification_and_other_readers_know(
    config: Any, sections: Any
) -> None:
    config = changed(config, **sections)
    found = run(config)
    path = config["output"]["path"]
    multiscale = image_of(path).ome_attributes.multiscales[0]
    assert [(axis.name, axis.type) for axis in multiscale.axes] == [
        ("frame", "time"),
        ("y", "space"),
        ("x", "space"),
    ]
    read = ngff_zarr.from_ngff_zarr(path, validate=True)
    assert [image.data.shape[1:] for image in read.images] == [
        found["aligned"].shape[1:],
        *(zarr.open_array(path, path=name, mode="r").shape[1:] for name in LEVELS),
    ]
    first = read.images[0]
    assert first.scale == {"frame": 1.0, "y": 1.0, "x": 1.0}
    assert read.images[2].scale == {"frame": 1.0, "y": 4.0, "x": 4.0}
    raw = xr.open_zarr(path, mask_and_scale=False)["aligned"]
    with dask.config.set(scheduler="synchronous"):  # its arrays do not travel
        np.testing.assert_array_equal(np.asarray(first.data[2]), raw[2])
    assert_levels_follow_from_the_frames(path)
    # what is seen of the last level lies where it lies in the first
    origin = [float(found[dim][0]) if dim in found.coords else 0.0 for dim in ("y", "x")]
    assert [read.images[2].translation[dim] - 1.5 for dim in ("y", "x")] == origin


def test_the_run_itself_says_what_it_says_without_levels(config: Any, tmp_path: Path) -> None:
    run(config)
    plain = changed(config, output={"path": str(tmp_path / "plain.zarr"), "ome_zarr": False})
    run(plain)
    one, other = open_run(config["output"]["path"]), open_run(plain["output"]["path"])
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())
    assert "ome" not in other.attrs
    assert not (tmp_path / "plain.zarr" / "pyramid").exists()


def test_damage_to_a_level_is_found_and_the_same_command_repairs_it(config: Any) -> None:
    run(config)
    path = Path(config["output"]["path"])
    before = stored(path)
    chunk = path / "pyramid" / "2" / "c" / "4" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    (found,) = verify_store(path).damaged
    assert (found.block, "pyramid/2/c/4/0/0" in found.faults[0]) == (1, True)
    run(config)
    assert stored(path) == before
    assert verify_store(path).sound


def test_a_level_that_is_gone_is_written_again(config: Any) -> None:
    run(config)
    path = Path(config["output"]["path"])
    before = digest_store(path)
    (path / "pyramid" / "1" / "c" / "6" / "0" / "0").unlink()
    run(config)
    assert digest_store(path) == before


def test_everything_killed_at_once_is_finished_by_the_same_command(
    config: Any, tmp_path: Path
) -> None:
    config = changed(config, output={"block_frames": 1})
    undisturbed = changed(config, output={"path": str(tmp_path / "undisturbed.zarr")})
    run(undisturbed)
    command = Command(config, tmp_path)
    try:
        process = command.start()
        command.wait_for_blocks(2, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        command.finish()
    finally:
        command.clean_up()
    assert sorted(command.done()) == list(range(N_FRAMES))
    assert stored(command.path) == stored(undisturbed["output"]["path"])


def test_a_run_in_an_object_store_holds_the_same_levels(config: Any, bucket: Bucket) -> None:
    run(config)
    away = changed(config, output={"path": bucket.place("out.zarr").url, "options": bucket.options})
    with worker_threads(1):  # which have the credentials
        run(away)
    assert digest_store(bucket.place("out.zarr")) == digest_store(config["output"]["path"])
    assert any("/pyramid/2/c/6/0/0" in key for key in bucket.front.stored)
    assert verify_store(bucket.place("out.zarr")).sound
    source = open_source(bucket.place("out.zarr"), variable="pyramid/1")
    assert source.shape == (N_FRAMES, 150, 262)


def test_small_frames_are_an_image_of_one_level(small_config: Any) -> None:
    found = run(changed(small_config, output={"ome_zarr": True}))
    path = small_config["output"]["path"]
    assert [d.path for d in image_of(path).ome_attributes.multiscales[0].datasets] == ["aligned"]
    (only,) = ngff_zarr.from_ngff_zarr(path, validate=True).images
    assert only.data.shape == found["aligned"].shape


def test_a_canvas_that_was_half_made_is_made_again_with_its_levels(tmp_path: Path) -> None:
    images: dict[str, Any] = {
        name: np.ones(SHAPE, bool) for name in ("reference", "reference_valid", "valid")
    }
    with lock_run(tmp_path / "out.zarr") as lock:
        given = template(canvas="common", axes=Axes(), frame_shape=SHAPE, **images)
        store = RunStore.create(lock, given)
        store.create_aligned((290, 500), origin=(2, 3))
        before = digest_store(lock.path)
        (lock.path / "aligned" / "zarr.json").unlink()
        (lock.path / "pyramid" / "1" / "zarr.json").unlink()
        RunStore.resume(lock).create_aligned((290, 500), origin=(2, 3))
        assert digest_store(lock.path) == before


def test_the_plan_counts_the_levels(config: Any) -> None:
    with_levels = plan(make_config(config), calibrated=True)
    without = plan(make_config(changed(config, output={"ome_zarr": False})), calibrated=True)
    pixels = 150 * 262 + 75 * 131
    itemsize = np.dtype(with_levels.layout.aligned_dtype).itemsize
    assert with_levels.layout.level_bytes == pixels * itemsize
    assert with_levels.output_bytes - without.output_bytes == N_FRAMES * pixels * itemsize
    assert with_levels.layout.n_objects == 3 * without.layout.n_objects
    assert task_bytes(with_levels.layout, 1) > task_bytes(without.layout, 1)
    assert with_levels.forecast is not None
    assert without.forecast is not None
    larger = with_levels.forecast.output_bytes / without.forecast.output_bytes
    assert 1.1 < larger < 1.5
    assert with_levels.forecast.ledger_bytes > without.forecast.ledger_bytes


def test_pixel_size_and_time_reach_the_viewer(config: Any, tmp_path: Path) -> None:
    image = ngff_zarr.to_ngff_image(
        np.load(config["input"]["path"]),
        dims=("t", "y", "x"),
        scale={"t": 20.0, "y": 0.25, "x": 0.25},
        axes_units={"t": "millisecond", "y": "nanometer", "x": "nanometer"},
        name="film",
    )
    given = str(tmp_path / "given.ome.zarr")
    levels = ngff_zarr.to_multiscales(image, scale_factors=[])
    with dask.config.set(scheduler="synchronous"):
        ngff_zarr.to_ngff_zarr(given, levels, version="0.5")
    copied = str(tmp_path / "copied.zarr")
    ingest(open_source(given), copied)
    for source in (given, copied):
        sections = changed(
            config,
            input={"path": source},
            output={"path": str(tmp_path / f"{Path(source).stem}-out.zarr")},
        )
        found = run(sections)
        assert found.attrs["pixel_size"] == 0.25
        read = ngff_zarr.from_ngff_zarr(sections["output"]["path"]).images[1]
        assert read.scale == pytest.approx({"frame": 0.02, "y": 0.5, "x": 0.5})
        assert read.axes_units == {"frame": "second", "y": "nanometer", "x": "nanometer"}


def test_the_run_is_an_input_like_any_other(config: Any) -> None:
    run(config)
    path = config["output"]["path"]
    source, small = open_source(path), open_source(path, variable="pyramid/1")
    assert source.shape == (N_FRAMES, *SHAPE)
    assert small.shape == (N_FRAMES, 150, 262)
    assert small.attrs["pixel_size"] == 2.0
    assert (contents(path).kind, contents(path).format) == ("run", "OME-Zarr 0.5")


def test_levels_need_aligned_frames(config: Any) -> None:
    with pytest.raises(InputError, match="ome_zarr is of aligned frames"):
        make_config(changed(config, output={"aligned": False}))


def test_what_is_not_asked_for_is_not_said_in_the_digest(config: Any) -> None:
    least = {"input": {"path": "/a"}, "output": {"path": "/b"}}
    digests = [
        config_digest(make_config(changed(least, output=more)))
        for more in ({}, {"ome_zarr": False}, {"ome_zarr": True})
    ]
    assert digests[0] == digests[1] != digests[2]


def test_viewers_get_a_window_of_counts_that_shows_something(config: Any) -> None:
    found = run(config)
    metadata = json.loads(Path(config["output"]["path"], "zarr.json").read_text())
    window = metadata["attributes"]["ome"]["omero"]["channels"][0]["window"]
    shown = found["reference"].values[found["valid"].values]
    inside = (shown >= window["start"]) & (shown <= window["end"])
    assert 0.97 < inside.mean() < 1.0
