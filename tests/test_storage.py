"""Stores of runs and stacks: what other programs read, what is refused, what is found damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import stat
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from stillstack.errors import InputError, RunFaultError
from stillstack.model import COLUMNS, TABLE_DTYPE, Status, empty_table
from stillstack.settle import table_of
from stillstack.storage import (
    BlockRecord,
    RunLock,
    RunStore,
    RunTemplate,
    StackStore,
    check_space,
    check_writable,
    create_stack,
    digest_store,
    free_bytes,
    inspect_output,
    lock_run,
    open_run,
)

SHAPE = (12, 16)


def template(n_frames: int = 10, **changes: Any) -> RunTemplate:
    given: dict[str, Any] = {
        "n_frames": n_frames,
        "frame_shape": SHAPE,
        "config_digest": "config-1",
        "source_fingerprint": "source-1",
        "reference": np.arange(SHAPE[0] * SHAPE[1], dtype="f4").reshape(SHAPE),
        "reference_valid": np.ones(SHAPE, bool),
        "valid": np.eye(*SHAPE, dtype=bool),
        "aligned_dtype": "uint16",
        "block_frames": 4,
        "attrs": {"config": {"registration": {"max_shift_px": 32}}, "reference_std": (0.1, 0.2)},
    }
    return RunTemplate(**{**given, **changes})


def images(start: int, stop: int, dtype: str = "uint16") -> NDArray[Any]:
    """Frames that differ from each other, with fill in them, and one that is all fill."""
    frames = np.random.default_rng(5).poisson(40, (64, *SHAPE)).astype(dtype)
    fill = np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    frames[:, :2] = fill
    frames[1] = fill
    return frames[start:stop]


def rows(start: int, stop: int) -> NDArray[np.void]:
    table = empty_table(64, Status(0))
    table["shift"] = np.random.default_rng(6).normal(size=(64, 2))
    table["status"][3] = Status.BLANK | Status.SATURATED
    return table[start:stop]


def fill_run(store: RunStore, dtype: str = "uint16") -> None:
    with store.ledger("align") as ledger:
        for block, (start, stop) in enumerate(store.blocks()):
            objects = store.write_block(start, images(start, stop, dtype))
            ledger.append(BlockRecord(block, start, stop, rows(start, stop), objects))
    store.write_table(store.fold_rows("align"))
    store.finish()


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[RunLock]:
    with lock_run(tmp_path / "out.zarr") as held:
        yield held


def snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(path)): (
            file.stat().st_mtime_ns,
            file.read_bytes() if file.is_file() else b"",
        )
        for file in sorted(path.rglob("*"))
    }


# What other programs read


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "float32"])
def test_xarray_opens_a_run_with_no_help_and_reads_fill_as_nan(lock: RunLock, dtype: str) -> None:
    fill_run(RunStore.create(lock, template(aligned_dtype=dtype)), dtype)
    dataset = xr.open_zarr(lock.path)
    assert dataset["aligned"].dims == ("frame", "y", "x")
    assert dataset["shift"].dims == ("frame", "axis")
    written = images(0, 10, dtype).astype(float)
    written[:, :2] = np.nan
    written[1] = np.nan
    np.testing.assert_array_equal(dataset["aligned"], written)
    np.testing.assert_allclose(
        dataset["aligned"].mean("frame")[2:], np.delete(written, 1, 0).mean(0)[2:], rtol=1e-6
    )
    assert dataset["status"].dtype == np.uint16
    assert dataset["status"].attrs["flag_meanings"].startswith("pending unreadable blank")
    assert dataset["status"].attrs["flag_masks"][2] == Status.BLANK
    np.testing.assert_array_equal(dataset["shift"].sel(axis="x"), rows(0, 10)["shift"][:, 1])
    assert dataset["reference_valid"].dtype == bool
    np.testing.assert_array_equal(dataset["valid"], np.eye(*SHAPE))


def test_every_column_keeps_its_dtype_its_attributes_and_its_bits(lock: RunLock) -> None:
    store = RunStore.create(lock, template())
    fill_run(store)
    dataset = open_run(lock.path)
    for column in COLUMNS:
        assert dataset[column.name].dtype == np.dtype(column.dtype)
        for name, value in column.xarray_attrs.items():
            np.testing.assert_array_equal(dataset[column.name].attrs[name], value)
    assert store.read_table().tobytes() == rows(0, 10).tobytes()


def test_coordinates_of_every_kind_come_back(lock: RunLock) -> None:
    coords = {
        "time": np.array(["2024-01-01T00:00:00.123456789", "NaT", "2024-03-01"], "M8[ns]"),
        "waited": np.array([1, 2, 3], "m8[ms]"),
        "delay": np.array([0.5, np.nan, -1.25]),
        "file": np.array(["å.tif", "", "scan 3.tif"], object),
        "status": np.array([7, 8, 9]),
        "open": np.array([True, False, True]),
    }
    RunStore.create(lock, template(3, coords=coords))
    dataset = open_run(lock.path)
    for name, values in coords.items():
        found = dataset["source_status" if name == "status" else name]
        assert found.name in dataset.coords
        np.testing.assert_array_equal(found.values, values)
    assert dataset["status"].dtype == np.uint16


def test_a_run_that_is_being_written_opens_and_says_so(lock: RunLock) -> None:
    store = RunStore.create(lock, template())
    store.write_block(4, images(4, 8))
    dataset = open_run(lock.path)
    assert dataset.attrs["complete"] is False
    assert (dataset["status"] == Status.PENDING).all()
    assert dataset["shift"].isnull().all()
    assert dataset["aligned"][:4].isnull().all()
    assert dataset["aligned"][4].notnull().any()


def test_open_run_reads_nothing_before_it_is_asked(lock: RunLock) -> None:
    fill_run(RunStore.create(lock, template()))
    for file in (lock.path / "aligned" / "c").rglob("0"):
        if file.is_file():
            file.write_bytes(b"broken")
    dataset = open_run(lock.path)
    with pytest.raises(ValueError, match="checksum"):
        dataset["aligned"].load()


def test_consolidated_metadata_are_what_zarr_itself_makes(lock: RunLock) -> None:
    fill_run(RunStore.create(lock, template()))
    ours = json.loads((lock.path / "zarr.json").read_text())
    ours = ours["consolidated_metadata"]["metadata"]
    (lock.path / "run").rename(lock.path.parent / "run")  # not part of the result
    with warnings.catch_warnings(action="ignore"):  # that it is not in the specification
        zarr.consolidate_metadata(lock.path)
    theirs = json.loads((lock.path / "zarr.json").read_text())
    (lock.path.parent / "run").rename(lock.path / "run")
    assert ours == theirs["consolidated_metadata"]["metadata"]
    assert len(ours) == len(COLUMNS) + 5


def test_codecs_are_blosc_with_the_typesize_then_crc32c(lock: RunLock) -> None:
    RunStore.create(lock, template(codec="lz4"))
    _, blosc, checksum = zarr.open_array(lock.path, path="aligned").metadata.codecs  # type: ignore[union-attr]
    assert isinstance(blosc, BloscCodec)
    assert isinstance(checksum, Crc32cCodec)
    assert (blosc.typesize, blosc.cname.value, blosc.shuffle.value) == (2, "lz4", "bitshuffle")


def test_shifts_only_makes_no_aligned(lock: RunLock) -> None:
    store = RunStore.create(lock, template(aligned_dtype=None))
    assert not store.has_aligned
    assert "aligned" not in open_run(lock.path)


def test_a_common_canvas_is_made_later_with_the_pixels_it_covers(lock: RunLock) -> None:
    store = RunStore.create(lock, template(canvas="common"))
    assert not store.has_aligned
    store.create_aligned((8, 10), origin=(2, 3))
    store.create_aligned((8, 10), origin=(2, 3))
    with pytest.raises(RunFaultError, match=r"\(8, 10\) and not \(8, 9\)"):
        store.create_aligned((8, 9))
    store.write_block(0, images(0, 4)[:, :8, :10])
    store.finish()
    dataset = xr.open_zarr(lock.path)
    assert dataset["aligned"].shape == (10, 8, 10)
    np.testing.assert_array_equal(dataset["y"], np.arange(2, 10))
    np.testing.assert_array_equal(dataset["x"], np.arange(3, 13))
    assert dataset["reference"].shape == SHAPE


def test_a_canvas_that_was_half_made_is_made_again(lock: RunLock) -> None:
    store = RunStore.create(lock, template(canvas="common"))
    store.create_aligned((8, 10), origin=(2, 3))
    before = digest_store(lock.path)
    (lock.path / "aligned" / "zarr.json").unlink()
    RunStore.resume(lock).create_aligned((8, 10), origin=(2, 3))
    assert digest_store(lock.path) == before


def test_no_folder_without_metadata_appears_in_a_group_that_exists(
    lock: RunLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore.create(lock, template(canvas="common"))
    replace = Path.replace
    named: list[Path] = []

    def watched(file: Path, target: Path) -> Path:
        for folder in lock.path.iterdir():
            assert folder.is_file() or (folder / "zarr.json").is_file(), "readers warn of it"
        named.append(target)
        return replace(file, target)

    monkeypatch.setattr(Path, "replace", watched)
    store.create_aligned((8, 10))
    assert lock.path / "aligned" in named


def test_a_stack_opens_in_xarray_and_can_be_resumed(lock: RunLock) -> None:
    frames = np.random.default_rng(0).poisson(30, (5, *SHAPE)).astype("u2")
    frames[0, 0, 0] = 65535
    coords = {"true_shift": np.arange(10.0).reshape(5, 2), "delay": np.arange(5) * 0.1}
    store = create_stack(
        lock, frames.shape, "u2", fingerprint="f", coords=coords, block_frames=2, attrs={"a": 1}
    )
    with store.ledger("ingest") as ledger:
        ledger.append(BlockRecord(1, 2, 4, objects=store.write_block(2, frames[2:4])))
    inspected = {"config_digest": "", "source_fingerprint": "f", "kind": "stack"}
    assert inspect_output(lock.path, **inspected) == "unfinished"  # type: ignore[arg-type]
    store = StackStore.resume(lock)
    assert list(store.done_blocks("ingest")) == [1]
    for start, stop in ((0, 2), (4, 5)):
        store.write_block(start, frames[start:stop])
    store.finish()
    assert inspect_output(lock.path, **inspected) == "complete"  # type: ignore[arg-type]
    dataset = xr.open_zarr(lock.path)
    assert dataset["frames"].dtype == np.uint16
    np.testing.assert_array_equal(dataset["frames"], frames)
    np.testing.assert_array_equal(dataset["true_shift"], coords["true_shift"])
    assert set(dataset.coords) == {"true_shift", "delay"}


# Blocks


@settings(max_examples=25, deadline=None)
@given(
    n_frames=st.integers(1, 13),
    frames_in=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    sharded=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_blocks_in_any_order_store_the_bytes_of_one_assignment(
    tmp_path_factory: pytest.TempPathFactory,
    n_frames: int,
    frames_in: tuple[int, int],
    sharded: bool,
    order: Any,
) -> None:
    chunk_frames, chunks_in_block = frames_in
    folder = tmp_path_factory.mktemp("blocks")
    plan = template(
        n_frames,
        chunk_frames=chunk_frames,
        block_frames=chunk_frames * chunks_in_block,
        sharded=sharded,
    )
    with lock_run(folder / "out.zarr") as held:
        store = RunStore.create(held, plan, durable=False)
        blocks = list(store.blocks())
        order.shuffle(blocks)
        for start, stop in blocks:
            store.write_block(start, images(start, stop))
    made = zarr.open_array(store.path, path="aligned")
    serial = zarr.create_array(
        folder / "serial.zarr",
        shape=made.shape,
        dtype=made.dtype,
        chunks=made.chunks,
        shards=made.shards,
        fill_value=made.fill_value,
        compressors=made.compressors,
        config={"write_empty_chunks": True},
    )
    step = (made.shards or made.chunks)[0]
    for start in range(0, n_frames, step):
        serial[start : start + step] = images(start, min(start + step, n_frames))
    for array in ("out.zarr/aligned/c", "serial.zarr/c"):
        assert (folder / array).is_dir()
    stored = {name: data for name, (_, data) in snapshot(folder / "out.zarr/aligned/c").items()}
    expected = {name: data for name, (_, data) in snapshot(folder / "serial.zarr/c").items()}
    assert stored == expected


@settings(max_examples=50, deadline=None)
@given(n_frames=st.integers(1, 40), block_frames=st.integers(1, 9))
def test_every_frame_is_in_exactly_one_block(n_frames: int, block_frames: int) -> None:
    store = RunStore.__new__(RunStore)
    store.layout = {"n_frames": n_frames, "block_frames": block_frames}
    frames = [frame for start, stop in store.blocks() for frame in range(start, stop)]
    assert frames == list(range(n_frames))
    assert len(store.blocks()) == store.n_blocks


@pytest.mark.parametrize(
    ("start", "given", "message"),
    [
        (1, images(1, 5), "frame 1 does not start a block"),
        (0, images(0, 3), r"images of shape \(3, 12, 16\) instead of \(4, 12, 16\)"),
        (4, images(4, 10), "instead of"),
        (8, images(8, 12), r"instead of \(2, 12, 16\)"),
        (12, images(0, 4), "frame 12 does not start"),
        (-4, images(0, 4), "frame -4 does not start"),
        (0, images(0, 4).astype("f4"), "images of float32 instead of uint16"),
        (0, images(0, 4)[:, 1:], "instead of"),
    ],
)
def test_what_is_not_one_block_is_not_written(
    lock: RunLock, start: int, given: NDArray[Any], message: str
) -> None:
    store = RunStore.create(lock, template())
    before = snapshot(lock.path)
    with pytest.raises(RunFaultError, match=message):
        store.write_block(start, given)
    assert snapshot(lock.path) == before


def test_blocks_that_cut_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="whole number of chunks"):
        template(chunk_frames=3, block_frames=4)


def test_blocks_that_cut_shards_are_refused(lock: RunLock) -> None:
    store = RunStore.create(lock, template(sharded=True))
    from dataclasses import replace

    with pytest.raises(RunFaultError, match="blocks of 2 frames cut objects of 4"):
        replace(store.writer(), block_frames=2).write(2, images(2, 4))


def test_a_frame_that_is_all_fill_is_stored_and_counts(lock: RunLock) -> None:
    store = RunStore.create(lock, template())
    objects = store.write_block(0, images(0, 4))
    assert [stored.key for stored in objects] == [f"aligned/c/{i}/0/0" for i in range(4)]
    for key, size, _ in objects:
        assert (lock.path / key).stat().st_size == size


@pytest.mark.parametrize("sharded", [False, True])
def test_a_damaged_block_can_be_written_again(lock: RunLock, sharded: bool) -> None:
    store = RunStore.create(lock, template(chunk_frames=2, n_frames=9, sharded=sharded))
    objects = store.write_block(8, images(8, 9))
    good = (lock.path / objects[0].key).read_bytes()
    (lock.path / objects[0].key).write_bytes(b"damaged")
    assert store.write_block(8, images(8, 9)) == objects
    assert (lock.path / objects[0].key).read_bytes() == good


def test_the_writer_is_small_and_pickles(lock: RunLock) -> None:
    store = RunStore.create(lock, template())
    pickled = pickle.dumps(store.writer())
    assert len(pickled) < 1000
    assert pickle.loads(pickled).write(0, images(0, 4)) == store.write_block(0, images(0, 4))


def test_writers_of_one_block_at_once_do_no_harm(lock: RunLock) -> None:
    writer = RunStore.create(lock, template()).writer()
    expected = writer.write(0, images(0, 4))
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(writer.write(0, images(0, 4))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6
    assert not list((lock.path / "run" / "tmp").iterdir())
    np.testing.assert_array_equal(
        RunStore.view(lock.path).open_array("aligned")[:4],
        images(0, 4),
    )


def test_a_failing_write_leaves_neither_objects_nor_temporary_files(
    lock: RunLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore.create(lock, template())
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write_block(0, images(0, 4))
    monkeypatch.undo()
    assert not (lock.path / "aligned" / "c").exists()
    deadline = time.monotonic() + 20  # the other chunks' threads end a little later
    while list((lock.path / "run" / "tmp").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not list((lock.path / "run" / "tmp").iterdir())
    assert len(store.write_block(0, images(0, 4))) == 4


def test_durable_syncs_each_file_and_every_folder_and_otherwise_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, int]] = []

    def record(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((stat.S_ISDIR(status.st_mode), status.st_ino))

    monkeypatch.setattr(os, "fsync", record)
    for durable in (True, False):
        with lock_run(tmp_path / f"{durable}.zarr") as held:
            store = RunStore.create(held, template(), durable=durable)
            synced.clear()
            objects = store.write_block(0, images(0, 4))
            store.ledger("align").append(BlockRecord(0, 0, 4, rows(0, 4), objects))
            if not durable:
                assert not synced
                continue
            inodes = {inode for _, inode in synced}
            ledger = held.path / "run" / "ledger-align.jsonl"
            files = [held.path / stored.key for stored in objects]
            folders = {folder for file in files for folder in list(file.parents)[:5]}
            assert {p.stat().st_ino for p in (*files, *folders, ledger)} <= inodes
            last_file = max(i for i, (is_folder, _) in enumerate(synced[:-2]) if not is_folder)
            first_folder = min(i for i, (is_folder, _) in enumerate(synced) if is_folder)
            assert last_file < first_folder, "names appear when all bytes are safe"


# Whose store it is


def test_an_output_is_new_then_unfinished_then_complete(tmp_path: Path) -> None:
    identity = {"config_digest": "config-1", "source_fingerprint": "source-1"}
    path = tmp_path / "deep" / "out.zarr"
    assert inspect_output(path, **identity) == "new"  # type: ignore[arg-type]
    assert not path.exists()
    with lock_run(path) as held:
        assert inspect_output(path, **identity) == "new"  # type: ignore[arg-type]
        store = RunStore.create(held, template())
        assert inspect_output(path, **identity) == "unfinished"  # type: ignore[arg-type]
        fill_run(store)
        assert inspect_output(path, **identity) == "complete"  # type: ignore[arg-type]
        store.mark_unfinished()
        assert inspect_output(path, **identity) == "unfinished"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config_digest": "other", "config": {"registration": {"max_shift_px": 16}}},
            "registration.max_shift_px: 32 there, 16 now",
        ),
        (
            {"config_digest": "other", "config": {"registration": {"max_shift_px": 32}, "new": 1}},
            "new: absent there, 1 now",
        ),
        ({"config_digest": "other"}, "its digest differs"),
        ({"source_fingerprint": "other"}, "source-1 there, other now"),
        ({"kind": "stack"}, "does not hold a stillstack stack"),
    ],
)
def test_a_store_of_another_config_or_source_is_refused_untouched(
    lock: RunLock, changes: dict[str, Any], message: str
) -> None:
    RunStore.create(lock, template())
    before = snapshot(lock.path)
    identity: dict[str, Any] = {"config_digest": "config-1", "source_fingerprint": "source-1"}
    with pytest.raises(InputError, match=message):
        inspect_output(lock.path, **{**identity, **changes})
    assert snapshot(lock.path) == before


@pytest.mark.parametrize("kind", ["file", "folder", "zarr", "folder with a run"])
def test_what_is_not_ours_is_never_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.zarr"
    if kind == "file":
        path.write_text("thesis")
    elif kind == "folder":
        path.mkdir()
        (path / "thesis.txt").write_text("thesis")
    elif kind == "zarr":
        zarr.create_group(path).create_array("aligned", shape=(3,), dtype="u2")
    else:
        (path / "run").mkdir(parents=True)
        (path / "run" / "thesis.txt").write_text("thesis")
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="not made by stillstack"):
        inspect_output(path, config_digest="c", source_fingerprint="s")
    with pytest.raises(InputError, match="not made by stillstack"):
        lock_run(path)
    with pytest.raises(InputError):
        open_run(path)
    assert snapshot(tmp_path) == before


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "out.zarr").mkdir()
    with lock_run(tmp_path / "out.zarr") as held:
        RunStore.create(held, template())


def test_creating_again_what_exists_is_refused(lock: RunLock) -> None:
    RunStore.create(lock, template())
    with pytest.raises(RunFaultError, match="resume it"):
        RunStore.create(lock, template())


@pytest.mark.parametrize("left", ["ledger", "stranger"])
def test_a_run_that_lost_its_metadata_is_not_overwritten(lock: RunLock, left: str) -> None:
    store = RunStore.create(lock, template())
    store.write_block(0, images(0, 4))
    if left == "ledger":
        store.ledger("align").append(BlockRecord(0, 0, 4, rows(0, 4)))
    else:
        (lock.path / "notes.txt").write_text("mine")
    (lock.path / "zarr.json").unlink()
    before = snapshot(lock.path / "aligned")
    with pytest.raises(InputError, match=r"no zarr\.json"):
        RunStore.create(lock, template())
    assert snapshot(lock.path / "aligned") == before


def test_a_store_cannot_be_written_without_its_lock(tmp_path: Path) -> None:
    with lock_run(tmp_path / "out.zarr") as held:
        RunStore.create(held, template())
    with pytest.raises(RunFaultError, match="not held"):
        RunStore.resume(held)


def test_a_run_without_its_run_folder_still_reads_as_complete(lock: RunLock) -> None:
    fill_run(RunStore.create(lock, template()))
    copy = lock.path.parent / "copy.zarr"
    lock.path.rename(copy)
    (copy / "run").rename(copy.parent / "elsewhere")
    state = inspect_output(copy, config_digest="config-1", source_fingerprint="source-1")
    assert state == "complete"
    assert open_run(copy).sizes["frame"] == 10
    (copy.parent / "elsewhere").rename(copy / "run")
    copy.rename(lock.path)


@pytest.mark.parametrize("kind", ["nothing", "stack", "empty"])
def test_open_run_says_what_is_not_a_run(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.zarr"
    if kind == "stack":
        with lock_run(path) as held:
            create_stack(held, (2, 3, 4), "u2", fingerprint="f")
    elif kind == "empty":
        path.mkdir()
    expected = "does not exist" if kind == "nothing" else "is not a run"
    with pytest.raises(InputError, match=expected):
        open_run(path)


# Damage


def test_verify_finds_twenty_of_twenty_flipped_bits(lock: RunLock) -> None:
    store = RunStore.create(lock, template())
    fill_run(store)
    assert store.verify("align") == []
    random = np.random.default_rng(11)
    for _ in range(20):
        frame = int(random.integers(10))
        file = lock.path / f"aligned/c/{frame}/0/0"
        good = file.read_bytes()
        bad = bytearray(good)
        bad[int(random.integers(len(bad)))] ^= 1 << int(random.integers(8))
        file.write_bytes(bad)
        (damaged,) = store.verify("align")
        assert damaged.block == frame // 4
        assert "does not hold the bytes that were written" in damaged.faults[0]
        file.write_bytes(good)
    assert store.verify("align") == []


def test_verify_tells_one_good_object_from_another(lock: RunLock) -> None:
    store = RunStore.create(lock, template(codec="lz4"))
    with store.ledger("align") as ledger:
        frames = np.random.default_rng(3).integers(0, 2**16, (4, *SHAPE)).astype("u2")
        objects = store.write_block(0, frames)
        assert objects[0].size == objects[2].size
        ledger.append(BlockRecord(0, 0, 4, rows(0, 4), objects))
    (lock.path / objects[0].key).write_bytes((lock.path / objects[2].key).read_bytes())
    assert [damaged.faults for damaged in store.verify("align")] == [
        ("aligned/c/0/0/0 does not hold the bytes that were written",)
    ]


@pytest.mark.parametrize("damage", ["missing", "shorter", "longer"])
def test_a_block_whose_object_has_another_size_is_not_done(lock: RunLock, damage: str) -> None:
    store = RunStore.create(lock, template())
    fill_run(store)
    assert list(store.done_blocks("align")) == [0, 1, 2]
    file = lock.path / "aligned/c/5/0/0"
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "shorter" else data + b"\0")
    assert list(store.done_blocks("align")) == [0, 2]
    assert store.verify("align")[0].block == 1
    assert (store.fold_rows("align")["status"][4:8] == Status.PENDING).all()


def test_a_record_of_other_blocks_does_not_count(lock: RunLock) -> None:
    store = RunStore.create(lock, template())
    with store.ledger("align") as ledger:
        ledger.append(BlockRecord(0, 0, 2, rows(0, 2)))
        ledger.append(BlockRecord(7, 28, 32, rows(28, 32)))
    assert store.done_blocks("align") == {}


def test_what_was_aligned_replaces_the_rows_that_were_estimated(lock: RunLock) -> None:
    store = RunStore.create(lock, template())
    later = rows(4, 8).copy()
    later["n_clipped"] = 5
    for stage, table, block in (("estimate", rows(0, 4), 0), ("estimate", rows(4, 8), 1)):
        store.ledger(stage).append(BlockRecord(block, block * 4, block * 4 + 4, table))
    store.ledger("apply").append(BlockRecord(1, 4, 8, later))
    table = table_of(store)
    assert table.dtype == TABLE_DTYPE
    assert table[:4].tobytes() == rows(0, 4).tobytes()
    assert table[4:8].tobytes() == later.tobytes()
    assert table[8:].tobytes() == empty_table(2).tobytes()


# The lock


def try_lock(path: str, answers: Any) -> None:
    try:
        lock_run(path).release()
        answers.put("locked")
    except InputError as error:
        answers.put(str(error))


def hold_lock(path: str, holding: Any) -> None:
    held = lock_run(path)
    holding.set()
    threading.Event().wait()
    held.release()


def test_a_second_process_is_refused_at_once_and_told_by_whom(lock: RunLock) -> None:
    context = multiprocessing.get_context("forkserver")
    answers = context.Queue()
    process = context.Process(target=try_lock, args=(str(lock.path), answers))
    process.start()
    answer = answers.get(timeout=60)
    process.join()
    assert f"process {os.getpid()} on" in answer
    assert "nothing was started" in answer
    with pytest.raises(InputError, match="being written"):
        lock_run(lock.path)
    lock.release()
    lock_run(lock.path).release()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    holding = context.Event()
    process = context.Process(target=hold_lock, args=(str(tmp_path / "out.zarr"), holding))
    process.start()
    assert holding.wait(60)
    with pytest.raises(InputError, match=f"process {process.pid} on"):
        lock_run(tmp_path / "out.zarr")
    process.kill()
    process.join()
    lock_run(tmp_path / "out.zarr").release()


# The place


def test_space_is_compared_with_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "there"
    check_space(path, 1)
    with pytest.raises(InputError, match=r"may need 1e\+03 TB.* are free there"):
        check_space(path, 10**15)
    assert (free_bytes(path) or 0) > 0
    assert not path.parent.exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "new" / "out.zarr")
    with pytest.raises(InputError, match="is not a folder that you may write to"):
        check_writable(tmp_path / "file" / "out.zarr")
    with pytest.raises(InputError, match="cannot be written"):
        lock_run(tmp_path / "file" / "out.zarr")


def test_notes_are_kept_beside_the_result(lock: RunLock) -> None:
    store = RunStore.create(lock, template())
    before = digest_store(lock.path)
    assert store.read_note("timings") is None
    store.write_note("timings", {"seconds": np.float32(1.5), "hosts": ("a", "b"), "x": np.nan})
    assert store.read_note("timings") == {"seconds": 1.5, "hosts": ["a", "b"], "x": None}
    assert digest_store(lock.path) == before


def test_the_digest_sees_data_metadata_and_attributes(lock: RunLock) -> None:
    store = RunStore.create(lock, template())
    fill_run(store)
    whole = digest_store(lock.path)
    for name in ("aligned/c/3/0/0", "ncc/zarr.json", "zarr.json"):
        file = lock.path / name
        good = file.read_bytes()
        file.write_bytes(good.replace(b"source-1", b"source-2") if name == "zarr.json" else b"{}")
        assert digest_store(lock.path) != whole
        file.write_bytes(good)
    assert digest_store(lock.path) == whole
