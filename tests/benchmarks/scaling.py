"""Cost of many blocks: ``python tests/benchmarks/scaling.py``.

Runs of tiny frames out of one Zarr array, one in a chunk and in a block, so that next to nothing is
left but what Dask, the ledger and the table cost: 1,000, 10,000 and 100,000 blocks (``--short``:
the first two). CPU time is that of the coordinator, scheduler included, from the first block that
came back to the last; the workers' is that of their whole lives. The longest run takes a quarter of
an hour, in which a machine that others use as well becomes faster and slower. So it pauses now and
then, and the shorter ones are run in these pauses, each in a process of its own, and averaged: all
lengths meet the same machine. What the planner expects stands beside it. Answers are checked:
frames come again and again, and each gets the same shift every time.

``--workers N`` and ``--out FILE`` as one would think. Nothing is synced to the disk: how long that
takes says nothing about the program.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import zarr

SIDE = 48
DISTINCT = 20
ALLOWED = 1.3
PAUSES = 12

Pause = Callable[[int], None]


@dataclass(frozen=True)
class Measured:
    """One run."""

    blocks: int
    starting: float
    wall: float
    coordinator: float
    workers: float
    grown: int
    objects: int


def stack_file(folder: Path, n_frames: int) -> Path:
    """Zarr array of distinct frames over and over, a chunk each: all but the first are links."""
    from stillstack.simulation import simulate_stack

    stack = simulate_stack(DISTINCT, (SIDE, SIDE), seed=1, drift_px=2.0, planted=False)
    path = folder / f"frames-{n_frames}.zarr"
    array = zarr.create_array(
        path, shape=(n_frames, SIDE, SIDE), dtype=stack.dtype, chunks=(1, SIDE, SIDE)
    )
    array[:DISTINCT] = stack.read(0, DISTINCT)
    files = [path / array.metadata.encode_chunk_key((i, 0, 0)) for i in range(n_frames)]
    for number, file in enumerate(files[DISTINCT:]):
        file.parent.mkdir(parents=True)
        file.hardlink_to(files[number % DISTINCT])
    return path


def config_of(path: Path, output: Path, workers: int) -> Any:
    """Config with one frame in a block."""
    from stillstack.config import make_config

    return make_config(
        {
            "input": {"path": str(path)},
            "output": {"path": str(output), "block_frames": 1, "durable": False},
            "reference": {"kind": "first"},
            "registration": {"max_shift_px": 6, "gain": 1.0},
            "cluster": {"workers": workers},
        }
    )


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Spent:
    """Seconds of the clock, of this process and of those that it started; its memory, bytes."""

    wall: float
    here: float
    children: float
    held: int

    @staticmethod
    def now() -> Spent:
        """Return what is spent so far."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        children = ended.ru_utime + ended.ru_stime
        return Spent(time.perf_counter(), time.process_time(), children, resident())

    def __sub__(self, other: Spent) -> Spent:
        """Return what was spent between two readings, or without a pause."""
        return Spent(
            self.wall - other.wall,
            self.here - other.here,
            self.children - other.children,
            self.held - other.held,
        )


def measured(folder: Path, n_blocks: int, workers: int, pause: Pause | None = None) -> Measured:
    """Run so many blocks and see what they cost, without what is done in pauses."""
    from stillstack import run
    from stillstack.execute import Progress

    source = stack_file(folder, n_blocks)
    output = folder / f"aligned-{n_blocks}.zarr"
    shutil.rmtree(output, ignore_errors=True)
    marks: list[Spent] = []
    pauses: list[Spent] = []

    def note(progress: Progress) -> None:
        if progress.blocks_done in (1, n_blocks):
            marks.append(Spent.now())
        elif pause and progress.blocks_done:
            before = Spent.now()
            pause(progress.blocks_done)
            pauses.append(Spent.now() - before)

    gc.collect()
    began = Spent.now()
    result = run(config_of(source, output, workers), progress=note)
    whole = Spent.now() - began
    first, last = marks
    between = last - first
    for paused in pauses:
        between, whole = between - paused, whole - paused
    shifts = result["shift"].values
    for start in range(0, n_blocks, DISTINCT):
        piece = shifts[start : start + DISTINCT]
        np.testing.assert_array_equal(piece, shifts[: len(piece)])
    assert np.isfinite(shifts[:DISTINCT]).mean() > 0.9
    objects = sum(1 for file in (output / "aligned").rglob("*") if file.is_file())
    assert objects == n_blocks + 1, objects
    return Measured(
        blocks=n_blocks,
        starting=(first - began).wall,
        wall=between.wall,
        coordinator=between.here,
        workers=whole.children,
        grown=(last - first).held,
        objects=objects,
    )


