"""Faults from outside: a full disk, broken input, workers that write late, readers meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stillstack import execute
from stillstack.flight import Limits
from stillstack.ingest import StackOptions, ingest
from stillstack.model import Status
from stillstack.run import open_run, run
from stillstack.sources import open_source
from stillstack.verification import verify_store
from stores import stored
from test_run_kill import SCRIPT


def ledger_blocks(path: Path) -> list[int]:
    lines = (path / "run" / "ledger-align.jsonl").read_text().splitlines()
    return [json.loads(line)["record"]["block"] for line in lines if line.endswith("}")]


# ------------------------------------------------------------------ a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 8 MiB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_the_run_and_after_room_is_made_it_finishes(
    cluster_client: Any, small_disk: Path, small_config: Any, tmp_path: Path
) -> None:
    small_config["alignment"] = {"dtype": "float32"}
    aside = {**small_config, "output": {**small_config["output"], "path": str(tmp_path / "a.zarr")}}
    run(aside)
    small_config["output"]["path"] = str(small_disk / "out.zarr")
    path = Path(small_config["output"]["path"])
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(small_config))))
    script = tmp_path / "main.py"
    script.write_text(SCRIPT)
    ballast = small_disk / "ballast"

    def fill(progress: Any) -> None:
        # the disk looked empty when the run was planned; somebody else fills it meanwhile
        if progress.blocks_done == 3:
            free = os.statvfs(small_disk)
            ballast.write_bytes(b"0" * (free.f_bavail * free.f_frsize - 100_000))

    from stillstack.errors import RunFaultError

    with pytest.raises(RunFaultError, match="No space left on device") as caught:
        run(small_config, progress=fill)
    assert "Make room" in str(caught.value.cure)
    done = ledger_blocks(path)
    assert 3 <= len(done) < 15

    ballast.unlink()
    run(small_config)
    assert sorted(ledger_blocks(path)) == list(range(15))
    assert ledger_blocks(path)[: len(done)] == done
    assert stored(path) == stored(aside["output"]["path"])


# ------------------------------------------------------------------ broken input


@pytest.mark.parametrize("damage", ["truncated", "garbage", "one bit"])
def test_a_broken_chunk_of_the_input_costs_its_frames_and_no_other(
    cluster_client: Any, small_stack_file: Path, small_config: Any, tmp_path: Path, damage: str
) -> None:
    stack = tmp_path / "stack.zarr"
    ingest(open_source(str(small_stack_file)), stack, StackOptions(chunk_frames=2))
    small_config["input"]["path"] = str(stack)
    # nothing that is made of several frames may depend on the broken ones
    small_config["reference"] = {"kind": "index", "index": 3}
    small_config["registration"]["gain"] = 1.0
    whole = run(small_config).load()
    chunk = stack / "frames" / "c" / "9" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "garbage":
        data[:] = os.urandom(len(data))
    else:
        data[len(data) // 3] ^= 16
    chunk.write_bytes(data)

    small_config["output"]["path"] = str(tmp_path / "other.zarr")
    found = run(small_config).load()
    lost = np.flatnonzero(found.status.values & Status.UNREADABLE)
    assert lost.tolist() == [18, 19]
    kept = np.setdiff1d(np.arange(60), lost)
    np.testing.assert_array_equal(found["shift"][kept], whole["shift"][kept])
    np.testing.assert_array_equal(found.aligned[kept], whole.aligned[kept])
    assert np.isnan(found.aligned[lost]).all()
    assert np.isnan(found["shift"][lost]).all()


# ------------------------------------------------------------------ workers that write late

LATE = """
import os, sys, time
from pathlib import Path

import stillstack.storage.objects as objects
from stillstack.blockwork import run_block
from stillstack.job import Block, _JOBS
from stillstack.config import load_config
from stillstack.layout import ONE_PASS
from stillstack.plan import plan
from stillstack.prepare import job_for
from stillstack.storage import RunStore

config, ready, go = sys.argv[1:]
planned = plan(load_config(config))
store = RunStore.view(planned.config.output.path)
job = job_for(planned, store, ONE_PASS[0], store.read_table())
_JOBS[job.digest] = job
commit = objects.LocalObjects.commit

