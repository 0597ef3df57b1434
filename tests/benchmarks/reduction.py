"""Cost of an average with its errors and coverage: ``python tests/benchmarks/reduction.py``.

A stack drifts behind a beam-block; a run finds its shifts and writes no aligned frames. Then, one
thread in one process and the same frames on the same disk, in turns, CPU time a frame of:

- the mean of the raw frames as Dask's users write it, ``stack.mean("frame")``: what reading and
  adding cost, and a blurred picture with the block's shadow in it;
- the mean of the run's virtual aligned stack, ``run.aligned.mean("frame")``;
- the same with variance and number of values, ``mean``, ``var`` and ``count``, which Dask makes of
  each frame together;
- ours, ``reduce_run(run)``: mean, variance, standard error and coverage in one pass.

Correctness first: ours has to agree with NumPy on the full array of aligned frames, and the scene's
rms error of each mean is stated, in counts, over the pixels that it has. Peak memory is of NumPy's
arrays, for one group and for many. ``--short`` takes smaller and fewer frames.
"""

from __future__ import annotations

import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import warnings

import dask
import dask.base
import numpy as np
import xarray as xr
from scorecard import Row, finish, header, options, table

from stillstack import open_run, open_stack, run
from stillstack.ingest import StackOptions, write_simulation
from stillstack.model import is_good
from stillstack.reduction import ReductionOptions, reduce_run
from stillstack.simulation import SimulatedStack, beam_block_figure, simulate_stack

N_DELAYS = 8
compute: Any = dask.base.compute  # not typed


def made(folder: Path, side: int, n_frames: int) -> tuple[SimulatedStack, Path]:
    """Return a simulated stack, on the disk too, and a run of it without aligned frames."""
    stack = simulate_stack(n_frames, (side, side), seed=1, drift_px=8.0, planted=False)
    write_simulation(stack, str(folder / "frames.zarr"), StackOptions(chunk_frames=1))
    block = beam_block_figure((side, side), margin_px=3.0)
    run(
        {
            "input": {"path": str(folder / "frames.zarr")},
            "output": {"path": str(folder / "run.zarr"), "aligned": False},
            "valid": {"frames": {"exclude": [{"rectangle": block.rod}, {"circle": block.disc}]}},
            "cluster": {"workers": 1},
        }
    )
    return stack, folder / "run.zarr"


def check(found: xr.Dataset, opened: xr.Dataset) -> None:
    """Make sure that what is timed is right: NumPy on the full array, pixel by pixel."""
    aligned = opened["aligned"].values.astype(np.float64)
    assert bool(is_good(opened["status"].values).all())
    count = np.isfinite(aligned).sum(axis=0)
    covered = count > 1
    np.testing.assert_array_equal(found["coverage"], count)
    for name, expected in (
        ("mean", np.nanmean(aligned[:, covered], axis=0)),
        ("variance", np.nanvar(aligned[:, covered], axis=0, ddof=1)),
    ):
        np.testing.assert_allclose(found[name].values[covered], expected, rtol=1e-9)


def calls(path: Path, opened: xr.Dataset) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    raw = open_stack(path.parent / "frames.zarr")
    aligned = opened["aligned"]

    def everything() -> Any:
        lazy = (aligned.mean("frame"), aligned.var("frame", ddof=1), aligned.count("frame"))
        return compute(*lazy)

    return {
        'raw frames, stack.mean("frame")': lambda: raw.mean("frame").compute(),
        'run.aligned.mean("frame")': lambda: aligned.mean("frame").compute(),
        "run.aligned: mean, var, count": everything,
        "reduce_run: mean, variance, standard error, coverage": lambda: reduce_run(path).compute(),
    }


def times_ms(found: dict[str, Callable[[], Any]], n_frames: int, rounds: int) -> dict[str, float]:
    """Return the least CPU time a frame of each; all take turns."""
    best = dict.fromkeys(found, np.inf)
    for _ in range(rounds):
        for name, call in found.items():
            began = time.process_time()
            call()
            best[name] = min(best[name], 1e3 * (time.process_time() - began) / n_frames)
    return best


def rms_error(image: xr.DataArray, stack: SimulatedStack, opened: xr.Dataset) -> float:
    """Return the rms difference of a mean from the scene, at the place where the run has it."""
    origin = np.mean(opened["shift"].values - stack.shift, axis=0)
    expected = stack.scene.expected(-origin)
    off = image.values.astype(np.float64) - expected
    return float(np.sqrt(np.nanmean(off[8:-8, 8:-8] ** 2)))


def peak_mib(call: Callable[[], Any]) -> float:
    """Return the most that NumPy's arrays take at once, MiB."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def rows_of_memory(path: Path, opened: xr.Dataset, folder: Path) -> list[Row]:
    """Return the rows of the table of memory: written, one group after the other."""
    n_frames, side = opened.sizes["frame"], opened.sizes["y"]
    labelled = opened.assign_coords(
        delay=("frame", np.arange(n_frames) % N_DELAYS),
        each=("frame", np.arange(n_frames) // 2),
    )
    quick = ReductionOptions(durable=False)
    peaks = {}
    for by, n_groups in ((), 1), ("delay", N_DELAYS), ("each", (n_frames + 1) // 2):
        place = folder / f"by-{n_groups}.zarr"
        call = lambda by=by, place=place: reduce_run(  # noqa: E731
            labelled, by, output=place, options=quick
        )
        peaks[n_groups] = peak_mib(call)
    few, many = peaks[N_DELAYS], max(peaks)
    state = 20 * side**2 / 2**20
    return [
        Row(
            (f"{n_groups:,}", f"{peak:.0f}", f"{n_groups * state:.0f}"),
            f"at most {1.2 * few:.0f}" if n_groups == many else "",
            peak <= 1.2 * few if n_groups == many else None,
        )
        for n_groups, peak in peaks.items()
    ]


def main() -> None:
    """Print the tables."""
    chosen = options(__doc__)
    warnings.filterwarnings("ignore", "invalid value encountered in divide")  # dask, of no values
    side, n_frames, rounds = (512, 64, 2) if chosen.short else (2048, 96, 3)
    with tempfile.TemporaryDirectory() as name, dask.config.set(scheduler="synchronous"):
        folder = Path(name)
        stack, path = made(folder, side, n_frames)
        opened = open_run(path)
        if chosen.short:
            check(reduce_run(path).compute(), opened)
        timed = calls(path, opened)
        means = [call() for call in timed.values()]
        images = [means[0], means[1], means[2][0], means[3]["mean"]]
        times = times_ms(timed, n_frames, rounds)
        simple = times["run.aligned: mean, var, count"]
        rows = [
            Row(
                (kind, f"{ms:.2f}", f"{rms_error(image, stack, opened):.2f}"),
                f"less than {simple:.2f} ms" if kind.startswith("reduce_run") else "",
                ms < simple if kind.startswith("reduce_run") else None,
            )
            for (kind, ms), image in zip(times.items(), images, strict=True)
        ]
        memory = rows_of_memory(path, opened, folder)
    lines = [
        header("reduction.py", chosen),
        "",
        f"{n_frames} frames of {side} x {side}, uint16.",
        "",
    ]
    lines += table(("what", "CPU ms a frame", "rms error, counts"), rows)
    lines += ["", *table(("groups", "peak MiB", "sums of all groups, MiB"), memory)]
    finish(lines, [*rows, *memory], chosen)


if __name__ == "__main__":
    main()