def elsewhere(n_blocks: int, workers: int) -> Measured:
    """Do the same in a process of its own."""
    command = [sys.executable, __file__, "--one", str(n_blocks), "--workers", str(workers)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Measured(**json.loads(out))


def all_lengths(longest: int, shorter: list[int], workers: int) -> list[list[Measured]]:
    """Run the longest, and in its pauses the shorter ones; the latter as often as they are short.

    Returns
    -------
    list
        For each length, the shortest first, its runs.
    """
    found: dict[int, list[Measured]] = {length: [] for length in (*shorter, longest)}
    places = {int((pause + 0.5) / PAUSES * longest): pause for pause in range(PAUSES)}

    def pause(done: int) -> None:
        if done not in places:
            return
        for length in shorter:
            # one that is a tenth of the longest in every third pause
            if longest // length > PAUSES or places[done] % 3 == 1:
                found[length].append(elsewhere(length, workers))
                print(found[length][-1], file=sys.stderr)

    with tempfile.TemporaryDirectory() as name:
        found[longest].append(measured(Path(name), longest, workers, pause))
    return list(found.values())


def averaged(runs: list[Measured]) -> Measured:
    """Return runs of one length as one."""
    return Measured(
        blocks=runs[0].blocks,
        starting=max(run.starting for run in runs),
        wall=fmean(run.wall for run in runs),
        coordinator=fmean(run.coordinator for run in runs),
        workers=fmean(run.workers for run in runs),
        grown=max(run.grown for run in runs),
        objects=runs[0].objects,
    )


def report(runs: list[Measured], workers: int, options: argparse.Namespace) -> str:
    """Table in Markdown."""
    from stillstack.forecast import COORDINATOR_SECONDS_PER_BLOCK

    expected = 1e3 * COORDINATOR_SECONDS_PER_BLOCK
    flags = (" --short" if options.short else "") + f" --workers {workers}"
    packages = ("stillstack", "distributed", "dask", "numpy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    per_block = [1e3 * run.coordinator / run.blocks for run in runs]
    spread = max(per_block) / min(per_block)
    rows = [
        f"| {run.blocks:,} | {cpu:.2f} | {cpu / expected:.2f} | "
        f"{1e3 * run.wall / run.blocks:.2f} | {1e3 * run.workers / run.blocks:.2f} | "
        f"{run.starting:.1f} | {run.grown / 2**20:.0f} MiB |"
        for run, cpu in zip(runs, per_block, strict=True)
    ]
    lines = [
        f"`python tests/benchmarks/scaling.py{flags}`, {dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, "
        f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, {versions}. Frames of {SIDE}x{SIDE}, one in a block.",
        "",
        f"| blocks | coordinator's CPU, ms a block | over the planner's {expected:.1f} ms | "
        "wall, ms a block | workers' CPU with starting, ms a block | to the first block, s | "
        "coordinator grows by |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"The dearest over the cheapest: {spread:.2f}, and at most {ALLOWED} is wanted: "
        f"{'reached' if spread <= ALLOWED else '**missed**'}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, check, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--one", type=int, metavar="BLOCKS", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measured(Path(name), 50, options.workers)  # kernels are compiled then
        if options.one:
            print(json.dumps(asdict(measured(Path(name), options.one, options.workers))))
            return
    shorter, longest = ([1_000], 10_000) if options.short else ([1_000, 10_000], 100_000)
    found = all_lengths(longest, shorter, options.workers)
    runs = [averaged(of_length) for of_length in found]
    table = report(runs, options.workers, options)
    sys.stdout.write(table)
    if options.out:
        options.out.write_text(table)


if __name__ == "__main__":
    main()
