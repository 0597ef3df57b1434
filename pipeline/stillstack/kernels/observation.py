"""One frame made ready for the search: its valid pixels and its pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.kernels import pyramid
from stillstack.kernels.binning import Bins, bin_frame
from stillstack.kernels.levels import Array, Flags, Float32
from stillstack.kernels.moments import LevelView
from stillstack.kernels.reference import Reference
from stillstack.kernels.validity import value_validity
from stillstack.model import Status

# Which pixels near a saturated one stay under the limit depends on their noise: none is used.
SATURATION_GROWS_PX = 2


@dataclass(frozen=True, eq=False)
class Observation:
    """A frame as registration looks at it.

    Parameters
    ----------
    frame
        Contiguous, native.
    own_valid, static_valid
        A pixel is valid where both are set.
    pedestal
        Whole counts that its bins are less.
    fine
        Bins of the finest level, whatever their brightness.
    brighter
        Whether some of them are brighter than anything of the scene: struck.
    levels
        From coarse to fine; in these, bins that are too bright are cut down.
    status
        Bits that are known already.
    """

    frame: NDArray[Any]
    own_valid: NDArray[np.bool_]
    static_valid: NDArray[np.bool_]
    pedestal: float
    fine: Float32
    brighter: bool
    levels: tuple[LevelView, ...]
    status: int

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Valid pixels."""
        return self.own_valid & self.static_valid


def observe(
    frame: NDArray[Any], reference: Reference, valid: NDArray[np.bool_] | None
) -> Observation | int:
    """Valid pixels and pyramid of a frame, or the status of one without any content."""
    frame, own = as_frame(frame, reference, valid)
    level = reference.levels[-1]
    rules, counted = reference.settings.rules, own
    if rules.equal:
        counted = value_validity(frame, reference.frame_valid & own, rules).valid
    limits = rules.limits(frame.dtype)
    own_level = pyramid.typical_level(frame, reference.frame_valid, counted, limits)
    pedestal = float(np.floor(own_level))
    bins, own, status = _binned(frame, own, pedestal, reference)
    fine, usable = bins.mean, bins.usable
    least = reference.settings.min_overlap * reference.n_valid
    if (reference.n_usable - bins.lost.size) * level.factor**2 < max(least, 1):
        return int(status | Status.LOW_OVERLAP)
    if pyramid.is_flat(fine, usable) and _is_blank(frame, reference.frame_valid & own):
        return int(status | Status.BLANK)
    ceiling = _ceiling(own_level, reference) - pedestal
    brighter = bool(pyramid.exceeds(fine, ceiling))
    mean = np.minimum(fine, np.float32(ceiling)) if brighter else fine
    levels = _levels(mean, usable, bins.lost, reference)
    if not levels[0].usable.any():
        return int(status | Status.LOW_OVERLAP)
    return Observation(
        frame, own, reference.frame_valid, pedestal, fine, brighter, levels, int(status)
    )


def _binned(
    frame: NDArray[Any], valid: NDArray[np.bool_], pedestal: float, reference: Reference
) -> tuple[Bins, NDArray[np.bool_], int]:
    """Bins of the finest level, valid pixels, status.

    Whatever the common case needs is found in one pass; only a frame with values out of limits
    is looked at again, pixel by pixel.
    """
    rules, static = reference.settings.rules, reference.frame_valid
    own = None if valid is static else valid
    bins = bin_frame(frame, reference.static_bins, own, pedestal)
    if not rules.equal and _in_order(frame, valid, bins, reference):
        return bins, valid, 0
    found = value_validity(frame, static & valid, rules, grow_px=SATURATION_GROWS_PX)
    status = (Status.SATURATED if found.n_saturated else 0) | (
        Status.NON_FINITE if found.n_non_finite else 0
    )
    bins = bin_frame(frame, reference.static_bins, found.valid, pedestal)
    return bins, found.valid, int(status)


