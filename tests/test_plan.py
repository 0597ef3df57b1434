"""Plans: sizes that add up, and everything that can be refused, refused at once."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from stillstack.config import RunConfig, make_config
from stillstack.errors import InputError
from stillstack.layout import (
    ONE_PASS,
    SHIFTS_ONLY,
    TWO_PASSES,
    Layout,
    lay_out,
    read_amplification,
    stages_of,
)
from stillstack.memory import coordinator_bytes, task_bytes, worker_bytes
from stillstack.plan import plan
from stillstack.sampling import aligned_dtype
from stillstack.simulation import SimulatedStack
from stillstack.sizing import fitting_workers


def _config(**sections: Any) -> RunConfig:
    return make_config({"input": {"path": "/in"}, "output": {"path": "/out"}, **sections})


def _source(n_frames: int, side: int, chunk_frames: int = 1, dtype: str = "uint16") -> Any:
    return SimpleNamespace(
        shape=(n_frames, side, side), dtype=np.dtype(dtype), chunk_frames=chunk_frames
    )


def _refusal(config: Any) -> str:
    with pytest.raises(InputError) as caught:
        plan(make_config(config)).refuse()
    return str(caught.value)


@given(
    n_frames=st.integers(1, 5000),
    side=st.sampled_from([64, 512, 2048, 4096]),
    source_chunk=st.integers(1, 64),
    chunk_frames=st.integers(1, 6),
)
def test_every_frame_is_in_exactly_one_block_of_whole_chunks(
    n_frames: int, side: int, source_chunk: int, chunk_frames: int
) -> None:
    config = _config(output={"path": "/out", "chunk_frames": chunk_frames})
    layout = lay_out(config, _source(n_frames, side, source_chunk), np.dtype("uint16"))
    assert layout.block_frames >= 1
    assert layout.block_frames % layout.chunk_frames == 0
    assert (layout.n_blocks - 1) * layout.block_frames < n_frames
    assert layout.n_blocks * layout.block_frames >= n_frames
    assert read_amplification(layout, source_chunk) >= 1


@pytest.mark.parametrize(
    ("n_frames", "side", "source_chunk", "block_frames"),
    [
        (36_000, 2048, 1, 8),  # 64 MiB
        (36_000, 2048, 5, 5),  # whole chunks of the source
        (36_000, 2048, 16, 16),  # a little larger, so that no chunk is decoded twice
        (36_000, 4096, 1, 2),
        (100_000, 256, 1, 256),
        (300, 512, 1, 9),  # 34 blocks: four for each of eight workers
        (60, 128, 1, 7),
        (3, 128, 1, 1),
        (40, 2048, 40, 10),  # one large chunk is decoded four times, so that workers can share it
    ],
)
def test_automatic_blocks(n_frames: int, side: int, source_chunk: int, block_frames: int) -> None:
    layout = lay_out(_config(), _source(n_frames, side, source_chunk), np.dtype("uint16"))
    assert layout.block_frames == block_frames


def test_read_amplification_counts_decoded_chunks() -> None:
    layout = Layout(8, (4, 4), "uint16", "uint16", 3, 1, ONE_PASS)
    # blocks 0-2, 3-5, 6-7 of chunks 0-3, 4-7: they decode 4, 8 and 4 frames
    assert read_amplification(layout, 4) == 2.0
    assert read_amplification(layout, 1) == 1.0


def test_stages_follow_the_config() -> None:
    assert stages_of(_config()) == ONE_PASS
    assert stages_of(_config(output={"path": "/o", "aligned": False})) == SHIFTS_ONLY
    assert stages_of(_config(alignment={"canvas": "common"})) == TWO_PASSES


def test_memory_grows_with_blocks_and_frames() -> None:
    pixels = 1024**2
    small, large = (
        Layout(100, (1024, 1024), "uint16", "float32", block, 1, ONE_PASS) for block in (8, 16)
    )
    # aligned frames are compressed one by one, and a few of them wait for the disk
    assert task_bytes(large, 1) - task_bytes(small, 1) == 8 * 2 * pixels
    assert worker_bytes(large, 1) - worker_bytes(small, 1) == 8 * 2 * pixels
    # of groups a worker holds two references, and prepares the second beside the first
    more = worker_bytes(small, 1, grouped=True) - worker_bytes(small, 1)
    assert 4 * 7 * pixels < more < 4 * 34 * pixels
    # five of six frames of a chunk are another block's, and are decoded all the same
    assert task_bytes(small, 6) == task_bytes(small, 1) + (2 * 6 - 1) * 2 * pixels
    shards = replace(large, sharded=True)
    assert task_bytes(shards, 1) - task_bytes(large, 1) == (16 - 4) * 4 * pixels


def test_the_coordinator_needs_more_for_averages_than_for_one_frame() -> None:
    layout = Layout(100, (1024, 1024), "uint16", "uint16", 8, 1, ONE_PASS)
    first, mean, median = (
        coordinator_bytes(layout, _config(reference={"kind": kind}).reference, 2)
        for kind in ("first", "mean", "median")
    )
    assert first < mean <= median
    long = replace(layout, n_frames=10_000_000)
    assert coordinator_bytes(long, _config(reference={"kind": "first"}).reference, 2) > 2 * mean


@given(
    n_frames=st.integers(99_000, 3_000_000),
    side=st.sampled_from([32, 256, 2048]),
    source_chunk=st.sampled_from([1, 7, 64, 1000]),
    chunk_frames=st.one_of(st.integers(1, 20), st.just("auto")),
)
def test_shards_keep_a_long_run_under_100_000_objects(
    n_frames: int, side: int, source_chunk: int, chunk_frames: int | str
) -> None:
    output = {"path": "/out", "chunk_frames": chunk_frames, "shards": "auto"}
    layout = lay_out(_config(output=output), _source(n_frames, side, source_chunk), np.dtype("u2"))
    assert layout.n_objects <= 99_000
    assert layout.block_frames % layout.chunk_frames == 0
    assert layout.sharded == (-(-n_frames // layout.chunk_frames) > 99_000)


def test_shards_are_made_only_when_asked_for_or_needed() -> None:
    source = _source(50_000, 256)
    for shards, sharded in ((False, False), (True, True), ("auto", False)):
        config = _config(output={"path": "/out", "shards": shards})
        assert lay_out(config, source, np.dtype("u2")).sharded == sharded
    only_shifts = _config(output={"path": "/out", "shards": True, "aligned": False})
    assert not lay_out(only_shifts, source, np.dtype("u2")).sharded


def test_automatic_chunks_hold_about_4_mib_and_fit_the_blocks() -> None:
    def frames(side: int, **output: Any) -> tuple[int, int]:
        config = _config(output={"path": "/out", "chunk_frames": "auto", **output})
        layout = lay_out(config, _source(50_000, side), np.dtype("u2"))
        return layout.chunk_frames, layout.block_frames

    assert frames(256) == (32, 256)
    assert frames(2048) == (1, 8)
    # blocks that are done in half the time are twice as large
    assert frames(2048, aligned=False)[1] == 16
    assert frames(512, block_frames=9) == (3, 9)


def test_workers_are_as_many_as_memory_allows() -> None:
    assert fitting_workers(8, 10_000, 1_000) == 8
    assert fitting_workers(8, 3_999, 1_000) == 3
    assert fitting_workers(8, 10, 1_000) == 1


def _machine(monkeypatch: pytest.MonkeyPatch, cores: int, available: int) -> None:
    monkeypatch.setattr("stillstack.cluster.machine_size", lambda: (cores, available))


def test_blocks_are_cut_down_until_a_worker_fits_into_the_memory(
    small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(small_config["input"]["path"] + ".long.npy", np.zeros((64, 512, 512), "u2") + 9)
    small_config["input"]["path"] += ".long.npy"
    small_config["valid"] = {}
    small_config["registration"]["gain"] = 1.0
    del small_config["output"]["block_frames"]
    small_config["output"]["shards"] = True  # all of a block is held until it is whole
    first = plan(make_config(small_config))
    assert first.layout.block_frames == 8
    limit = first.memory.needed_limit - 2**20
    small_config["cluster"] = {"workers": 1, "memory_limit": f"{limit}B"}
    cut = plan(make_config(small_config))
    assert cut.layout.block_frames < 8
    assert cut.memory.needed_limit <= limit
    assert any("instead of 8" in finding.what for finding in cut.warnings)
    # what the config says is refused, not changed
    small_config["output"]["block_frames"] = 8
    refused = plan(make_config(small_config))
    assert refused.layout.block_frames == 8
    assert any("for blocks of 8 frames" in finding.what for finding in refused.errors)


def test_fewer_workers_are_started_where_memory_is_short(
    small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del small_config["cluster"]
    needed = plan(make_config(small_config)).memory.needed_limit
    _machine(monkeypatch, 8, 800 * 2**20 + 3 * needed)
    made = plan(make_config(small_config))
    assert made.workers == 3
    assert made.memory.limit >= needed
    _machine(monkeypatch, 8, needed)
    assert "memory limit" in _refusal(small_config)


def test_a_machine_too_small_to_make_the_reference_is_refused(
    small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, 1, 100 * 2**20)
    assert "To make the reference takes" in _refusal(small_config)
    memory = plan(make_config(small_config)).memory
    # enough where the kernels are there, too little to compile them
    _machine(monkeypatch, 1, (memory.coordinator + memory.needed_coordinator) // 2)
    assert "To make the reference takes" in _refusal(small_config)


def test_jobs_that_ask_for_too_little_memory_are_refused(small_config: Any) -> None:
    small_config["cluster"] = {"kind": "slurm", "workers": 4, "memory_limit": "50MB"}
    assert "4 workers have 47.68 MiB each" in _refusal(small_config)


@pytest.mark.parametrize(
    ("choice", "source", "dose", "expected"),
    [
        ("auto", "uint16", 60.0, "uint16"),
        ("auto", ">u2", 60.0, "uint16"),
        ("auto", "uint16", 3.0, "float32"),
        ("auto", "float64", 60.0, "float32"),
        ("input", "uint8", 0.1, "uint8"),
        ("float32", "uint16", 60.0, "float32"),
    ],
)
def test_the_dtype_of_aligned_frames(choice: str, source: str, dose: float, expected: str) -> None:
    typical = np.full((20, 20), dose)
    typical[:10] = 0.0
    valid = np.zeros((20, 20), bool)
    valid[10:] = True
    assert aligned_dtype(choice, np.dtype(source), typical, valid) == np.dtype(expected)


def test_a_few_dark_pixels_do_not_decide_the_dtype() -> None:
    typical = np.full((100, 100), 30.0)
    valid = np.ones((100, 100), bool)
    typical[0, :99] = 0.0
    assert aligned_dtype("auto", np.dtype("uint16"), typical, valid) == np.uint16
    typical[:2] = 0.0
    assert aligned_dtype("auto", np.dtype("uint16"), typical, valid) == np.float32


def test_a_plan_says_what_it_will_take_and_writes_nothing(
    small_config: Any, small_stack: SimulatedStack, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    made = plan(make_config(small_config)).refuse()
    told = json.loads(json.dumps(made.to_json()))
    assert told["input"]["frames"] == 60
    assert told["blocks"] == {
        "block_frames": 4,
        "chunk_frames": 1,
        "blocks": 15,
        "stages": ["align"],
        "sharded": False,
        "objects": 60,
        "read_amplification": 1.0,
    }
    assert told["output"]["state"] == "new"
    assert told["output"]["bytes_at_most"] > 60 * 128 * 128 * 2
    assert 0.97 < told["noise"]["gain"] < 1.03
    assert told["memory"]["workers"] == 1
    assert told["memory"]["limit_bytes"] > told["memory"]["needed_limit_bytes"]
    assert told["memory"]["needed_limit_bytes"] * 0.8 >= told["memory"]["worker_bytes"]
    assert told["time"] is None
    assert not made.errors
    assert sorted(tmp_path.rglob("*")) == before


def test_two_plans_of_one_config_are_equal(small_config: Any) -> None:
    first, second = (plan(make_config(small_config)).to_json() for _ in range(2))
    first["output"].pop("bytes_free")
    second["output"].pop("bytes_free")
    assert first == second


def test_the_plan_does_not_depend_on_the_cluster(small_config: Any) -> None:
    del small_config["output"]["block_frames"]
    blocks = []
    for workers in (1, 2):
        small_config["cluster"] = {"workers": workers}
        blocks.append(plan(make_config(small_config)).to_json()["blocks"])
    assert blocks[0] == blocks[1]


def test_all_faults_are_told_at_once(small_config: Any, tmp_path: Path) -> None:
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "thesis.tex").write_text("ten years")
    small_config["registration"]["max_shift_px"] = 200
    small_config["reference"] = {"kind": "index", "index": 60}
    small_config["cluster"] = {"workers": 1, "memory_limit": "1MB"}
    message = _refusal(small_config)
    assert "max_shift_px is 200, and the frames are 128 x 128" in message
    assert "memory limit" in message
    assert "was not made by stillstack" in message
    assert "(3)" in message
    assert (tmp_path / "out.zarr" / "thesis.tex").read_text() == "ten years"


def test_a_reference_frame_that_does_not_exist_is_refused(small_config: Any) -> None:
    small_config["reference"] = {"kind": "index", "index": 60}
    assert "names frame 60, and the input has 60 frames" in _refusal(small_config)


def test_a_blank_reference_is_refused(small_config: Any, small_stack: SimulatedStack) -> None:
    blank = small_stack.planted["blank"][0]
    small_config["reference"] = {"kind": "index", "index": blank}
    assert "The reference is blank" in _refusal(small_config)


def test_a_stack_of_nothing_but_blank_frames_is_refused(small_config: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "blank.npy", np.zeros((10, 64, 64), "u2"))
    small_config["input"]["path"] = str(tmp_path / "blank.npy")
    small_config["valid"] = {}
    assert "blank" in _refusal(small_config)


def test_no_valid_pixel_is_refused(small_config: Any) -> None:
    small_config["valid"] = {"frames": {"exclude": [{"rectangle": (0, 128, 0, 128)}]}}
    assert "valid.frames" in _refusal(small_config)


def test_a_missing_input_is_refused(small_config: Any, tmp_path: Path) -> None:
    small_config["input"]["path"] = str(tmp_path / "nowhere.npy")
    assert "nowhere.npy" in _refusal(small_config)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_cannot_be_written_is_refused(small_config: Any, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    small_config["output"]["path"] = str(tmp_path / "closed" / "out.zarr")
    assert "cannot be written" in _refusal(small_config)


def test_an_output_below_a_file_is_refused(small_config: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    small_config["output"]["path"] = str(tmp_path / "file" / "out.zarr")
    assert "cannot be written" in _refusal(small_config)


def test_a_full_disk_is_refused_and_a_tight_one_warned_of(
    small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillstack.storage.free_bytes", lambda _: 1000)
    assert "0.98 kiB are free" in _refusal(small_config)
    needed = plan(make_config(small_config)).output_bytes
    monkeypatch.setattr("stillstack.storage.free_bytes", lambda _: int(0.8 * needed))
    made = plan(make_config(small_config)).refuse()
    assert any("compress badly" in finding.what for finding in made.warnings)


def test_too_large_a_search_is_warned_of(small_config: Any) -> None:
    small_config["registration"]["max_shift_px"] = 110
    made = plan(make_config(small_config)).refuse()
    assert any("overlap too little" in finding.consequence for finding in made.warnings)


@pytest.mark.parametrize(
    ("value", "rules", "warned"),
    [
        (7, {}, True),
        (7, {"equal": [7]}, False),
        (7, {"below": 8}, False),
        (65535, {}, False),  # as the type's largest value it is saturated
        (9999, {}, False),  # no pixel holds it
    ],
)
def test_pixels_that_the_input_calls_no_data_are_warned_of(
    small_config: Any, small_stack: Any, tmp_path: Path, *, value: int, rules: Any, warned: bool
) -> None:
    frames = small_stack.read(0, 12)
    frames[:, 5:9, 5:9] = 7
    counts = ("frame", "y", "x"), frames, {"_FillValue": value}
    xr.Dataset({"counts": counts}).to_zarr(tmp_path / "declared.zarr", consolidated=False)
    small_config["input"]["path"] = str(tmp_path / "declared.zarr")
    small_config["valid"]["frames"].update(rules)
    made = plan(make_config(small_config))
    said = [str(finding) for finding in made.warnings if "no data" in finding.what]
    assert len(said) == warned
    assert not warned or f"valid.frames.equal: [{value}]" in said[0]


def test_source_chunks_that_do_not_fit_are_warned_of(
    small_config: Any, tmp_path: Path, small_stack: SimulatedStack
) -> None:
    import zarr

    array = zarr.create_array(
        tmp_path / "in.zarr", shape=(60, 128, 128), chunks=(16, 128, 128), dtype="uint16"
    )
    array[...] = small_stack.read(0, 60)
    small_config["input"]["path"] = str(tmp_path / "in.zarr")
    made = plan(make_config(small_config)).refuse()
    assert made.read_amplification == 3.8  # the last chunk is not full
    assert any("decoded 3.8 times" in finding.what for finding in made.warnings)


def test_an_active_client_brings_its_own_workers(small_config: Any, cluster_client: Any) -> None:
    made = plan(make_config(small_config)).refuse()
    assert made.workers == 0
    assert made.memory.limit == 0


def test_a_changed_valid_image_changes_the_fingerprint(small_config: Any, tmp_path: Path) -> None:
    image = np.full((128, 128), 255, "u1")
    image[100:] = 0
    np.save(tmp_path / "valid.npy", image)
    small_config["valid"]["frames"]["image"] = str(tmp_path / "valid.npy")
    first = plan(make_config(small_config)).refuse()
    image[90:] = 0
    np.save(tmp_path / "valid.npy", image)
    second = plan(make_config(small_config)).refuse()
    assert first.fingerprint != second.fingerprint
    assert not first.valid[100:].any()
