"""Ingest and simulate: any source into a Zarr stack, in blocks, restartable."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from stillstack import simulate_stack
from stillstack.config import load_config
from stillstack.errors import InputError, InterruptedRunError, UnreadableFrameError
from stillstack.ingest import StackOptions, ingest, simulated_config, write_simulation
from stillstack.sources import open_source
from stillstack.storage import digest_store
from stillstack.valid import valid_from_config

QUICK = StackOptions(chunk_frames=2, durable=False)


def images(n_frames: int = 10) -> NDArray[np.uint16]:
    return np.random.default_rng(3).integers(1, 4000, (n_frames, 6, 9)).astype(np.uint16)


@dataclass
class FramesInMemory:
    """A source that counts what is read, and can fail at a frame."""

    frames: NDArray[Any]
    unreadable: frozenset[int] = frozenset()
    fails_at: int | None = None
    numbers: list[int] = field(default_factory=list)
    name: str = "memory"
    chunk_frames: int = 1
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        n_frames, height, width = self.frames.shape
        return n_frames, height, width

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.frames.dtype

    @property
    def coords(self) -> dict[str, NDArray[Any]]:
        return {"delay": np.arange(len(self.frames)) / 4}

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if self.fails_at is not None and start <= self.fails_at < stop:
            raise OSError("the disk is gone")
        if self.unreadable & set(range(start, stop)):
            raise UnreadableFrameError(f"frame {start} is cut off")
        self.numbers += range(start, stop)
        return self.frames[start:stop]

    def fingerprint(self) -> str:
        return "memory-1"


def stored(path: Path) -> NDArray[Any]:
    with xr.open_zarr(path, mask_and_scale=False) as stack:
        return np.asarray(stack["frames"].values)


def test_what_was_ingested_is_what_was_there(tmp_path: Path) -> None:
    written = ingest(FramesInMemory(images()), tmp_path / "a.zarr", QUICK)
    np.testing.assert_array_equal(stored(tmp_path / "a.zarr"), images())
    with xr.open_zarr(tmp_path / "a.zarr") as stack:
        np.testing.assert_array_equal(stack["delay"], np.arange(10) / 4)
        assert stack["frames"].dims == ("frame", "y", "x")
        assert stack["frames"].encoding["chunks"] == (2, 6, 9)
    assert written.shape == (10, 6, 9)
    assert written.written_bytes == sum(
        file.stat().st_size for file in (tmp_path / "a.zarr/frames/c").rglob("*") if file.is_file()
    )


def test_a_file_can_be_ingested_and_opened_as_a_source(tmp_path: Path) -> None:
    np.save(tmp_path / "run.npy", images())
    ingest(open_source(str(tmp_path / "run.npy")), tmp_path / "run.zarr", QUICK)
    source = open_source(str(tmp_path / "run.zarr"))
    np.testing.assert_array_equal(source.read(0, 10), images())
    assert source.chunk_frames == 2


def test_an_ingest_that_failed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        ingest(FramesInMemory(images(40), fails_at=30), tmp_path / "a.zarr", QUICK)
    again = FramesInMemory(images(40))
    written = ingest(again, tmp_path / "a.zarr", QUICK)
    assert 0 < written.resumed_frames < 40
    assert len(again.numbers) == 40 - written.resumed_frames
    assert 30 in again.numbers
    ingest(FramesInMemory(images(40)), tmp_path / "b.zarr", QUICK)
    assert digest_store(tmp_path / "a.zarr") == digest_store(tmp_path / "b.zarr")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_ingest_that_was_stopped_goes_on_where_it_stopped(
    tmp_path: Path, number: signal.Signals
) -> None:
    told: list[int] = []

    def stop(done: int, total: int, resumed: int) -> None:
        if done:
            told.append(done)
        if len(told) == 1:
            signal.raise_signal(number)

    with pytest.raises(InterruptedRunError) as stopped:
        ingest(FramesInMemory(images(400)), tmp_path / "a.zarr", QUICK, on_frames=stop)
    assert stopped.value.exit_code == 128 + number
    written = ingest(FramesInMemory(images(400)), tmp_path / "a.zarr", QUICK)
    assert written.resumed_frames == told[-1]
    assert 0 < written.resumed_frames < 400
    np.testing.assert_array_equal(stored(tmp_path / "a.zarr"), images(400))


def test_an_ingest_that_is_complete_reads_nothing(tmp_path: Path) -> None:
    ingest(FramesInMemory(images()), tmp_path / "a.zarr", QUICK)
    digest = digest_store(tmp_path / "a.zarr")
    again = FramesInMemory(images())
    assert ingest(again, tmp_path / "a.zarr", QUICK).resumed_frames == 10
    assert again.numbers == []
    assert digest_store(tmp_path / "a.zarr") == digest


def test_unreadable_frames_are_set_aside_and_their_neighbours_are_kept(tmp_path: Path) -> None:
    source = FramesInMemory(images(), unreadable=frozenset({3, 8}))
    written = ingest(source, tmp_path / "a.zarr", StackOptions(chunk_frames=5, durable=False))
    assert dict(written.set_aside) == {3: "frame 3 is cut off", 8: "frame 8 is cut off"}
    expected = images()
    expected[[3, 8]] = 0
    np.testing.assert_array_equal(stored(tmp_path / "a.zarr"), expected)
    again = ingest(source, tmp_path / "a.zarr", StackOptions(chunk_frames=5, durable=False))
    assert set(again.set_aside) == {3, 8}


def test_unreadable_frames_of_floating_point_are_nan(tmp_path: Path) -> None:
    source = FramesInMemory(images().astype(np.float32), unreadable=frozenset({1}))
    ingest(source, tmp_path / "a.zarr", QUICK)
    assert np.isnan(stored(tmp_path / "a.zarr")[1]).all()


@pytest.mark.parametrize("options", [StackOptions(5, "zstd", False), StackOptions(2, "lz4", False)])
def test_a_stack_made_otherwise_is_refused_and_left_as_it_is(
    tmp_path: Path, options: StackOptions
) -> None:
    ingest(FramesInMemory(images()), tmp_path / "a.zarr", QUICK)
    digest = digest_store(tmp_path / "a.zarr")
    with pytest.raises(InputError, match="belongs to something else"):
        ingest(FramesInMemory(images()), tmp_path / "a.zarr", options)
    assert digest_store(tmp_path / "a.zarr") == digest


def test_a_folder_that_is_not_ours_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="was not made by stillstack"):
        ingest(FramesInMemory(images()), tmp_path, QUICK)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_simulation_is_stored_with_its_truth(tmp_path: Path) -> None:
    stack = simulate_stack(40, (64, 64), seed=3)
    write_simulation(stack, tmp_path / "a.zarr", StackOptions(durable=False))
    with xr.open_zarr(tmp_path / "a.zarr") as opened:
        np.testing.assert_array_equal(opened["true_shift_y"], stack.shift[:, 0])
        np.testing.assert_array_equal(opened["true_shift_x"], stack.shift[:, 1])
        kinds = [stack.kind(index) or "" for index in range(40)]
        assert [str(kind) for kind in opened["planted"].values] == kinds
    np.testing.assert_array_equal(stored(tmp_path / "a.zarr")[17], stack.frame(17))


def test_two_simulations_are_not_taken_for_each_other(tmp_path: Path) -> None:
    quick = StackOptions(durable=False)
    write_simulation(simulate_stack(40, (64, 64), seed=3), tmp_path / "a.zarr", quick)
    with pytest.raises(InputError, match="belongs to something else"):
        write_simulation(simulate_stack(40, (64, 64), seed=4), tmp_path / "a.zarr", quick)
    with pytest.raises(InputError, match="belongs to something else"):
        write_simulation(simulate_stack(40, (64, 64), seed=3, dose=9), tmp_path / "a.zarr", quick)


def test_the_config_of_a_simulation_excludes_its_beam_block(tmp_path: Path) -> None:
    stack = simulate_stack(40, (96, 128), seed=3)
    (tmp_path / "a.yaml").write_text(simulated_config(stack, "a.zarr", "b.zarr"))
    config = load_config(tmp_path / "a.yaml")
    valid = valid_from_config(config.valid.frames, stack.scene.shape, np.load, stack.read(1, 5))
    np.testing.assert_array_equal(valid, stack.valid)
    assert config.input.path == str(tmp_path / "a.zarr")


def test_small_blocks_for_short_stacks_and_whole_chunks_always() -> None:
    for n_frames in (1, 5, 60, 240, 10_000):
        for size in (64, 512, 2048):
            for chunk_frames in (1, 7, "auto"):
                options = StackOptions(chunk_frames)
                chunk, block = options.sizes((n_frames, size, size), np.dtype("u2"))
                assert 1 <= chunk <= n_frames
                assert block % chunk == 0
                assert block * size * size * 2 <= max(32 * 2**20, chunk * size * size * 2)
