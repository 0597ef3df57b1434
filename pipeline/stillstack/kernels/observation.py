"""One frame made ready for the search: its valid pixels and its pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.kernels import pyramid
from stillstack.kernels.levels import Array
from stillstack.kernels.reference import Reference
from stillstack.kernels.validity import FrameValidity, value_validity
from stillstack.model import Status

# Which pixels near a saturated one stay under the limit depends on their noise: none is used.
SATURATION_GROWS_PX = 2


@dataclass(frozen=True, eq=False)
class Observation:
    """A frame's pyramid."""

    frame: NDArray[Any]
    validity: FrameValidity
    offset: float
    fine: NDArray[np.float32]
    usable: NDArray[np.float32]
    clipped: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    coarse: NDArray[np.float32]
    coarse_valid: NDArray[np.bool_]
    static_coarse: bool
    status: int


def observe(
    frame: NDArray[Any], reference: Reference, valid: NDArray[np.bool_] | None
) -> Observation | int:
    """Valid pixels and pyramid of a frame, or the status of one without any content."""
    frame, static = as_frame(frame, reference, valid)
    validity = value_validity(frame, static, reference.settings.rules, grow_px=SATURATION_GROWS_PX)
    status = (Status.SATURATED if validity.n_saturated else 0) | (
        Status.NON_FINITE if validity.n_non_finite else 0
    )
    least = reference.settings.min_overlap * np.count_nonzero(reference.valid)
    if np.count_nonzero(validity.valid) < max(least, 1):
        return int(status | Status.LOW_OVERLAP)
    values = frame[validity.valid] if not validity.is_static else frame
    if values.min() == values.max() or _is_blank(frame, validity.valid):
        return int(status | Status.BLANK)
    level = reference.levels[-1]
    is_static = validity.is_static and valid is None
    offset = pyramid.rough_mean(frame, validity.valid)
    fine, count = pyramid.bin_frame(
        frame,
        validity.valid,
        level.factor,
        offset,
        count=level.frame_count if is_static else None,
    )
    clipped = np.minimum(fine, np.float32(_ceiling(fine, count, offset, reference)))
    levels, mean, number = [], clipped, count
    for coarser in reversed(reference.levels):
        if coarser.factor > level.factor:
            mean, number = pyramid.halve(mean, number)
            whole = number >= 0.5 * coarser.factor**2
        else:
            whole = number == coarser.factor**2
        levels.append((mean, whole.astype(np.float32)))
    enough = number >= 0.5 * reference.levels[0].factor ** 2
    if not enough.any():
        return int(status | Status.LOW_OVERLAP)
    centred = np.where(enough, mean - mean[enough].mean(dtype=np.float64), 0.0)
    return Observation(
        frame,
        validity,
        offset,
        fine,
        levels[0][1],
        tuple(reversed(levels)),
        centred.astype(np.float32),
        enough,
        is_static,
        int(status),
    )


def as_frame(
    frame: NDArray[Any], reference: Reference, valid: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Frame as a native array of numbers that kernels know, and its statically valid pixels.

    Raises
    ------
    InputError
        If shapes disagree or the frame holds no real numbers.
    """
    frame = np.asarray(frame)
    if frame.dtype.kind not in "buif":
        raise InputError(
            f"A frame has the dtype {frame.dtype}.", cure="Frames hold real numbers: counts."
        )
    static = reference.frame_valid
    for name, array in (
        ("A frame", frame),
        ("`valid`", np.asarray(static if valid is None else valid)),
    ):
        if array.shape != reference.image.shape:
            raise InputError(
                f"{name} has shape {array.shape}, the reference {reference.image.shape}.",
                cure="Frames, valid pixels and reference must have one shape (y, x).",
            )
    if frame.dtype == bool:
        frame = frame.view(np.uint8)
    elif frame.dtype.kind == "f" and frame.dtype.itemsize not in (4, 8):
        frame = frame.astype(np.float64)
    elif not frame.dtype.isnative:
        frame = frame.astype(frame.dtype.newbyteorder("="))
    frame = np.ascontiguousarray(frame)
    return frame, static if valid is None else static & np.asarray(valid).astype(bool)


def _is_blank(frame: NDArray[Any], valid: NDArray[np.bool_]) -> bool:
    """Whether all valid pixels hold one value. Most frames are told apart by a few pixels."""
    step = max(1, frame.shape[0] // 16)
    few = frame[::step][valid[::step]]
    if few.size and few.min() != few.max():
        return False
    values = frame[valid]
    return bool(values.min() == values.max())


def _ceiling(
    fine: NDArray[np.float32], count: NDArray[np.int32], offset: float, reference: Reference
) -> float:
    """Value, less the offset, that no bin of the scene reaches: struck bins are cut down to it."""
    sample = fine[::4, ::4][count[::4, ::4] > 0]
    own = float(np.median(sample)) + offset if sample.size else offset
    scale = max(own / reference.offset, 1.0) if reference.offset > 0.0 and own > 0.0 else 1.0
    gain, read_noise = reference.settings.noise
    highest = 1.5 * scale * max(reference.ceiling, 0.0)
    bin_pixels = reference.levels[-1].factor ** 2
    noise = np.sqrt((gain * (highest + max(own, 0.0)) + read_noise**2) / bin_pixels)
    return max(highest, own) + 10.0 * float(noise) - offset


def struck_pixels(
    marks: NDArray[np.bool_], seen: Observation, reference: Reference
) -> NDArray[np.int64]:
    """Raw pixels that make a bin stand out.

    Each is far above the other pixels of its bin, and by a factor that no sharp feature gives.
    """
    factor = reference.levels[-1].factor
    gain, read_noise = reference.settings.noise
    by, bx = np.nonzero(marks)
    y0, x0 = by * factor, bx * factor
    oy, ox = np.divmod(np.arange(factor**2), factor)
    y, x = y0[:, None] + oy, x0[:, None] + ox
    values = seen.frame[y, x].astype(np.float64)
    usable = seen.validity.valid[y, x]
    if factor == 1:
        ordinary = _around(seen, y0, x0)[:, None]
    else:
        ordinary = _median(np.where(usable, values, np.nan))[:, None]
    expected = np.maximum(ordinary, 0.0)
    sigma = np.sqrt(gain * expected + read_noise**2)
    excess = values - ordinary
    hit = (
        (excess > 8.0 * sigma + 10.0 * gain) & (excess > 1.5 * expected) & seen.validity.valid[y, x]
    )
    return np.ravel_multi_index((y[hit], x[hit]), seen.frame.shape).astype(np.int64)


def _around(seen: Observation, y: NDArray[np.intp], x: NDArray[np.intp]) -> Array:
    """Median of the valid ones of the eight pixels around each of some pixels."""
    n_y, n_x = seen.frame.shape
    neighbours = []
    for j, i in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        at = (np.clip(y + j, 0, n_y - 1), np.clip(x + i, 0, n_x - 1))
        neighbours.append(
            np.where(seen.validity.valid[at], seen.frame[at].astype(np.float64), np.nan)
        )
    return _median(np.stack(neighbours, axis=1))


def _median(values: Array) -> Array:
    """Lower median of each row, NaN left out; NaN where a row holds nothing else."""
    number = np.count_nonzero(np.isfinite(values), axis=1)
    middle = np.maximum(number - 1, 0) // 2
    return np.asarray(np.take_along_axis(np.sort(values, axis=1), middle[:, None], axis=1)[:, 0])
