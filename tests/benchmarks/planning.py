"""What a plan says and what a run then takes: ``python tests/benchmarks/planning.py``.

Stacks of 2048x2048 uint16 frames with a beam-block, 60 counts a pixel, on this machine's disk: with
aligned frames written (synced to the disk, as is the default), for shifts alone, and with a
reference refined from the stack. Each is planned with its first block timed, as ``stillstack plan``
does it, and then run, with one worker process and with two. Said of each: the time that was planned
and the time from starting the process to the finished store; the memory of a worker that was
planned and the most that one took; and how many frames a second two workers do over what one does,
in the last three quarters of the frames. One worker process keeps more than one core busy: it
compresses a frame while the one before is written, and the coordinator and the system work beside
it; so one worker with all of this kept on one core stands there too. Answers are checked: the
shifts of all frames against the truth.

``--short`` takes fewer frames. The machine has to be quiet, and to have two cores; Linux only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pipeline
from scorecard import Row, finish, header, options, table

TIME_WITHIN = 0.3
MEMORY_USED = (0.6, 1.0)
TWO_OVER_ONE = 1.8
WORKERS = (1, 2)
WRITING, FLEETING = "frames written", "frames written, not synced"
SHIFTS, REFINED = "shifts alone", "reference refined"
CASES: dict[str, dict[str, Any]] = {
    WRITING: {},
    FLEETING: {"output": {"durable": False}},
    SHIFTS: {"output": {"aligned": False}},
    # out of the distinct frames: the same one twice would have half the noise that is believed
    REFINED: {
        "reference": {
            "kind": "mean",
            "frames": pipeline.DISTINCT,
            "stop": pipeline.DISTINCT,
            "path": None,
            "refine": 2,
        }
    },
}


@dataclass(frozen=True)
class Taken:
    """What a run was planned to take, and what it took."""

    planned_seconds: float
    seconds: float
    planned_bytes: int
    peak: int
    frames_per_second: float


def config_file(folder: Path, case: str, workers: int) -> Path:
    """Write the config of a case."""
    config = json.loads(pipeline.config_text("zstd", "auto"))
    for section, values in CASES[case].items():
        config[section] = {**config.get(section, {}), **values}
    config["cluster"] = {"workers": workers}
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    return path


def run_here(config: str, cores: int) -> None:
    """Run a config on so many cores; print when it ended, and what it did in its last part."""
    from stillstack import run
    from stillstack.execute import Progress

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    marks: list[tuple[float, int]] = []

    def note(progress: Progress) -> None:
        if progress.stage != "reference" and 4 * progress.frames_done >= progress.n_frames:
            marks.append((time.monotonic(), progress.frames_done))

    run(config, progress=note)
    (began, before), (ended, after) = marks[0], marks[-1]
    print(json.dumps({"ended": time.monotonic(), "rate": (after - before) / (ended - began)}))


@contextmanager
def peaks_of_workers(session: list[int]) -> Iterator[dict[int, int]]:
    """Follow the most memory that each worker process of a session took, in bytes."""
    seen: dict[int, int] = {}
    done = threading.Event()

    def follow() -> None:
        while not done.wait(0.1):
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit() or not session:
                    continue
                try:
                    stat, command = (entry / "stat").read_text(), (entry / "cmdline").read_bytes()
                    lines = (entry / "status").read_text().splitlines()
                except OSError:
                    continue  # it has ended
                if int(stat.rpartition(")")[2].split()[3]) == session[0] and b"spawn" in command:
                    peak = next((int(s.split()[1]) for s in lines if s.startswith("VmHWM")), 0)
                    seen[int(entry.name)] = max(seen.get(int(entry.name), 0), 1024 * peak)

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        yield seen
    finally:
        done.set()
        follower.join()


def taken(folder: Path, case: str, workers: int, n_frames: int, cores: int) -> Taken:
    """Plan and run one case, and check its answers."""
    path = config_file(folder, case, workers)
    planning = [sys.executable, "-m", "stillstack", "plan", str(path), "--json"]
    said = subprocess.run(planning, cwd=folder, check=True, capture_output=True, text=True)
    planned = json.loads(said.stdout)
    session: list[int] = []
    with peaks_of_workers(session) as peaks:
        began = time.monotonic()
        running = subprocess.Popen(
            [sys.executable, __file__, "--run", str(path), str(cores)],
            cwd=folder,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        session.append(running.pid)
        out, _ = running.communicate()
    assert running.returncode == 0
    found = json.loads(out.splitlines()[-1])
    check(folder, case, n_frames)
    shutil.rmtree(folder / pipeline.OUTPUT)
    return Taken(
        planned_seconds=planned["time"]["seconds"],
        seconds=found["ended"] - began,
        planned_bytes=planned["memory"]["worker_bytes"],
        peak=max(peaks.values()),
        frames_per_second=found["rate"],
    )


def check(folder: Path, case: str, n_frames: int) -> None:
    """Raise unless every frame is good and lies where the truth says, but for the origin."""
    from stillstack import open_run

    result = open_run(folder / pipeline.OUTPUT)
    assert result.sizes["frame"] == n_frames
    written = (folder / pipeline.OUTPUT / "aligned" / "zarr.json").is_file()
    assert written == (case != SHIFTS), case
    assert not np.any(result["status"].values & 0xFF)
    truth = np.load(folder / "shifts.npy")[np.arange(n_frames) % pipeline.DISTINCT]
    error = result["shift"].values - truth
    error -= error.mean(axis=0)
    assert np.abs(error).max() < 10.0 * np.median(result["shift_std"].values), error


def rows_of(folder: Path, n_frames: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Return the rows of the tables: time, memory, two workers over one."""
    times, memories, scaling = [], [], []
    for case in CASES:
        rates = [taken(folder, case, 1, n_frames, cores=1).frames_per_second]
        for workers in WORKERS:
            one = taken(folder, case, workers, n_frames, cores=2)
            print(f"{case}, {workers}: {one}", file=sys.stderr)
            rates.append(one.frames_per_second)
            ratio = one.seconds / one.planned_seconds
            cells = (case, str(workers), f"{one.planned_seconds:.1f}", f"{one.seconds:.1f}")
            near = abs(ratio - 1) <= TIME_WITHIN
            times.append(Row((*cells, f"{ratio:.2f}"), f"within {TIME_WITHIN:.0%}", near))
            used = one.peak / one.planned_bytes
            low, high = MEMORY_USED
            sizes = (f"{one.planned_bytes / 2**20:.0f}", f"{one.peak / 2**20:.0f}")
            memories.append(
                Row(
                    (case, str(workers), *sizes, f"{used:.2f}"),
                    f"{low} to {high}",
                    low <= used <= high,
                )
            )
        alone, single, double = rates
        gain = double / single
        speeds = (
            f"{alone:.1f}",
            f"{single:.1f}",
            f"{double:.1f}",
            f"{double / alone:.2f}",
            f"{gain:.2f}",
        )
        scaling.append(Row((case, *speeds), f"{TWO_OVER_ONE}", gain >= TWO_OVER_ONE))
    return times, memories, scaling


