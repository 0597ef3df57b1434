"""CPU time of a whole run beside a plain copy: ``python tests/benchmarks/pipeline.py``.

What is measured is the CPU time of all processes, coordinator and scheduler included, per frame:
the slope between a short and a long stack, so that starting up does not count. Frames are 2048x2048
uint16, 60 counts a pixel, in chunks of one frame and blocks of 8. The copies are Dask from Zarr to
Zarr, on the cluster that a run starts for itself, with the codecs that a run writes with, through
zarr's own pipeline and through ``zarrs``. Answers are checked: sampled frames of the copies to the
last pixel, and the shifts of all frames against the truth.

``--short`` takes 64 and 320 frames once, ``--codec lz4`` the other codec, ``--out FILE`` writes the
tables as Markdown. Linux only: CPU time is taken from the kernel's account of processes that were
waited for, and compared with what ``/proc`` said of each process while it lived.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime as dt
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

SHAPE = (2048, 2048)
BLOCK = 8
DISTINCT = 31
DOSE = 60.0
EXPOSURES = 64  # the reference is of another stack: these frames come again and again
MAX_SHIFT_PX = 32
ZARRS = "zarrs.ZarrsCodecPipeline"
SOURCE, OUTPUT, REFERENCE = "frames.zarr", "aligned.zarr", "reference.npy"
# How far the kernel's account and that of /proc, which misses the last moments, may differ.
ACCOUNTS_AGREE = 0.05

Codec = Literal["zstd", "lz4"]
TESTED = "stillstack run, dtype input"
MOST: dict[Codec, float] = {"zstd": 1.3, "lz4": 1.4}


@dataclass(frozen=True)
class Case:
    """One way through the frames."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    check: Callable[[Path, int], None]


# Frames


def made_frames(folder: Path, codec: Codec) -> NDArray[np.float64]:
    """Write the reference and the distinct frames; return the shifts that undo their drift."""
    from stillstack.simulation import beam_block, powder_scene

    scene, through = powder_scene(SHAPE, dose=DOSE, ring_width_px=9.0), beam_block(SHAPE)
    rng = np.random.default_rng(0)
    exposures = rng.poisson(scene.expected() * through * EXPOSURES) / EXPOSURES
    np.save(folder / REFERENCE, exposures.astype(np.float32))
    shifts = rng.uniform(-8.0, 8.0, (DISTINCT, 2))
    array = new_array(folder / "distinct.zarr", DISTINCT, codec)
    for number, shift in enumerate(shifts):
        array[number] = rng.poisson(scene.expected(shift) * through).astype(np.uint16)
    return shifts


def new_array(path: Path, n_frames: int, codec: Codec) -> zarr.Array[Any]:
    """Return an empty array with the chunks and codecs of a run's output."""
    from stillstack.storage.arrays import compressors

    return zarr.create_array(
        path,
        shape=(n_frames, *SHAPE),
        dtype=np.uint16,
        chunks=(1, *SHAPE),
        compressors=compressors(np.dtype(np.uint16), codec),
        config={"write_empty_chunks": True},
    )


def repeated(folder: Path, n_frames: int, codec: Codec) -> None:
    """Make the stack of the distinct frames over and over: each chunk is a hard link."""
    shutil.rmtree(folder / SOURCE, ignore_errors=True)
    array = new_array(folder / SOURCE, n_frames, codec)
    for number in range(n_frames):
        chunk = folder / SOURCE / array.metadata.encode_chunk_key((number, 0, 0))
        chunk.parent.mkdir(parents=True)
        chunk.hardlink_to(folder / "distinct.zarr" / f"c/{number % DISTINCT}/0/0")


# What is timed: each in a process of its own


