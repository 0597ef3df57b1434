"""20,000 frames while workers and the client are killed again and again: the same store.

A worker is killed every 5 to 15 s and the client every minute, with all its workers, from the first
block on that this client has done: on a busy machine workers may take longer than that to start.
Blocks are of two frames, so that what has to be committed, and not what has to be computed, makes
the run long enough for several clients. A reduced form, of two minutes or so on two cores::

    STILLSTACK_SOAK_FRAMES=3000 STILLSTACK_SOAK_PACE=4 pytest -m soak -s tests/test_soak.py
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stillstack.ingest import StackOptions, write_simulation
from stillstack.simulation import beam_block_figure, simulate_stack
from stillstack.verification import verify_store
from stores import stored
from test_faults import ledger_blocks
from test_run_kill import SCRIPT

N_FRAMES = int(os.environ.get("STILLSTACK_SOAK_FRAMES", "20000"))
PACE = float(os.environ.get("STILLSTACK_SOAK_PACE", "1"))
WORKER_SECONDS = (5.0 / PACE, 15.0 / PACE)
CLIENT_SECONDS = 60.0 / PACE
BLOCK_FRAMES = 2
SHAPE = (256, 256)


def children_of(pid: int) -> list[int]:
    """Process ids below a process, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found, level = [], [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        found += level
    return found


def workers_of(pid: int) -> list[int]:
    """Worker processes of a run: its spawned children that hold a memory of their own."""
    found = []
    for child in children_of(pid):
        try:
            command = (Path("/proc") / str(child) / "cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command:
            found.append(child)
    return found


def wait_for_a_block(client: subprocess.Popen[bytes], ledger: Path) -> None:
    """Wait until a client has done a block more than there were, or ends."""
    before = ledger.stat().st_size if ledger.exists() else 0
    while client.poll() is None and (ledger.stat().st_size if ledger.exists() else 0) <= before:
        time.sleep(0.05)


def kill_workers_of(client: subprocess.Popen[bytes], seconds: float, rng: Any) -> int:
    """Kill a worker every few seconds, for so long or until the client ends; how many."""
    until, n_killed = time.monotonic() + seconds, 0
    following = time.monotonic() + rng.uniform(*WORKER_SECONDS)
    while client.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
        if time.monotonic() < following:
            continue
        following = time.monotonic() + rng.uniform(*WORKER_SECONDS)
        workers = workers_of(client.pid)
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(rng.choice(workers)), signal.SIGKILL)
                n_killed += 1
    return n_killed


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_run_under_fire_ends_with_the_same_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stack = simulate_stack(N_FRAMES, SHAPE, seed=1, drift_px=6.0)
    write_simulation(stack, tmp_path / "frames.zarr", StackOptions(chunk_frames=BLOCK_FRAMES))
    figure = beam_block_figure(SHAPE, margin_px=3.0)
    config: dict[str, dict[str, Any]] = {
        "input": {"path": str(tmp_path / "frames.zarr")},
        "output": {"path": str(tmp_path / "quiet.zarr"), "block_frames": BLOCK_FRAMES},
        "valid": {
            "frames": {"exclude": [{"rectangle": list(figure.rod)}, {"circle": list(figure.disc)}]}
        },
    }
    script, quiet, loud = tmp_path / "main.py", tmp_path / "quiet.yaml", tmp_path / "loud.yaml"
    script.write_text(SCRIPT)
    quiet.write_text(yaml.safe_dump(config))
    config["output"]["path"] = str(tmp_path / "loud.zarr")
    loud.write_text(yaml.safe_dump(config))
    subprocess.run([sys.executable, str(script), str(quiet)], check=True)

    n_workers_killed = n_clients_killed = 0
    while True:
        client = subprocess.Popen([sys.executable, str(script), str(loud)], start_new_session=True)
        wait_for_a_block(client, tmp_path / "loud.zarr" / "run" / "ledger-align.jsonl")
        n_workers_killed += kill_workers_of(client, CLIENT_SECONDS, rng)
        if client.poll() is not None:
            break
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
        n_clients_killed += 1
    assert client.returncode == 0
    print(f"{n_workers_killed} workers and {n_clients_killed} clients were killed")
    assert n_workers_killed > 0
    assert n_clients_killed > 0
    blocks = ledger_blocks(tmp_path / "loud.zarr")
    assert len(blocks) == len(set(blocks)), "a block that was done was done again"
    assert stored(tmp_path / "loud.zarr") == stored(tmp_path / "quiet.zarr")
    assert verify_store(tmp_path / "loud.zarr").sound