def main() -> None:
    """Make the frames, plan and run, print the tables."""
    if sys.argv[1:2] == ["--run"]:
        run_here(sys.argv[2], int(sys.argv[3]))
        return
    chosen = options(__doc__)
    n_frames = 512 if chosen.short else 2048
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "shifts.npy", pipeline.made_frames(folder, "zstd"))
        pipeline.repeated(folder, 2 * pipeline.BLOCK, "zstd")
        taken(folder, WRITING, 1, 2 * pipeline.BLOCK, cores=2)  # kernels are compiled then
        pipeline.repeated(folder, n_frames, "zstd")
        times, memories, scaling = rows_of(folder, n_frames)
    lines = [
        header("planning.py", chosen)
        + f" {n_frames} frames, {len(os.sched_getaffinity(0))} cores.",
        "",
        *table(("run", "workers", "planned, s", "took, s", "took over planned"), times),
        "",
        *table(("run", "workers", "planned, MiB", "a worker's peak, MiB", "used"), memories),
        "",
        *table(
            (
                "run",
                "frames/s, one worker, all on one core",
                "one worker",
                "two workers",
                "two over one on one core",
                "two over one",
            ),
            scaling,
        ),
    ]
    finish(lines, [*times, *memories, *scaling], chosen)


if __name__ == "__main__":
    main()
