"""Shifts that alignment left, by another method than the one that aligned.

Each part of a run, such as a tenth, against the mean of the others, which shares no noise with it:
the peak of their cross-correlation, found in Fourier space. Nothing is taken over from the kernels
that register frames: other windows, other weights, another criterion.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from stillstack.errors import InputError
from stillstack.physics.windows import (
    AnyImage,
    Image,
    Valid,
    closed,
    common_area,
    high_passed,
    soft_window,
)

# What is much wider than this tells little of a shift, and reaches across the tiles' edges.
HIGH_PASS_PX: Final = 8.0
_TILES_A_SIDE: Final = 3
_REACH_PX: Final = 3
_LARGEST_STEP_PX: Final = 0.25
_NEWTON_STEPS: Final = 20
_DONE_PX: Final = 1e-6
# Of the tile around its window, so that what is moved comes from somewhere.
_MARGIN_PX: Final = 8
_LEAST_WINDOW: Final = 0.1
# What rests on one tile has no scatter to tell an uncertainty from.
_MOST_SHARE: Final = 0.95
_TINY: Final = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Tile:
    """Where a tile with its margin lies, its soft window, and the soft frame of its margin."""

    place: tuple[slice, slice]
    window: Image
    frame: Image


@dataclass(frozen=True, eq=False)
class ResidualShift:
    """What alignment left.

    Parameters
    ----------
    shift
        (part, 2) displacement (y, x) to apply to the part so that it lands on the others, px; NaN
        where it cannot be told.
    shift_std
        (part, 2) 1-sigma uncertainty, from how the tiles of the image differ, px.
    rms_px
        Root mean square of the shifts along one axis.
    noise_px
        What of it the uncertainties alone would give.
    """

    shift: NDArray[np.float64] = field(repr=False)
    shift_std: NDArray[np.float64] = field(repr=False)
    rms_px: float
    noise_px: float

    @property
    def excess_px(self) -> float:
        """Root mean square along one axis that noise does not explain, px."""
        return float(np.sqrt(max(self.rms_px**2 - self.noise_px**2, 0.0)))


def residual_shift(
    parts: AnyImage,
    valid: Valid | None = None,
    *,
    region: Valid | None = None,
    n_frames: ArrayLike | None = None,
) -> ResidualShift:
    """Shift of each part of a run against the mean of its other parts.

    Parameters
    ----------
    parts
        (part, y, x) means of aligned frames; NaN where nothing counted. At least two.
    valid
        Valid pixels (y, x), in addition to being finite in all parts.
    region
        Pixels to look at, such as those that registration was not shown; all, if None.
    n_frames
        (part,) number of frames of each part; equal, if None.

    Returns
    -------
    ResidualShift

    Raises
    ------
    InputError
        If there are fewer than two parts, or hardly any common pixel.

    Notes
    -----
    In each of 3 x 3 tiles, the cross-correlation under a soft window is divided by the root of the
    energy under it. Between pixels both are evaluated as trigonometric sums (M. Guizar-Sicairos, S.
    Thurman and J. Fienup, Opt. Lett. 33, 156 (2008), doi:10.1364/OL.33.000156), and the largest
    value is found by Newton's method. Tiles count by how sharp their peak is; what they differ by
    is the uncertainty. Shifts beyond 3 px are not found: they are NaN.

    Examples
    --------
    >>> y, x = np.mgrid[:90, :90]
    >>> spots = lambda dx: np.cos(0.4 * y) * np.cos(0.4 * (x + dx)) + 2
    >>> found = residual_shift(np.stack([spots(0.0), spots(0.2), spots(0.2)]))
    >>> (found.shift.round(1)[0] + 0.0).tolist()
    [0.0, -0.2]
    """
    images = np.asarray(parts, np.float64)
    if images.ndim != 3 or len(images) < 2:
        raise InputError(
            f"The parts have the shape {images.shape}.",
            consequence="Each is compared with the others: there have to be two or more.",
            cure="Give means (part, y, x) of several stretches of the run.",
        )
    allowed = valid if region is None else _both(valid, region, images.shape[1:])
    area = common_area(*images, valid=allowed)
    weight = np.ones(len(images)) if n_frames is None else np.asarray(n_frames, np.float64)
    if weight.shape != (len(images),) or not np.all(weight > 0):
        raise InputError(
            f"n_frames is {np.asarray(n_frames).tolist()} for {len(images)} parts.",
            cure="Give one positive number for each part; leave out empty ones.",
        )
    narrow = np.stack([high_passed(image, area, HIGH_PASS_PX) for image in images])
    total = np.einsum("k,kyx->yx", weight, narrow)
    tiles = _tiles(area)
    found = [
        _over_tiles(image, (total - w * image) / (weight.sum() - w), tiles)
        for image, w in zip(narrow, weight, strict=True)
    ]
    shift, std = (np.stack(values) for values in zip(*found, strict=True))
    known = np.isfinite(shift).all(axis=1)
    if not known.any():
        return ResidualShift(shift, std, float("nan"), float("nan"))
    return ResidualShift(
        shift,
        std,
        float(np.sqrt(np.mean(shift[known] ** 2))),
        float(np.sqrt(np.mean(std[known] ** 2))),
    )


def _both(valid: Valid | None, region: Valid, shape: tuple[int, ...]) -> Valid:
    chosen = np.asarray(region, bool)
    return chosen if valid is None or chosen.shape != shape else chosen & np.asarray(valid, bool)


def _tiles(area: Valid) -> list[Tile]:
    """Tiles that hold enough of the area, with a window inside each."""
    # A window stays so far from what is unknown that no shift brings it in.
    inside = ndimage.distance_transform_edt(np.pad(closed(area), 1))[1:-1, 1:-1] > _REACH_PX + 1
    rise = max(4.0, min(area.shape) / 24)
    edges = [np.linspace(0, length, _TILES_A_SIDE + 1).round().astype(int) for length in area.shape]
    tiles = []
    for rows in itertools.pairwise(edges[0].tolist()):
        for columns in itertools.pairwise(edges[1].tolist()):
            place = tuple(
                slice(max(first - _MARGIN_PX, 0), min(last + _MARGIN_PX, length))
                for (first, last), length in zip((rows, columns), area.shape, strict=True)
            )
            own = np.zeros(area.shape, bool)
            own[slice(*rows), slice(*columns)] = True
            window = soft_window((own & inside)[place], rise)
            if window.mean() > _LEAST_WINDOW:
                frame = soft_window(np.ones(window.shape, bool), _MARGIN_PX / 2)
                tiles.append(Tile((place[0], place[1]), window, frame))
    return tiles


def _over_tiles(
    part: Image, others: Image, tiles: list[Tile]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shift and its uncertainty, from tiles weighed by the sharpness of their peaks."""
    found = [_peak(part[tile.place], others[tile.place], tile) for tile in tiles]
    shifts = [peak for peak in found if peak is not None]
    if not shifts:
        return np.full(2, np.nan), np.full(2, np.nan)
    shift = np.stack([peak[0] for peak in shifts])
    weight = np.stack([peak[1] for peak in shifts])
    total = weight.sum(axis=0)
    mean = (weight * shift).sum(axis=0) / total
    # As if each tile were left out in turn: one that holds nearly all the weight agrees with the
    # mean because it is the mean.
    share = weight / total
    if len(shifts) < 2 or share.max() > _MOST_SHARE:
        return np.full(2, np.nan), np.full(2, np.nan)
    left_out = share / (1.0 - share) * (shift - mean)
    return mean, np.sqrt((left_out**2).sum(axis=0))


