"""A source that goes away or changes while a run reads it, and results that never arrive."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster

from stillstack import execute
from stillstack.config import make_config
from stillstack.doubt import Doubt
from stillstack.errors import RunFaultError, UnreadableFrameError
from stillstack.flight import Limits
from stillstack.ingest import StackOptions, ingest
from stillstack.job import BlockResult
from stillstack.model import Status, is_good
from stillstack.plan import plan as make_plan
from stillstack.prepare import job_for, opened_store
from stillstack.report.provenance import read_provenance
from stillstack.run import open_run, run
from stillstack.settle import rows_before
from stillstack.sources import open_source
from stillstack.sources.guard import reading
from stillstack.storage import BlockRecord, RunStore, lock_run
from stillstack.verification import verify_store


@pytest.fixture
def own_stack(small_stack_file: Path, small_config: Any, tmp_path: Path) -> Path:
    """A stack of chunks of one frame that a test may damage; the config reads it."""
    stack = tmp_path / "stack.zarr"
    ingest(open_source(str(small_stack_file)), stack, StackOptions(chunk_frames=1))
    small_config["input"]["path"] = str(stack)
    small_config["registration"]["gain"] = 1.0
    return stack


def spoilt(stack: Path, frames: str = "*") -> dict[Path, bytes]:
    """Overwrite what frames hold; files are as large and as old as before."""
    held = {}
    for chunk in (stack / "frames" / "c").glob(f"{frames}/0/0"):
        times = chunk.stat()
        held[chunk] = chunk.read_bytes()
        chunk.write_bytes(os.urandom(times.st_size))
        os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))
    return held


def restore(held: dict[Path, bytes]) -> None:
    for chunk, data in held.items():
        times = chunk.stat()
        chunk.write_bytes(data)
        os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_frames_that_cannot_be_read_for_a_while_are_not_set_aside(
    cluster_client: Any, own_stack: Path, small_config: Any
) -> None:
    held: dict[Path, bytes] = {}

    def fail(progress: Any) -> None:
        if progress.stage == "align" and progress.blocks_done == 4 and not held:
            held.update(spoilt(own_stack))

    with pytest.raises(RunFaultError, match="cannot be read any more"):
        run(small_config, progress=fail)
    restore(held)
    found = run(small_config)
    assert not (found.status.values & int(Status.UNREADABLE)).any()


def test_why_a_frame_was_set_aside_is_forgotten_where_it_can_be_read_after_all(
    cluster_client: Any, own_stack: Path, small_config: Any
) -> None:
    path = Path(small_config["output"]["path"])
    held = spoilt(own_stack, "5") | spoilt(own_stack, "50")
    found = run(small_config)
    lost = np.flatnonzero(found.status.values & int(Status.UNREADABLE))
    assert lost.tolist() == [5, 50]
    assert set(RunStore.view(path).set_aside()) == {5, 50}
    restore(held)
    # the block of one of them is done again, for another reason
    (path / "aligned" / "c" / "5" / "0" / "0").unlink()
    verify_store(path)
    found = run(small_config)
    assert is_good(found.status.values[5])
    assert set(RunStore.view(path).set_aside()) == {50}
    assert found.status.values[50] & int(Status.UNREADABLE)


def test_a_run_that_is_finished_by_other_versions_says_so(
    cluster_client: Any, small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: Any) -> None:
        if progress.blocks_done == 3:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run(small_config, progress=stop)
    assert not make_plan(make_config(small_config)).warnings
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "99.0" if name == "zarr" else installed(name)
    )
    (warning,) = make_plan(make_config(small_config)).warnings
    assert f"zarr 99.0 instead of {installed('zarr')}" in warning.what
    run(small_config)
    first, second = read_provenance(small_config["output"]["path"]).attempt_rows
    assert "zarr" not in first["outcome"]
    assert second["outcome"].startswith("complete; with zarr 99.0 instead of")
    # a complete run is not worked on
    assert not make_plan(make_config(small_config)).warnings


def test_a_source_that_changes_between_two_passes_is_refused(
    cluster_client: Any, own_stack: Path, small_config: Any
) -> None:
    small_config["trajectory"] = {}
    chunk = own_stack / "frames" / "c" / "7" / "0" / "0"
    was = chunk.read_bytes(), chunk.stat()

    def change(progress: Any) -> None:
        if progress.stage == "estimate" and progress.blocks_done == progress.n_blocks:
            chunk.write_bytes((own_stack / "frames" / "c" / "8" / "0" / "0").read_bytes())

    with pytest.raises(RunFaultError, match="has changed during the run"):
        run(small_config, progress=change)
    chunk.write_bytes(was[0])
    os.utime(chunk, ns=(was[1].st_atime_ns, was[1].st_mtime_ns))
    assert run(small_config).attrs["complete"]


def test_runs_of_one_config_into_two_outputs_have_jobs_of_different_names(
    small_config: Any, tmp_path: Path
) -> None:
    digests = set()
    for name in ("a.zarr", "b.zarr"):
        small_config["output"]["path"] = str(tmp_path / name)
        plan = make_plan(make_config(small_config), calibrated=None)
        with lock_run(plan.config.output.place) as lock:
            store = opened_store(plan, lock, None)
            stage = plan.layout.stages[0]
            rows = rows_before(store, stage, plan.left_out)
            digests.add(job_for(plan, store, stage, rows).digest)
    assert len(digests) == 2


@pytest.mark.timeout(120)
def test_a_result_that_went_with_its_worker_is_not_waited_for_for_ever(
    small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies after its tasks have finished and before what they returned was fetched."""
    monkeypatch.setattr(execute, "Limits", partial(Limits, stall_seconds=8.0, fetch_seconds=1.0))
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=0, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        worker = subprocess.Popen(
            [*command, "--no-nanny", "--nthreads", "1", "--no-dashboard"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        small_config["cluster"] = {"kind": "address", "address": cluster.scheduler_address}

        def kill(progress: Any) -> None:
            if progress.stage == "align" and progress.blocks_done == 2 and worker.poll() is None:
                time.sleep(2.0)  # the next ones finish meanwhile
                worker.kill()
                worker.wait()
                time.sleep(1.0)

        try:
            with pytest.raises(RunFaultError, match="No block has finished"):
                run(small_config, progress=kill)
        finally:
            worker.kill()
            worker.wait()


@pytest.mark.parametrize("sections", [{"trajectory": {"sum_frames": 4}}, {"shifts": {}}])
def test_shifts_alone_of_sums_or_given_ones_make_a_whole_run(
    cluster_client: Any, small_config: Any, tmp_path: Path, sections: dict[str, Any]
) -> None:
    if "shifts" in sections:
        run(small_config)
        sections = {"shifts": {"path": small_config["output"]["path"]}}
    output = {**small_config["output"], "path": str(tmp_path / "alone.zarr"), "aligned": False}
    found = run({**small_config, **sections, "output": output})
    assert found.attrs["complete"]
    assert not (found.status.values & int(Status.PENDING)).any()
    assert np.isfinite(found["shift"].values[found.status.values == 0]).all()
    assert (found.status.values == 0).sum() > 30
    assert verify_store(output["path"]).sound


def test_a_lost_variable_that_cannot_be_made_again_is_found_and_nothing_is_changed(
    cluster_client: Any, small_config: Any
) -> None:
    small_config["groups"] = {"keyframe_frames": 20}
    small_config["output"]["aligned"] = False
    whole = run(small_config).load()
    path = Path(small_config["output"]["path"])
    (chunk,) = (file for file in (path / "group_shift" / "c").rglob("*") if file.is_file())
    chunk.unlink()
    found = verify_store(path)
    assert found.lost
    assert not found.sound
    assert not found.taken_back
    assert any("group_shift" in words for words in found.beside)
    again = run(small_config)
    np.testing.assert_array_equal(again["shift"].values, whole["shift"].values)


def test_a_frame_whose_image_is_not_written_yet_is_pending(
    cluster_client: Any, small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its shift has been known since an earlier pass."""
    monkeypatch.setattr(execute, "Limits", partial(Limits, table_seconds=0.0, table_share=1e9))
    small_config["trajectory"] = {}
    seen: list[int] = []

    def look(progress: Any) -> None:
        if progress.stage != "apply" or progress.blocks_done not in (4, 9):
            return
        now = open_run(small_config["output"]["path"])
        pending = (now.status.values & int(Status.PENDING)) != 0
        missing = np.isnan(now.aligned.values).all(axis=(1, 2))
        assert not missing[is_good(now.status.values)].any()
        assert pending.any()
        seen.append(int(pending.sum()))

    found = run(small_config, progress=look)
    assert len(seen) == 2
    assert seen[1] < seen[0] < 60
    assert not (found.status.values & int(Status.PENDING)).any()


def test_blocks_that_all_fail_are_held_back_until_one_frame_comes_through() -> None:
    def failed(block: int) -> BlockResult:
        first = 4 * block
        reasons = dict.fromkeys(range(first, first + 4), "scripted")
        return BlockResult(BlockRecord(block, first, first + 4), reasons)

    doubt = Doubt(most_blocks=3)
    assert doubt.believed(failed(0), 4) == ()
    assert doubt.believed(failed(1), 4) == ()
    sound = BlockResult(BlockRecord(2, 8, 12), {})
    assert [result.record.block for result in doubt.believed(sound, 4)] == [0, 1, 2]
    assert len(doubt.believed(failed(3), 4)) == 1

    doubt = Doubt(most_blocks=2)
    assert doubt.believed(failed(0), 4) == ()
    with pytest.raises(RunFaultError, match=r"Not one frame of 2 blocks .* scripted"):
        doubt.believed(failed(1), 4)


@pytest.mark.parametrize(("number", "fault"), [(errno.ESTALE, True), (errno.EIO, False)])
def test_a_disk_that_is_away_is_not_taken_for_a_broken_frame(number: int, fault: bool) -> None:
    kind = RunFaultError if fault else UnreadableFrameError
    with (
        pytest.raises(kind, match=r"Frame 7 of run\.npy cannot be read"),
        reading("Frame 7 of run.npy"),
    ):
        raise OSError(number, os.strerror(number))
