"""The memory that a plan predicts, held against the peaks of real processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from stillstack.config import make_config
from stillstack.plan import plan
from stillstack.run import run
from stillstack.simulation import beam_block_figure, simulate_stack

SMALL = [(256, "uint16", 64, 128), (512, "float32", 32, 64)]
LARGE = [
    ((1024, "uint16", 32, 64), "mean"),
    ((1024, "float32", 8, 32), "median"),
    ((2048, "uint16", 8, 24), "first"),
    ((2048, "float32", 16, 32), "mean"),
]
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="peaks are read from /proc")


def settings_of(folder: Path, case: tuple[int, str, int, int], kind: str) -> dict[str, Any]:
    """Sections of a config, for frames that are written here."""
    side, dtype, block, n_frames = case
    stack = simulate_stack(9, (side, side), seed=2, planted=False, drift_px=4.0)
    frames = stack.read(0, 9).astype(dtype)
    path = folder / "frames.npy"
    array = np.lib.format.open_memmap(path, "w+", dtype, (n_frames, side, side))
    for number in range(n_frames):
        array[number] = frames[number % 9]
    array.flush()
    figure = beam_block_figure((side, side), margin_px=2.0)
    return {
        "input": {"path": str(path)},
        "output": {"path": str(folder / "out.zarr"), "block_frames": block, "durable": False},
        "valid": {"frames": {"exclude": [{"rectangle": figure.rod}, {"circle": figure.disc}]}},
        "reference": {"kind": kind},
        "registration": {"max_shift_px": 16},
        "cluster": {"workers": 1},
    }


def peak_of(process: int) -> int:
    """Largest memory that a process has had, bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("VmHWM")), 0)


def peaks(config: Path, **environment: str) -> tuple[int, list[int]]:
    """Peaks of the coordinator and of the workers of a run that is started here."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stillstack", "run", str(config), "--no-report", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    found: dict[int, int] = {}
    workers: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            with contextlib.suppress(psutil.Error):  # one that ends meanwhile
                for child in psutil.Process(process.pid).children(recursive=True):
                    if "spawn_main" in " ".join(child.cmdline()):
                        workers.add(child.pid)
            for pid in (process.pid, *workers):
                found[pid] = max(found.get(pid, 0), peak_of(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        said, _ = process.communicate()
    finally:
        done.set()
        watcher.join()
    assert process.returncode == 0, said
    return found[process.pid], [found[pid] for pid in sorted(workers)]


def check(folder: Path, case: tuple[int, str, int, int], kind: str) -> None:
    """Hold a run's peaks to what its plan says."""
    settings = settings_of(folder, case, kind)
    made = plan(make_config(settings)).refuse()
    # whatever has not been compiled on this machine yet is compiled now
    (folder / "tiny").mkdir()
    run(settings_of(folder / "tiny", (128, case[1], 4, 8), kind))
    path = folder / "run.yaml"
    path.write_text(json.dumps(settings))
    coordinator, workers = peaks(path)
    assert len(workers) == 1
    ratios = (workers[0] / made.memory.worker, coordinator / made.memory.coordinator)
    assert min(ratios) >= 0.6, ratios
    assert max(ratios) <= 1.0, ratios


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", SMALL)
def test_real_processes_take_what_the_plan_says(
    tmp_path: Path, case: tuple[int, str, int, int]
) -> None:
    check(tmp_path, case, "mean")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("case", "kind"), LARGE)
def test_real_processes_take_what_the_plan_says_of_large_frames(
    tmp_path: Path, case: tuple[int, str, int, int], kind: str
) -> None:
    check(tmp_path, case, kind)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", SMALL)
def test_a_machine_that_compiles_the_kernels_needs_no_more_than_the_plan_counts_with(
    tmp_path: Path, case: tuple[int, str, int, int]
) -> None:
    settings = settings_of(tmp_path, case, "mean")
    memory = plan(make_config(settings)).refuse().memory
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(settings))
    coordinator, workers = peaks(path, NUMBA_CACHE_DIR=str(tmp_path / "kernels"))
    assert 0.6 <= coordinator / memory.needed_coordinator <= 1.0, coordinator
    assert max(workers) <= 0.8 * memory.needed_limit, workers


def test_workers_with_exactly_the_limit_that_the_plan_says_never_pause(tmp_path: Path) -> None:
    from stillstack.cluster.local import local_client

    settings = settings_of(tmp_path, (512, "uint16", 16, 128), "first")
    config = make_config(settings)
    made = plan(config).refuse()
    with local_client(2, made.memory.needed_limit) as client, client.as_current():
        before = client.run(os.getpid)
        limits = [w["memory_limit"] for w in client.scheduler_info()["workers"].values()]
        assert limits == [made.memory.needed_limit] * 2
        result = run(config)
        after = client.run(os.getpid)
        changes = status_changes(client)
        workers = client.scheduler_info()["workers"].values()
        spilled = [w["metrics"]["spilled_bytes"] for w in workers]
    assert not np.any(result["status"].values & 0xFF)
    assert after == before, "a worker was restarted"
    assert "paused" not in changes
    assert all(not any(of_worker.values()) for of_worker in spilled)


def status_changes(client: Any) -> set[str]:
    """States that workers went through, as the scheduler noted."""
    events = [event for topic in client.get_events().values() for _, event in topic]
    return {
        str(event["status"])
        for event in events
        if isinstance(event, dict) and event.get("action") == "worker-status-change"
    }


def test_a_worker_that_pauses_is_noticed_by_that_test(tmp_path: Path) -> None:
    """With a limit of its bare libraries a worker pauses, and the scheduler's events say so."""
    from stillstack.cluster.local import local_client

    with local_client(1, None) as client:
        resident = client.run(lambda: psutil.Process().memory_info().rss)
    limit = int(next(iter(resident.values())) / 0.85)
    with local_client(1, limit) as client:
        found: set[str] = set()
        for _ in range(200):
            found = status_changes(client)
            if "paused" in found:
                break
            client.run(lambda: __import__("time").sleep(0.1))
    assert "paused" in found