class _Sum:
    """``sum_x fixed(x) moving(x + s)`` as a trigonometric function of s, with its derivatives."""

    def __init__(self, fixed: Image, moving: Image) -> None:
        self.cross = fft.fft2(moving) * np.conj(fft.fft2(fixed))
        self.f_y, self.f_x = (2.0 * np.pi * fft.fftfreq(length) for length in fixed.shape)

    def at_whole_pixels(self) -> Image:
        """Values at displacements of -3 to 3 px along y and x, by the inverse transform."""
        values = np.real(fft.ifft2(self.cross)) * self.cross.size
        lags = np.arange(-_REACH_PX, _REACH_PX + 1)
        return np.asarray(values[np.ix_(lags, lags)])

    def at(self, s: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Value, slope (2,) and curvature (2, 2)."""
        wave = np.exp(1j * self.f_y * s[0])[:, None] * self.cross * np.exp(1j * self.f_x * s[1])
        real, imaginary = wave.real, wave.imag
        slope = -np.array([self.f_y @ imaginary.sum(axis=1), imaginary.sum(axis=0) @ self.f_x])
        mixed = -float(self.f_y @ real @ self.f_x)
        yy, xx = self.f_y**2 @ real.sum(axis=1), real.sum(axis=0) @ self.f_x**2
        return float(real.sum()), slope, np.array([[-yy, mixed], [mixed, -xx]])


def _peak(
    part: Image, others: Image, tile: Tile
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Shift at which the part is most like the others, and the peak's curvature along y and x.

    The likeness is C / sqrt(E), with C(s) = sum w(x) others(x) part(x + s) and the energy
    E(s) = sum w(x) part(x + s)^2: largest at the truth whatever the window, as C alone is not.
    """
    moving = part * tile.frame
    product, energy = _Sum(tile.window * others, moving), _Sum(tile.window, moving**2)
    values = product.at_whole_pixels() / np.sqrt(np.maximum(energy.at_whole_pixels(), _TINY))
    j, i = (int(k) for k in np.unravel_index(int(values.argmax()), values.shape))
    if {j, i} & {0, 2 * _REACH_PX} or not values.max() > 0:
        return None
    s, curvature = np.array([j, i], np.float64) - _REACH_PX, np.zeros((2, 2))
    for _ in range(_NEWTON_STEPS):
        (c, dc, ddc), (e, de, dde) = product.at(s), energy.at(s)
        if not (c > 0 and e > 0):
            return None
        slope = dc / c - 0.5 * de / e
        curvature = ddc / c - np.outer(dc, dc) / c**2 - 0.5 * (dde / e - np.outer(de, de) / e**2)
        if not np.all(np.linalg.eigvalsh(curvature) < 0):
            return None
        step = np.clip(np.linalg.solve(curvature, -slope), -_LARGEST_STEP_PX, _LARGEST_STEP_PX)
        s = s + step
        if np.abs(step).max() < _DONE_PX:
            break
    if np.abs(s).max() > _REACH_PX:
        return None
    # In units of the noise: a peak is as sharp as it is curved and high.
    return -s, -np.diag(curvature) * c**2 / e
