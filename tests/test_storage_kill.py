"""Kill -9 at any point of creating, writing, recording and finishing: the result is the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillstack.model import Status, empty_table
from stillstack.storage import (
    BlockRecord,
    RunStore,
    RunTemplate,
    digest_store,
    inspect_output,
    lock_run,
    open_run,
)

SHAPE = (24, 32)
N_FRAMES = 10
FOREVER = 10**9


@pytest.fixture(scope="module")
def processes() -> Any:
    """Context whose children start in a moment: the imports are done once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stillstack.storage"])
    return context


def frames(start: int, stop: int) -> NDArray[Any]:
    return np.random.default_rng(1).poisson(30, (N_FRAMES, *SHAPE)).astype("u2")[start:stop]


def rows(start: int, stop: int) -> NDArray[np.void]:
    table = empty_table(N_FRAMES, Status(0))
    table["shift"] = np.random.default_rng(2).normal(size=(N_FRAMES, 2))
    return table[start:stop]


def run(path: str) -> None:
    """What a run does with its store, and again after it was killed."""
    identity: dict[str, Any] = {"config_digest": "c", "source_fingerprint": "s"}
    with lock_run(path) as lock:
        if inspect_output(path, **identity) == "new":
            template = RunTemplate(
                n_frames=N_FRAMES,
                frame_shape=SHAPE,
                reference=np.ones(SHAPE),
                reference_valid=np.ones(SHAPE, bool),
                valid=np.ones(SHAPE, bool),
                aligned_dtype="u2",
                canvas="common",
                chunk_frames=2,
                block_frames=4,
                coords={"time": np.arange(N_FRAMES).astype("M8[s]")},
                **identity,
            )
            store = RunStore.create(lock, template)
        else:
            store = RunStore.resume(lock)
        store.create_aligned(SHAPE)
        done = store.done_blocks("align")
        with store.ledger("align") as ledger:
            for block, (start, stop) in enumerate(store.blocks()):
                if block not in done:
                    objects = store.write_block(start, frames(start, stop))
                    ledger.append(BlockRecord(block, start, stop, rows(start, stop), objects))
        store.write_table(store.fold_rows("align"))
        store.finish()


def run_and_die(path: str, point: int, reached: Any = None) -> None:
    """Run, and be killed when a file is about to be written, synced or named the n-th time.

    A write is cut in half first.
    """
    count = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def then(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == point:
                if call is write:
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return then

    write = os.write
    os.write = counted(os.write)
    os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    run(path)
    if reached is not None:
        reached.put(count)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, processes: Any) -> tuple[str, int, float]:
    """Digest of a run that nothing disturbed, how many points it has, how long it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    reached = processes.Queue()
    for name in ("warm.zarr", "out.zarr"):  # the first one also waits for the imports
        before = time.perf_counter()
        arguments = (str(folder / name), FOREVER, reached)
        process = processes.Process(target=run_and_die, args=arguments)
        process.start()
        points = reached.get(timeout=60)
        process.join()
        seconds = time.perf_counter() - before
    assert digest_store(folder / "out.zarr") == digest_store(folder / "warm.zarr")
    return digest_store(folder / "out.zarr"), points, seconds


def is_sound(path: Path) -> None:
    """No reader sees a torn object, and the blocks that are done hold what was written."""
    if not (path / "zarr.json").exists():
        return
    store = RunStore.view(path)
    assert store.verify("align") == []
    dataset = open_run(path).load()
    for record in store.done_blocks("align").values():
        part = dataset["aligned"][record.start : record.stop]
        np.testing.assert_array_equal(part, frames(record.start, record.stop))


@pytest.mark.parametrize("part", range(4))
def test_killed_at_each_kind_of_point_and_run_again(
    tmp_path: Path, undisturbed: tuple[str, int, float], processes: Any, part: int
) -> None:
    digest, points, _ = undisturbed
    assert points > 200, "the points cover creating, blocks, ledger, table and finish"
    for point in np.unique(np.linspace(1, points, 20).astype(int))[part::4]:
        path = tmp_path / f"{point}.zarr"
        process = processes.Process(target=run_and_die, args=(str(path), int(point)))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        is_sound(path)
        run(str(path))
        assert digest_store(path) == digest, f"killed at point {point} of {points}"
        assert not list((path / "run" / "tmp").iterdir())


def test_killed_again_and_again_at_random_moments(
    tmp_path: Path, undisturbed: tuple[str, int, float], processes: Any
) -> None:
    digest, _, seconds = undisturbed
    random = np.random.default_rng(7)
    path = tmp_path / "out.zarr"
    exits: list[int | None] = []
    while len(exits) < 12 and 0 not in exits:
        process = processes.Process(target=run, args=(str(path),))
        process.start()
        process.join(timeout=float(random.uniform(0.2, 0.9)) * seconds)
        process.kill()
        process.join()
        exits.append(process.exitcode)
        is_sound(path)
    assert set(exits) <= {0, -signal.SIGKILL}
    assert -signal.SIGKILL in exits
    run(str(path))
    assert digest_store(path) == digest


def test_a_run_cut_off_in_the_middle_does_not_repeat_what_is_done(
    tmp_path: Path, undisturbed: tuple[str, int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.zarr"
    appended: list[int] = []
    append = RunStore.write_block

    def interrupted(store: RunStore, start: int, images: NDArray[Any]) -> Any:
        if len(appended) == 2:
            raise KeyboardInterrupt
        appended.append(start)
        return append(store, start, images)

    monkeypatch.setattr(RunStore, "write_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(str(path))

    def noted(store: RunStore, start: int, images: NDArray[Any]) -> Any:
        appended.append(start)
        return append(store, start, images)

    monkeypatch.setattr(RunStore, "write_block", noted)
    run(str(path))
    assert appended == [0, 4, 8]
    assert digest_store(path) == undisturbed[0]
