"""Trials: the scene moved by a known shift, given fresh noise, and registered like any frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.assess.moving import MovingScene
from stillstack.assess.thinning import Noise
from stillstack.kernels.registration import Reference, register_frame
from stillstack.simulation.scene import generator

TRIAL_DTYPE: Final = np.dtype(
    [("truth", "f8", (2,)), ("shift", "f8", (2,)), ("shift_std", "f8", (2,)), ("status", "u2")]
)

# Trials get streams of random numbers that no frame has: frames use their own number.
_STREAM: Final = 2**62


@dataclass(frozen=True, eq=False)
class Bench:
    """What all trials have in common.

    Parameters
    ----------
    scene
        What moves, in counts of a frame at the data's own dose.
    valid
        (y, x) static valid pixels of the frames: they stay where they are.
    behind
        (y, x) what is seen where they are not valid, counts: it stands still too.
    shifts
        (n, 2) shifts of the user's own frames, px: trials are as far away as they are.
    noise
        Counts per event, and read noise.
    dtype
        Of the frames.
    seed
        Of the trials.
    """

    scene: MovingScene
    valid: NDArray[np.bool_]
    behind: NDArray[np.float32]
    shifts: NDArray[np.float64]
    noise: Noise
    dtype: np.dtype[Any]
    seed: int


def run_trials(
    bench: Bench, reference: Reference, factor: float, rung: int, numbers: range
) -> NDArray[np.void]:
    """Rows of trials, dtype ``TRIAL_DTYPE``: where each frame was, and where it was found.

    Parameters
    ----------
    bench
        What all trials have in common.
    reference
        What they are registered to.
    factor
        Dose in units of the data's own.
    rung
        Number of the dose: each has noise of its own, and all have the same shifts.
    numbers
        Which trials. A trial is the same whoever does it, and with whichever others.
    """
    rows = np.empty(len(numbers), TRIAL_DTYPE)
    for row, number in zip(rows, numbers, strict=True):
        truth = _shift(bench, number)
        rng = generator(bench.seed, _STREAM + (rung + 1) * 2**32 + number)
        found = register_frame(draw_frame(bench, truth, factor, rng), reference)
        row["truth"] = truth
        row["shift"] = found.shift
        row["shift_std"] = found.shift_std
        row["status"] = found.status
    return rows


def _shift(bench: Bench, number: int) -> NDArray[np.float64]:
    """Shift of one of the user's frames, moved on by up to half a pixel either way."""
    rng = generator(bench.seed, _STREAM + number)
    nearby = bench.shifts[rng.integers(len(bench.shifts))]
    return np.asarray(nearby + rng.uniform(-0.5, 0.5, 2), np.float64)


def draw_frame(
    bench: Bench, shift: NDArray[np.float64], factor: float, rng: np.random.Generator
) -> NDArray[Any]:
    """Frame whose registering shift is ``shift``, with fresh noise, as the detector would give it.

    Parameters
    ----------
    bench
        What is seen.
    shift
        (y, x), px.
    factor
        Dose in units of the data's own.
    rng
        Of the noise.
    """
    gain, read_noise = bench.noise
    expected = np.where(bench.valid, bench.scene.expected(shift), bench.behind)
    counts = rng.poisson(expected * (factor / gain)) * gain
    if read_noise > 0.0:
        counts = counts + rng.normal(0.0, read_noise, counts.shape)
    if not np.issubdtype(bench.dtype, np.integer):
        return np.asarray(counts, bench.dtype)
    limits = np.iinfo(bench.dtype)
    return np.asarray(np.clip(np.rint(counts), limits.min, limits.max), bench.dtype)