def copy(source: str, output: str, codec: Codec, pipeline: str) -> None:
    """Copy a stack with Dask, block by block, on a cluster like a run's."""
    import dask.array as da

    from stillstack.cluster import client_for, machine_size
    from stillstack.config.cluster import ClusterConfig

    with client_for(ClusterConfig(), workers=machine_size()[0]) as client:
        found = set(client.run(pipeline_in_use, source).values()) | {pipeline_in_use(source)}
        assert found == {pipeline}, found
        array: Any = da  # partly typed
        frames = array.from_zarr(source, chunks=(BLOCK, *SHAPE))
        array.to_zarr(frames, new_array(Path(output), len(frames), codec), compute=True)


def pipeline_in_use(source: str) -> str:
    """Name of the codec pipeline that this process reads with."""
    used = type(zarr.open_array(source, mode="r").async_array.codec_pipeline)
    return f"{used.__module__.partition('.')[0]}.{used.__name__}"


class Spent(NamedTuple):
    """Seconds of a command."""

    cpu: float
    wall: float


def cost_of(command: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> Spent:
    """CPU seconds of a process and all it started, those that it did not wait for included."""
    before, began = children_seconds(), time.monotonic()
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seen: dict[str, float] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            seen.update(session_seconds(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        said, _ = process.communicate()
        wall = time.monotonic() - began
        wait_for_orphans()
    finally:
        done.set()
        watcher.join()
    assert process.returncode == 0, said
    spent, watched = children_seconds() - before, sum(seen.values())
    assert abs(watched - spent) <= max(1.0, ACCOUNTS_AGREE * spent), (spent, watched, seen)
    return Spent(spent, wall)


def children_seconds() -> float:
    """CPU seconds of all descendants that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends without waiting."""
    subreaper = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
    assert ctypes.CDLL(None).prctl(subreaper, 1, 0, 0, 0) == 0


def wait_for_orphans() -> None:
    """Wait for every adopted process, so that its time is counted."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def session_seconds(session: int) -> dict[str, float]:
    """CPU seconds of each living process of a session, as ``/proc`` has it."""
    tick = os.sysconf("SC_CLK_TCK")
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:
            continue  # it has ended
        fields = text.rpartition(")")[2].split()
        if int(fields[3]) == session:
            found[f"{entry.name} {fields[19]}"] = (int(fields[11]) + int(fields[12])) / tick
    return found


# Checks


def equal_pixels(folder: Path, n_frames: int) -> None:
    """Raise unless sampled frames of a copy are those of the source."""
    copied = zarr.open_array(folder / OUTPUT, mode="r")
    distinct = zarr.open_array(folder / "distinct.zarr", mode="r")
    assert copied.shape == (n_frames, *SHAPE)
    written = sum(1 for file in (folder / OUTPUT / "c").rglob("*") if file.is_file())
    assert written == n_frames, written
    for number in {*range(0, n_frames, n_frames // 16), n_frames - 1}:
        np.testing.assert_array_equal(copied[number], distinct[number % DISTINCT])


def true_shifts(folder: Path, n_frames: int) -> None:
    """Raise unless every frame of a run is good and lies where the truth says."""
    from stillstack import open_run

    result = open_run(folder / OUTPUT)
    assert result.sizes["frame"] == n_frames
    assert not np.any(result["status"].values & 0xFF)
    truth = np.load(folder / "shifts.npy")[np.arange(n_frames) % DISTINCT]
    error = result["shift"].values - truth  # xarray has a method of that name
    deviation = result["shift_std"].values
    assert np.abs(error).max() < 10.0 * np.median(deviation), error
    # what was written: the same pixel of the scene in every frame, to within the noise
    middle = result.aligned[::BLOCK, 300:400, 300:400].astype("f8").mean(("y", "x")).values
    assert np.all(np.abs(middle / middle.mean() - 1) < 0.02), middle


def config_text(codec: Codec, dtype: str, *, durable: bool = True) -> str:
    """Config of the run, as YAML (JSON is YAML)."""
    from stillstack.simulation import beam_block_figure

    figure = beam_block_figure(SHAPE, margin_px=2.0)
    return json.dumps(
        {
            "input": {"path": SOURCE},
            "output": {
                "path": OUTPUT,
                "codec": codec,
                "chunk_frames": 1,
                "block_frames": BLOCK,
                "durable": durable,
            },
            "valid": {"frames": {"exclude": [{"rectangle": figure.rod}, {"circle": figure.disc}]}},
            "reference": {"kind": "image", "path": REFERENCE},
            "registration": {"max_shift_px": MAX_SHIFT_PX},
            "alignment": {"dtype": dtype},
        }
    )


# Stages


def stages(folder: Path, *, short: bool) -> dict[str, float]:
    """CPU seconds per frame of each stage of a block, in one process, as a worker does them."""
    from stillstack.frameblock import Resampling, align_block, register_block
    from stillstack.kept_references import stored_reference
    from stillstack.sources import open_source
    from stillstack.storage import RunStore, lock_run

    source = open_source(str(folder / SOURCE))
    starts = np.zeros(1, np.int64)
    best: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        value = work()
        spent = time.process_time() - began
        best[stage] = min(best.get(stage, np.inf), spent / BLOCK)
        return value

    with lock_run(folder / OUTPUT) as lock:
        store = RunStore.resume(lock)
        reference = stored_reference(store)
        resampling = Resampling(
            store.attributes["interpolation"],
            store.layout["aligned_dtype"],
            (0, SHAPE[0], 0, SHAPE[1]),
        )
        for block in range(3 if short else 12):
            start = block * BLOCK % store.n_frames
            frames = timed("read and decode", lambda: source.read(start, start + BLOCK))
            rows = timed("register", lambda: register_block(frames, reference, starts, (0,)))
            moved = timed(
                "align",
                lambda: align_block(
                    frames,
                    rows,
                    starts,
                    reference=reference,
                    valid=None,
                    resampling=resampling,
                    block_id=(0,),
                ),
            )
            timed("encode and write", lambda: store.write_block(start, moved.images))
    return best


def stages_apart(folder: Path, *, short: bool) -> dict[str, float]:
    """Return what `stages` returns, from a process with a worker's environment."""
    from stillstack.cluster import THREAD_CAPS

    command = [sys.executable, __file__, "--stages", str(folder), *(["--short"] if short else [])]
    done = subprocess.run(
        command, env={**os.environ, **THREAD_CAPS}, check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


# The whole


def cases(codec: Codec) -> list[Case]:
    """Every way through the frames that this machine has."""
    copying = (sys.executable, __file__, "--copy", SOURCE, OUTPUT, "--codec", codec)
    found = [Case("Dask copy, zarr", (*copying, "--pipeline", ""), {}, equal_pixels)]
    if importlib.util.find_spec("zarrs") is not None:
        found.append(
            Case(
                "Dask copy, zarrs",
                (*copying, "--pipeline", "zarrs.ZarrsCodecPipeline"),
                {"ZARR_CODEC_PIPELINE__PATH": ZARRS},
                equal_pixels,
            )
        )
    running = (sys.executable, "-m", "stillstack", "run")
    return [
        *found,
        Case(TESTED, (*running, "input.yaml"), {}, true_shifts),
        Case("stillstack run, dtype auto", (*running, "auto.yaml"), {}, true_shifts),
        Case("the same, not durable", (*running, "fleeting.yaml"), {}, true_shifts),
    ]


def warmed_up(folder: Path, codec: Codec) -> None:
    """Run once and throw it away: kernels are compiled then, once for a machine."""
    repeated(folder, 2 * BLOCK, codec)
    for case in cases(codec):
        cost_of(case.command, case.environment, folder)
        shutil.rmtree(folder / OUTPUT)
        (folder / OUTPUT).with_suffix(".html").unlink(missing_ok=True)


def measured(
    folder: Path, codec: Codec, counts: tuple[int, int], repeats: int, *, short: bool
) -> tuple[dict[str, dict[int, Spent]], dict[str, float]]:
    """Seconds of each case for each number of frames, the least of some; and the stages'."""
    seconds: dict[str, dict[int, Spent]] = {}
    parts: dict[str, float] = {}
    warmed_up(folder, codec)
    for n_frames in counts:
        repeated(folder, n_frames, codec)
        for _ in range(repeats):
            for case in cases(codec):
                spent = cost_of(case.command, case.environment, folder)
                case.check(folder, n_frames)
                of_case = seconds.setdefault(case.name, {})
                least = of_case.get(n_frames, spent)
                of_case[n_frames] = Spent(*map(min, spent, least))
                said = f"{spent.cpu:.2f} s of CPU, {spent.wall:.2f} s"
                print(f"{case.name}, {n_frames} frames: {said}", file=sys.stderr)
                if case.name == TESTED and not parts:
                    parts = stages_apart(folder, short=short)
                shutil.rmtree(folder / OUTPUT)
                (folder / OUTPUT).with_suffix(".html").unlink(missing_ok=True)
    return seconds, parts


def verdict(name: str, ratio: float, codec: Codec) -> str:
    """What a case must reach and whether it did, as two cells; nothing where nothing is asked."""
    if name != TESTED:
        return "|"
    return f"at most {MOST[codec]} | {'reached' if ratio <= MOST[codec] else '**missed**'}"


def report(
    seconds: Mapping[str, Mapping[int, Spent]],
    parts: Mapping[str, float],
    counts: tuple[int, int],
    options: argparse.Namespace,
) -> str:
    """Both tables, in Markdown."""
    few, many = counts
    slope = {name: 1e3 * (s[many].cpu - s[few].cpu) / (many - few) for name, s in seconds.items()}
    copies = {name: value for name, value in slope.items() if "copy" in name}
    fastest = min(copies, key=lambda name: copies[name])
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("stillstack", "zarr", "numcodecs", "dask", "numpy", "numba")
    )
    zarrs = (
        f"zarrs {importlib.metadata.version('zarrs')}"
        if importlib.util.find_spec("zarrs") is not None
        else "zarrs is not installed, so the copy is zarr's own alone"
    )
    run = slope[TESTED]
    rest = run - 1e3 * sum(parts.values())
    stage_rows = [*((name, 1e3 * value) for name, value in parts.items()), ("Dask, ledger", rest)]
    flags = (" --short" if options.short else "") + f" --codec {options.codec}"
    lines = [
        f"`python tests/benchmarks/pipeline.py{flags}`, {dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, "
        f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, {versions}, {zarrs}.",
        "",
        f"| {few} to {many} frames | CPU of all processes, ms a frame | over the copy | "
        "must reach |  |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {value:.2f} | {value / slope[fastest]:.2f} | "
            f"{verdict(name, value / slope[fastest], options.codec)} |"
            for name, value in slope.items()
        ),
        "",
        "| stage of a run, dtype input | ms a frame |",
        "|---|---|",
        *(f"| {name} | {value:.2f} |" for name, value in stage_rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the frames, take the times, check the answers, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--codec", choices=("zstd", "lz4"), default="zstd")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--copy", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--pipeline", help=argparse.SUPPRESS)
    parser.add_argument("--stages", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.copy:
        source, output = options.copy
        copy(source, output, options.codec, options.pipeline or "zarr.BatchedCodecPipeline")
        return
    if options.stages:
        sys.stdout.write(json.dumps(stages(options.stages, short=options.short)))
        return
    counts = (64, 320) if options.short else (256, 1024)
    repeats = options.repeats or (1 if options.short else 2)
    adopt_orphans()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "shifts.npy", made_frames(folder, options.codec))
        for dtype in ("input", "auto"):
            (folder / f"{dtype}.yaml").write_text(config_text(options.codec, dtype))
        (folder / "fleeting.yaml").write_text(config_text(options.codec, "auto", durable=False))
        seconds, parts = measured(folder, options.codec, counts, repeats, short=options.short)
    tables = report(seconds, parts, counts, options)
    sys.stdout.write(tables)
    if options.out:
        options.out.write_text(tables)


if __name__ == "__main__":
    main()
