"""Error and time of the interpolation methods, as a Markdown table.

Errors: rms over sixteen shifts, in counts, on noise-free powder rings (mean 60 counts a pixel,
512x512) generated at the shifted place, away from the border. Times: the least of many runs, one
core, with and without a beam-block and one dead pixel in a thousand.

Run it with ``python tests/benchmarks/resampling.py``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stillstack.kernels.resampling import INTERPOLATIONS, resample_frame
from stillstack.simulation import beam_block_valid, powder_scene

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


def least_ms(call: Callable[[], object], seconds: float) -> float:
    """Return the shortest run in milliseconds."""
    call()
    end, least = time.perf_counter() + seconds, np.inf
    while time.perf_counter() < end or least == np.inf:
        # Of this thread alone: other programs on the machine count little.
        start = time.thread_time()
        call()
        least = min(least, time.thread_time() - start)
    return 1e3 * least


def times_ms(method: str, side: int, seconds: float) -> list[float]:
    """Return the times of a uint16 frame: all valid; behind a block, with dead pixels; float32."""
    rng, shift = np.random.default_rng(0), (3.3, -2.6)
    frame = rng.poisson(60, (side, side)).astype(np.uint16)
    if method == SCIPY:
        whole = frame.astype(np.float32)
        return [least_ms(lambda: ndimage.shift(whole, shift, order=3), seconds), np.nan, np.nan]
    valid = beam_block_valid((side, side)) & (rng.random((side, side)) > 1e-3)
    options: list[dict[str, Any]] = [
        {"dtype": np.uint16},
        {"dtype": np.uint16, "valid": valid},
        {"dtype": np.float32, "valid": valid},
    ]
    return [
        least_ms(lambda o=o: resample_frame(frame, shift, interpolation=method, **o), seconds)  # type: ignore[misc]
        for o in options
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2048, help="pixels a side of the timed frames")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each timing")
    chosen = parser.parse_args()
    errors = " | ".join(f"rms, rings {width:g} px" for width in WIDTHS_PX)
    print(f"| method | {errors} | ms | ms, block and dead | ms, the same to float32 |")
    print("|---" * (4 + len(WIDTHS_PX)) + "|")
    for method in (*INTERPOLATIONS, SCIPY):
        row = [f"{rms_error(method, width):.5f}" for width in WIDTHS_PX]
        row += [f"{ms:.2f}" for ms in times_ms(method, chosen.side, chosen.seconds)]
        print(f"| {method} | {' | '.join(row)} |".replace("nan", "-"))


if __name__ == "__main__":
    main()
