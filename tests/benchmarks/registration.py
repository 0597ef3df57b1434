"""Time of registering one frame, beside the peers: ``python tests/benchmarks/registration.py``.

CPU time of one thread on 2048x2048 uint16 frames with a beam-block, 60 counts a pixel, whose true
shifts are known. Answers are checked before anything is timed. ``--short`` takes one run of each
peer, ``--out FILE`` writes the table as Markdown.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from skimage.registration import phase_cross_correlation

from stillstack import prepare_reference, register_frame
from stillstack.simulation import beam_block, beam_block_valid, powder_scene

SIDE = 2048
MAX_SHIFT_PX = 64
SHIFT = np.array([3.37, -7.61])


def cpu_seconds(function: Callable[[], Any], runs: int) -> float:
    """Least CPU time of several runs, s."""
    best = np.inf
    for _ in range(runs):
        started = time.process_time()
        function()
        best = min(best, time.process_time() - started)
    return float(best)


def peers(
    image: Any, frame: Any, valid: Any, *, short: bool
) -> list[tuple[str, Callable[[], Any], int]]:
    """Name, call and number of runs of each peer that is installed."""
    runs = 1 if short else 2
    f4 = image.astype(np.float32), frame.astype(np.float32)
    masks = {"reference_mask": valid, "moving_mask": valid}
    found: list[tuple[str, Callable[[], Any], int]] = [
        (
            "scikit-image, masked, uint16",
            lambda: phase_cross_correlation(image.astype(np.uint16), frame, **masks)[0],
            runs,
        ),
        (
            "scikit-image, masked, float32",
            lambda: phase_cross_correlation(*f4, **masks)[0],
            runs,
        ),
    ]
    if importlib.util.find_spec("SimpleITK") is None:
        return found
    sitk: Any = importlib.import_module("SimpleITK")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    pictures = [sitk.GetImageFromArray(a) for a in (*f4, valid.astype("f4"), valid.astype("f4"))]

    def simple_itk() -> Any:
        ncc = sitk.GetArrayFromImage(sitk.MaskedFFTNormalizedCorrelation(*pictures, 0, 0.3))
        peak = np.unravel_index(ncc.argmax(), ncc.shape)
        return np.array(peak) - (np.array(valid.shape) - 1)

    return [*found, ("SimpleITK, masked, float32", simple_itk, 1)]


def main() -> None:
    """Check the answers, then time them, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    shape = (SIDE, SIDE)
    valid, through = beam_block_valid(shape), beam_block(shape)
    rng = np.random.default_rng(0)
    rows = []
    for width in (9.0, 3.0):
        scene = powder_scene(shape, dose=60.0, ring_width_px=width)
        image = rng.poisson(scene.expected() * through * 64) / 64
        frame = rng.poisson(scene.expected(SHIFT) * through).astype(np.uint16)
        reference = prepare_reference(image, valid, max_shift_px=MAX_SHIFT_PX, n_frames=64)
        some = valid & (rng.random(shape) > 0.01)
        for name, own in (("", None), (", 1 % of its pixels out", some)):
            found = register_frame(frame, reference, own)
            error = np.abs(found.shift - SHIFT)
            assert found.good, found
            assert np.all(error < 5.0 * found.shift_std), (error, found.shift_std)
            seconds = cpu_seconds(lambda r=reference, o=own: register_frame(frame, r, o), 15)  # type: ignore[misc]
            rows.append((f"stillstack, rings of {width:g} px{name}", seconds, error.max()))
        if width == 9.0:
            for name, call, runs in peers(image, frame, valid, short=options.short):
                answer = call()
                # SimpleITK answers with the displacement, of one sign or the other.
                error = min(np.abs(answer - SHIFT).max(), np.abs(answer + SHIFT).max())
                assert error < 1.0, (name, answer)
                rows.append((name, cpu_seconds(call, runs), error))
    best = rows[0][1]
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("stillstack", "scikit-image", "numpy", "scipy", "numba")
    )
    lines = [
        f"`python tests/benchmarks/registration.py{' --short' if options.short else ''}`, "
        f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, one thread, {platform.machine()}, "
        f"Python {platform.python_version()}, {versions}.",
        "",
        "| one frame of 2048x2048 | CPU time | over the first | error, px |",
        "|---|---|---|---|",
        *(
            f"| {name} | {1e3 * seconds:.1f} ms | {seconds / best:,.0f} | {error:.4f} |"
            for name, seconds, error in rows
        ),
    ]
    table = "\n".join(lines) + "\n"
    sys.stdout.write(table)
    if options.out:
        options.out.write_text(table)


if __name__ == "__main__":
    main()