def late(self, staged):
    Path(ready).touch()
    while not Path(go).exists():
        time.sleep(0.01)
    return commit(self, staged)

objects.LocalObjects.commit = late
start, stop = store.block_range(5)
result = run_block(job.digest, ONE_PASS[0], Block(5, start, stop))
print(len(result.record.objects))
"""


def test_an_orphaned_worker_that_writes_late_changes_nothing(
    cluster_client: Any, small_config: Any, tmp_path: Path
) -> None:
    path, config = Path(small_config["output"]["path"]), tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(small_config))))
    ready, go, script = tmp_path / "ready", tmp_path / "go", tmp_path / "late.py"
    script.write_text(LATE)
    late: list[subprocess.Popen[str]] = []

    def hold(progress: Any) -> None:
        # while the run goes on, another process has block 5 written but for its names
        if progress.blocks_done == 1 and not late:
            command = [sys.executable, str(script), str(config), str(ready), str(go)]
            late.append(
                subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            )
            deadline = time.monotonic() + 100
            while not ready.exists():
                assert late[0].poll() is None, late[0].communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    run(small_config, progress=hold)
    before = stored(path)
    inodes = {file: file.stat().st_ino for file in (path / "aligned").rglob("*") if file.is_file()}
    go.touch()
    said, errors = late[0].communicate(timeout=60)
    assert late[0].returncode == 0, errors
    assert said.strip() == "4"  # it did write: four frames
    assert any(file.stat().st_ino != inode for file, inode in inodes.items())
    assert stored(path) == before
    assert verify_store(path).sound


# ------------------------------------------------------------------ readers


def test_a_reader_meanwhile_sees_whole_frames_or_pending_ones(
    cluster_client: Any, small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "Limits", partial(Limits, table_seconds=0.0, table_share=1.0))
    small_config["output"]["block_frames"] = 2
    path = Path(small_config["output"]["path"])
    seen: list[tuple[Any, Any, Any]] = []
    faults: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                if (path / "zarr.json").exists():
                    now = open_run(path)
                    status, shift = now.status.values, now["shift"].values
                    ready = (status & Status.PENDING) == 0
                    images = now.aligned[ready].values[-3:]
                    seen.append((np.flatnonzero(ready), shift[ready], images))
            except BaseException as error:  # noqa: BLE001  # raised below, in the test's thread
                faults.append(error)
                return
            time.sleep(0.02)

    def slowly(_: Any) -> None:
        # so that it is looked at; on a busy disk the table is written seldom
        time.sleep(0.1 if any(0 < len(frames) < 60 for frames, _, _ in seen) else 1.0)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        result = run(small_config, progress=slowly).load()
    finally:
        done.set()
        reader.join()
    if faults:
        raise faults[0]
    unfinished = [frames for frames, _, _ in seen if 0 < len(frames) < 60]
    assert unfinished, "the reader never saw an unfinished run"
    for frames, shift, images in seen:
        np.testing.assert_array_equal(shift, result["shift"].values[frames])
        np.testing.assert_array_equal(images, result.aligned.values[frames[-3:]])


# ------------------------------------------------------------------ the scheduler is lost

CLUSTER = """
import sys, time
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(600)
"""


def test_a_lost_scheduler_stops_the_run_and_another_cluster_finishes_it(
    small_config: Any, tmp_path: Path
) -> None:
    from stillstack.errors import RunFaultError

    script, path = tmp_path / "cluster.py", Path(small_config["output"]["path"])
    script.write_text(CLUSTER)
    cluster = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()

        def kill(progress: Any) -> None:
            if progress.blocks_done == 4:
                os.kill(cluster.pid, signal.SIGKILL)  # scheduler, and with it the nannies

        remote = {**small_config, "cluster": {"kind": "address", "address": address}}
        with pytest.raises(RunFaultError, match=r"scheduler is lost|same command"):
            run(remote, progress=kill)
    finally:
        cluster.kill()
        cluster.communicate()
    done = ledger_blocks(path)
    assert 4 <= len(done) < 15
    run(small_config)
    assert sorted(ledger_blocks(path)) == list(range(15))
    assert verify_store(path).sound
