"""Error and time of moving one frame: ``python tests/benchmarks/resampling.py``.

Errors: rms over sixteen shifts, in counts, on noise-free powder rings (mean 60 counts a pixel,
512x512) generated at the shifted place, away from the border. Times: CPU time of one thread on
2048x2048 uint16 frames of counts, for the default method over twelve different ones in turn, as
they come from memory, into arrays that exist; beside it ``scipy.ndimage.shift(order=3)`` on the
same frames, in turns with ours, and its time over ours. Behind a block, with one pixel in a
thousand dead, the valid pixels are those that a detector has in every frame, made ready once.
``--short`` takes fewer rounds, ``--out FILE`` writes the tables as Markdown, ``--strict`` exits
with 1 if a figure is missed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scorecard import Row, finish, header, options, table

from stillstack.kernels.resampling import (
    DEFAULT_INTERPOLATION,
    INTERPOLATIONS,
    ValidPixels,
    resample_frame,
)
from stillstack.simulation import beam_block_valid, powder_scene

SHAPE = (2048, 2048)
SHIFT = (3.3, -2.6)
N_FRAMES = 12
MUST = 100.0
WIDTHS_PX = (1.5, 2.0, 3.0, 9.0)
SHIFTS = [(down / 8, across / 8) for down in (1, 3, 4, 6) for across in (0, 2, 4, 7)]
INSIDE = (slice(16, -16), slice(16, -16))
SCIPY = "scipy.ndimage.shift, order 3"


def moved(method: str, frame: NDArray[Any], shift: tuple[float, float]) -> NDArray[Any]:
    """Return the frame moved by one of the methods, in double precision."""
    if method == SCIPY:
        return np.asarray(ndimage.shift(frame, shift, order=3, mode="mirror"))
    return resample_frame(frame, shift, interpolation=method, dtype="float64").image


def rms_error(method: str, width_px: float) -> float:
    """Return the rms over shifts and pixels of the difference from the scene, in counts."""
    scene = powder_scene((512, 512), ring_width_px=width_px)
    squares = [
        np.mean((moved(method, scene.expected(s), s) - scene.expected())[INSIDE] ** 2)
        for s in SHIFTS
    ]
    return float(np.sqrt(np.mean(squares)))


def check() -> None:
    """Make sure that what is timed is right: a method of ours is not further off than SciPy's."""
    ours, theirs = rms_error(DEFAULT_INTERPOLATION, 2.0), rms_error(SCIPY, 2.0)
    assert ours < theirs, (ours, theirs)
    rng = np.random.default_rng(1)
    frame = rng.poisson(60, (256, 256)).astype(np.uint16)
    valid = beam_block_valid(frame.shape)
    image = np.zeros_like(frame)
    whole = resample_frame(frame, SHIFT, dtype="float64")
    found = resample_frame(
        frame, SHIFT, valid=ValidPixels(valid, valid.shape), dtype="u2", out=image
    )
    away = ndimage.binary_erosion(found.valid, iterations=8)
    assert away.any()
    assert np.abs(image[away] - whole.image[away]).max() <= 0.501


def cases() -> dict[tuple[str, str], Callable[[int], object]]:
    """Return what is timed: a method and a kind of frame, and the call for the i-th frame."""
    rng = np.random.default_rng(0)
    frames = [rng.poisson(60, SHAPE).astype(np.uint16) for _ in range(N_FRAMES)]
    out = {dtype: [np.zeros(SHAPE, dtype) for _ in range(4)] for dtype in ("uint16", "float32")}
    behind = ValidPixels(beam_block_valid(SHAPE) & (rng.random(SHAPE) > 1e-3), SHAPE)
    everywhere = ValidPixels(None, SHAPE)

    def ours(method: str, valid: ValidPixels, dtype: str) -> Callable[[int], object]:
        return lambda i: resample_frame(
            frames[i % N_FRAMES],
            SHIFT,
            valid=valid,
            interpolation=method,
            dtype=dtype,
            out=out[dtype][i % 4],
        )

    found: dict[tuple[str, str], Callable[[int], object]] = {
        (SCIPY, "all valid"): lambda i: ndimage.shift(frames[i % N_FRAMES], SHIFT, order=3)
    }
    for method in INTERPOLATIONS:
        found[method, "all valid"] = ours(method, everywhere, "uint16")
        found[method, "block and dead pixels"] = ours(method, behind, "uint16")
        found[method, "block and dead pixels, to float32"] = ours(method, behind, "float32")
    return found


def times_ms(rounds: int) -> dict[tuple[str, str], float]:
    """Return the mean over frames of the least time of each; all cases take turns."""
    calls = cases()
    best = {case: np.full(N_FRAMES, np.inf) for case in calls}
    for call in calls.values():
        call(0)
    for _ in range(rounds):
        for case, call in calls.items():
            for i in range(1 if case[0] == SCIPY else N_FRAMES):
                started = time.thread_time()
                call(i)
                best[case][i] = min(best[case][i], time.thread_time() - started)
    return {case: 1e3 * float(times[np.isfinite(times)].mean()) for case, times in best.items()}


def rows_of_times(rounds: int) -> list[Row]:
    """Return the rows of the table of times."""
    times = times_ms(rounds)
    scipy_ms = times.pop((SCIPY, "all valid"))
    rows = [Row((SCIPY, "all valid", f"{scipy_ms:.0f}", "1"))]
    for (method, kind), ms in times.items():
        judged = method == DEFAULT_INTERPOLATION and kind != "block and dead pixels, to float32"
        ratio = scipy_ms / ms
        rows.append(
            Row(
                (method, kind, f"{ms:.2f}", f"{ratio:.0f}"),
                f"{MUST:.0f}" if judged else "",
                ratio >= MUST if judged else None,
            )
        )
    return rows


def main() -> None:
    """Print the tables."""
    chosen = options(__doc__)
    check()
    lines = [header("resampling.py", chosen), ""]
    errors = [
        Row((method, *(f"{rms_error(method, width):.5f}" for width in WIDTHS_PX)))
        for method in (*INTERPOLATIONS, SCIPY)
    ]
    lines += table(("rms error, counts", *(f"rings {w:g} px" for w in WIDTHS_PX)), errors)
    rows = rows_of_times(3 if chosen.short else 10)
    lines += ["", *table(("method", "frames", "ms", "times faster"), rows)]
    finish(lines, rows, chosen)


if __name__ == "__main__":
    main()
