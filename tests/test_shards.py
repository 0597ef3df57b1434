"""Sharded output: a block in one object, the same frames as without, the same rules of commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from stillstack.config import make_config
from stillstack.plan import plan
from stillstack.run import run
from stillstack.storage import RunStore
from stillstack.storage.arrays import compressors
from stillstack.storage.shards import plain_shards
from stillstack.verification import verify_store


def objects_in(path: str | Path) -> list[str]:
    """Files of the aligned frames."""
    folder = Path(path) / "aligned" / "c"
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def sharded_config(small_config: Any, tmp_path: Path) -> Any:
    """The small stack in blocks of 8, two frames in a chunk, a block in a shard."""
    small_config["output"] = {
        "path": str(tmp_path / "sharded.zarr"),
        "block_frames": 8,
        "chunk_frames": 2,
        "shards": True,
        "durable": False,
    }
    return small_config


def test_a_sharded_run_holds_the_same_frames_in_one_object_for_each_block(
    sharded_config: Any, tmp_path: Path, cluster_client: Any
) -> None:
    sharded = run(sharded_config)
    path = sharded_config["output"]["path"]
    assert objects_in(path) == sorted(f"{block}/0/0" for block in range(8))  # 60 frames
    records = RunStore.view(path).done_blocks("align")
    assert [len(record.objects) for record in records.values()] == [1] * 8
    assert verify_store(path).sound
    plain_output = {"path": str(tmp_path / "plain.zarr"), "block_frames": 8, "durable": False}
    plain = run({**sharded_config, "output": plain_output})
    for name in ("aligned", "shift", "status"):
        np.testing.assert_array_equal(sharded[name].values, plain[name].values)
    assert sharded.aligned.encoding["shards"] == (8, 128, 128)
    assert sharded.aligned.encoding["chunks"] == (2, 128, 128)


def test_a_damaged_shard_is_found_and_its_block_done_again(
    sharded_config: Any, cluster_client: Any
) -> None:
    run(sharded_config)
    path = Path(sharded_config["output"]["path"])
    shard = path / "aligned" / "c" / "3" / "0" / "0"
    good = shard.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 4
    shard.write_bytes(damaged)
    assert [found.start for found in verify_store(path).damaged] == [24]
    run(sharded_config)
    assert shard.read_bytes() == good
    assert verify_store(path).sound


def test_an_unfinished_run_keeps_its_blocks_whatever_the_memory(
    sharded_config: Any, cluster_client: Any
) -> None:
    run(sharded_config)
    RunStore.view(sharded_config["output"]["path"]).mark_unfinished()
    before = plan(make_config(sharded_config)).layout
    assert (before.block_frames, before.chunk_frames, before.sharded) == (8, 2, True)


def test_blocks_of_an_unfinished_plain_run_may_be_told_otherwise_and_stay(
    small_config: Any, cluster_client: Any
) -> None:
    run(small_config)
    RunStore.view(small_config["output"]["path"]).mark_unfinished()
    small_config["output"]["block_frames"] = 20
    assert plan(make_config(small_config)).layout.block_frames == 4


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_shards_of_a_run_are_coded_without_zarr(tmp_path: Path, codec: Any, dtype: str) -> None:
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(7, 5, 6),
        dtype=dtype,
        chunks=(2, 5, 6),
        shards=(4, 5, 6),
        compressors=compressors(np.dtype(dtype), codec),
    )
    made = plain_shards(array)
    assert made is not None
    assert (made.shard_frames, made.chunks.chunk_frames) == (4, 2)
    assert made.key(4) == "c/1/0/0"


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (2, 4, 6)},
        {"chunks": (2, 4, 6), "shards": (4, 4, 6)},
        {"chunks": (2, 2, 6), "shards": (4, 4, 6)},
        {"chunks": (2, 4, 6), "shards": {"shape": (4, 4, 6), "index_location": "start"}},
    ],
)
def test_other_shards_are_left_to_zarr(tmp_path: Path, options: Any) -> None:
    """No shards, another compressor than Blosc, frames cut into pieces, the index in front."""
    ours: Any = compressors(np.dtype("u2")) if "index_location" in str(options) else "auto"
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(7, 4, 6), dtype="uint16", compressors=ours, **options
    )
    assert plain_shards(array) is None


def test_readers_need_no_help(sharded_config: Any, cluster_client: Any) -> None:
    run(sharded_config)
    opened = xr.open_zarr(sharded_config["output"]["path"])
    single = opened.aligned[13].values
    assert np.isfinite(single).mean() > 0.8