def _in_order(
    frame: NDArray[Any], valid: NDArray[np.bool_], bins: Bins, reference: Reference
) -> bool:
    """Whether the values of all pixels that count are within limits."""
    static, limits = reference.frame_valid, reference.settings.rules.limits(frame.dtype)
    if bins.highest is not None and limits[0] <= 0.0:
        (high,) = np.nonzero(bins.highest > limits[1])
        if not high.size:
            return True
        if 2 * high.size < bins.highest.size:
            # One hot pixel that does not count is no reason to look at the whole frame.
            factor = reference.levels[-1].factor
            rows = (high[:, None] * factor + np.arange(factor)).ravel()
            frame, static, valid = frame[rows], static[rows], valid[rows]
    return not pyramid.n_outside(frame, static, valid, limits)


def _levels(
    mean: Float32, usable: Flags, lost: NDArray[np.int64], reference: Reference
) -> tuple[LevelView, ...]:
    """The frame at each level of the reference, from coarse to fine."""
    found = [LevelView(mean, usable, lost)]
    total = mean
    for halvings, level in enumerate(reference.levels[-2::-1], 1):
        total, scaled = pyramid.halve(total, level.inverse)
        counts, gone = level.usable, lost[:0]
        if lost.size:
            gone = pyramid.scale_again(total, scaled, usable, counts, lost, halvings)
        if gone.size:
            counts = counts.copy()
            counts.ravel()[gone] = 0
        found.append(LevelView(scaled, counts, gone))
    return tuple(reversed(found))


def as_frame(
    frame: NDArray[Any], reference: Reference, valid: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Frame as a native array of numbers that kernels know, and the valid pixels it came with.

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
    if valid is None:
        return frame, static
    return frame, np.ascontiguousarray(np.asarray(valid).astype(bool, copy=False))


def _is_blank(frame: NDArray[Any], valid: NDArray[np.bool_]) -> bool:
    """Whether all valid pixels hold one value."""
    values = frame[valid]
    return not values.size or bool(values.min() == values.max())


def _ceiling(own: float, reference: Reference) -> float:
    """Value that no bin of the scene reaches, counts: struck bins are cut down to it."""
    scale = max(own / reference.offset, 1.0) if reference.offset > 0.0 and own > 0.0 else 1.0
    gain, read_noise = reference.settings.noise
    highest = 1.5 * scale * max(reference.ceiling, 0.0)
    bin_pixels = reference.levels[-1].factor ** 2
    noise = np.sqrt((gain * (highest + max(own, 0.0)) + read_noise**2) / bin_pixels)
    return max(highest, own) + 10.0 * float(noise)


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
    usable = seen.valid[y, x]
    if factor == 1:
        ordinary = _around(seen, y0, x0)[:, None]
    else:
        ordinary = _median(np.where(usable, values, np.nan))[:, None]
    expected = np.maximum(ordinary, 0.0)
    sigma = np.sqrt(gain * expected + read_noise**2)
    excess = values - ordinary
    hit = (excess > 8.0 * sigma + 10.0 * gain) & (excess > 1.5 * expected) & seen.valid[y, x]
    return np.ravel_multi_index((y[hit], x[hit]), seen.frame.shape).astype(np.int64)


def _around(seen: Observation, y: NDArray[np.intp], x: NDArray[np.intp]) -> Array:
    """Median of the valid ones of the eight pixels around each of some pixels."""
    n_y, n_x = seen.frame.shape
    neighbours = []
    for j, i in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        at = (np.clip(y + j, 0, n_y - 1), np.clip(x + i, 0, n_x - 1))
        neighbours.append(np.where(seen.valid[at], seen.frame[at].astype(np.float64), np.nan))
    return _median(np.stack(neighbours, axis=1))


def _median(values: Array) -> Array:
    """Lower median of each row, NaN left out; NaN where a row holds nothing else."""
    number = np.count_nonzero(np.isfinite(values), axis=1)
    middle = np.maximum(number - 1, 0) // 2
    return np.asarray(np.take_along_axis(np.sort(values, axis=1), middle[:, None], axis=1)[:, 0])
