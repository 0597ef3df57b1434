"""Everything about a reference that does not depend on a frame: made once, used for every frame."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels import pyramid, smoothing
from stillstack.kernels.between import Between, between_wide
from stillstack.kernels.columns import lost_bins, usable_bins
from stillstack.kernels.denoising import Denoised, denoise, is_narrow, pedestal_of, products
from stillstack.kernels.given import GivenReference, given_reference
from stillstack.kernels.levels import (
    Array,
    Level,
    bin_banks,
    bin_moved,
    bin_weights,
    whitened,
)
from stillstack.kernels.moments import LevelView
from stillstack.kernels.prediction import predicted
from stillstack.kernels.reference import Reference, Settings
from stillstack.kernels.refinement import fit_linear
from stillstack.kernels.search import Search, prepare_search
from stillstack.kernels.validity import grown

SEARCH_PX = 256
MIN_SEARCH_PX = 32
# Interpolating the reference takes three pixels on either side of a fraction of one.
TAPS_PX = 4
# A coarser level serves for the search if it keeps this part of what tells where the scene is.
PLACING_KEPT = 0.5
# The coarsest level whose predicted standard deviation is within 2.5 % of full resolution.
INFORMATION_KEPT = 0.95
_NOTHING = np.zeros((1, 1, 0, 0), np.float32)
_NOWHERE = np.zeros((1, 1, 0, 0), np.uint8)
# Above this part of noise in the squared gradients, what is believed about it matters.
NOISE_PART = 0.05


def prepare_reference(
    image: NDArray[Any],
    valid: NDArray[np.bool_] | None = None,
    *,
    frame_valid: NDArray[np.bool_] | None = None,
    max_shift_px: int = 32,
    n_frames: float = 1.0,
    gain: float = 1.0,
    read_noise: float = 0.0,
    min_overlap: float = 0.3,
    min_ncc: float | None = None,
    max_peak_ratio: float = 0.95,
    below: float | None = None,
    above: float | None = None,
    equal: tuple[float, ...] = (),
    allow_small: bool = False,
) -> Reference:
    """A reference made ready, so that each frame costs little.

    Parameters
    ----------
    image
        Reference image (y, x), any real dtype, counts. Non-finite pixels, those that hold the
        largest value of an integer type, and single pixels that stand far above all their
        neighbours, are taken as invalid.
    valid
        Its valid pixels, **True where a pixel counts**. As ``frame_valid``, if None; all, if both
        are None.
    frame_valid
        Pixels valid in every frame. As ``valid``, if None.
    max_shift_px
        Largest shift along each axis, px.
    n_frames
        Number of frames that the image is the mean of: its noise is that much smaller.
    gain, read_noise
        Noise of a frame's pixel: variance = gain x counts + read_noise^2, in counts.
    min_overlap
        Smallest fraction of the reference's valid pixels that an answer may use.
    min_ncc
        Frames that correlate less are rejected. If None, frames are rejected whose correlation
        could be chance, or explains less than half of what is not noise.
    max_peak_ratio
        Frames whose second correlation peak is higher than this fraction of the first are
        rejected as ambiguous.
    below, above, equal
        Values that make a pixel of a frame invalid. Without ``above``, an integer frame's pixel
        at the type's largest value is saturated.
    allow_small
        Accept valid pixels that are under a tenth of the image.

    Returns
    -------
    Reference

    Raises
    ------
    InputError
        If the shapes disagree, nothing or under a tenth is valid, the image is blank, or
        ``max_shift_px`` does not fit the frame.

    References
    ----------
    D. Padfield, IEEE Trans. Image Process. 21(5), 2706 (2012), doi:10.1109/TIP.2011.2181402.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64]
    >>> spot = 100 * np.exp(-((y - 32) ** 2 + (x - 32) ** 2) / 100) + 5
    >>> image = np.random.default_rng(0).poisson(spot)
    >>> reference = prepare_reference(image, max_shift_px=8)
    >>> reference.image.shape
    (64, 64)
    """
    given = given_reference(
        image,
        valid,
        frame_valid=frame_valid,
        max_shift_px=max_shift_px,
        n_frames=n_frames,
        gain=gain,
        read_noise=read_noise,
        min_overlap=min_overlap,
        min_ncc=min_ncc,
        max_peak_ratio=max_peak_ratio,
        below=below,
        above=above,
        equal=equal,
        allow_small=allow_small,
    )
    return _prepared(given)


def _prepared(given: GivenReference) -> Reference:
    image, valid, settings = given.image, given.valid, given.settings
    frame_valid = given.frame_valid
    offset = float(image[valid].mean(dtype=np.float64))
    filled = smoothing.fill_invalid(np.where(valid, image.astype(np.float64) - offset, 0.0), valid)
    pedestal = pedestal_of(filled, valid, offset, settings)
    denoised = denoise(filled, valid, offset - pedestal, settings)
    coarsest = _search_factor(denoised, valid, frame_valid, settings.max_shift_px)
    factor = _refinement_factor(denoised, frame_valid, coarsest)
    gaps = _between(filled, denoised, factor)
    points = 1 if gaps is None else gaps.equations.shape[2]
    levels = _levels(denoised, frame_valid, (factor, coarsest), points)
    search, ceiling = _coarse(filled, valid, levels[0].usable, coarsest, factor, settings)
    return Reference(
        image=image,
        valid=valid,
        frame_valid=frame_valid,
        settings=settings,
        digest=given.digest,
        reference_std=np.sqrt(np.diag(denoised.covariance) / settings.n_frames),
        smoothing_px=denoised.sigma,
        offset=offset,
        pedestal=pedestal,
        ceiling=ceiling + offset,
        search=search,
        levels=levels,
        slope=denoised.slope,
        unslope=np.asarray(np.linalg.inv(denoised.slope), np.float64),
        cubic=denoised.cubic,
        between=gaps,
        n_valid=int(np.count_nonzero(valid)),
        n_usable=int(np.count_nonzero(levels[-1].usable)),
    )


def _between(filled: Array, denoised: Denoised, factor: int) -> Between | None:
    """How the normal equations are interpolated between whole pixels, where they have to be."""
    if is_narrow(denoised):
        return predicted(filled, denoised, factor)
    return between_wide() if denoised.noise_part > NOISE_PART else None


def _search_factor(
    denoised: Denoised,
    valid: NDArray[np.bool_],
    frame_valid: NDArray[np.bool_],
    max_shift_px: int,
) -> int:
    """The coarsest level that still places the scene as one of about 256 px does.

    A lattice is told from itself one period on by its fine features alone, hence the gradients.
    """
    factor = 1
    while max(valid.shape) / factor > SEARCH_PX * 1.25:
        factor *= 2
    best, first = factor, _information(denoised, frame_valid, factor)
    while min(valid.shape) // (2 * best) >= MIN_SEARCH_PX:
        # Its bins must be small in the window: what lies beyond is not looked at.
        if 4 * 2 * best > max_shift_px:
            break
        if _information(denoised, frame_valid, 2 * best) < PLACING_KEPT * first:
            break
        best *= 2
    return best


def _refinement_factor(denoised: Denoised, frame_valid: NDArray[np.bool_], coarsest: int) -> int:
    """The coarsest level that keeps the Fisher information about the displacement."""
    best, full = 1, _information(denoised, frame_valid, 1)
    while best < coarsest:
        if _information(denoised, frame_valid, 2 * best) < INFORMATION_KEPT * full:
            break
        best *= 2
    return best


def _information(denoised: Denoised, frame_valid: NDArray[np.bool_], factor: int) -> float:
    """Fisher information about the displacement, along the axis that has less."""
    gradient = denoised.images[1:]
    images, whole = bin_banks([denoised.variance, *gradient], denoised.solid, factor, 1)
    counted = usable_bins(frame_valid, factor) > 0
    w = bin_weights(images[0, 0, 0], whole[0, 0] & counted, factor)
    binned = (images[1, 0, 0], images[2, 0, 0])
    return float(np.linalg.eigvalsh(products(binned, binned, w))[0])


def _levels(
    denoised: Denoised, frame_valid: NDArray[np.bool_], factors: tuple[int, int], points: int
) -> tuple[Level, ...]:
    factor, coarsest = factors
    usable = usable_bins(frame_valid, factor)
    coarser_factors = []
    while coarsest > factor:
        coarser_factors.append(coarsest)
        coarsest //= 2
    inverses = pyramid.inverse_counts(usable, len(coarser_factors))[::-1]
    levels = []
    for coarser, inverse in zip(coarser_factors, inverses, strict=True):
        images, whole = bin_banks(
            [denoised.images[0], denoised.variance], denoised.solid, coarser, 1
        )
        image = images[0, 0, 0]
        # A step of half a bin sees the mean slope between neighbours, not the slope at a point.
        stacked = np.stack([image, *np.gradient(image, float(coarser))])[:, None, None]
        w = bin_weights(images[1], whole, coarser)
        counts = (inverse > 0.0).astype(np.uint8)
        regressors = whitened(stacked.astype(np.float32), w)
        level = Level(coarser, regressors, counts, inverse, np.ones(2), _NOTHING, _NOWHERE)
        levels.append(replace(level, scale=_scale_of(level, denoised)))
    # Regressors a little beyond the support enter where it is interpolated between whole pixels.
    around = grown(denoised.solid, points // 2)
    images, whole = bin_banks([*denoised.images, denoised.variance], around, factor, factor)
    within = np.zeros_like(denoised.solid)
    away = (slice(TAPS_PX, -TAPS_PX),) * 2
    within[away] = denoised.solid[away]
    inner = bin_banks([], within, factor, factor)[1].view(np.uint8)
    plain = images[0].copy() if points > 1 else _NOTHING
    regressors = whitened(images[:-1], bin_weights(images[-1], whole, factor))
    inverse = usable.astype(np.float32)
    levels.append(Level(factor, regressors, usable, inverse, np.ones(2), plain, inner))
    return tuple(levels)


def _scale_of(level: Level, denoised: Denoised) -> Array:
    """Displacement over step of a coarse level, seen on the reference itself half a bin away."""
    half = level.factor // 2
    scale = np.ones(2)
    for axis, by in enumerate(((half, 0), (0, half))):
        mean, whole = bin_moved(denoised.images[0], denoised.solid, level.factor, by)
        usable = (whole & (level.usable > 0)).astype(np.uint8)
        view = LevelView(mean * usable, usable, lost_bins(level.usable, usable))
        fit = fit_linear(level, (0, 0), view)
        if fit is not None and abs(fit.step[axis]) > 0.25 * half:
            scale[axis] = half / abs(fit.step[axis])
    return scale


def _coarse(
    filled: Array,
    valid: NDArray[np.bool_],
    usable: NDArray[np.uint8],
    factor: int,
    fine: int,
    settings: Settings,
) -> tuple[Search, float]:
    enough = _share_of_bins(valid, factor) >= 0.5
    images, _ = bin_banks([filled], valid, factor, 1)
    image = images[0, 0, 0]
    mean = float(image[enough].mean()) if enough.any() else 0.0
    image = np.where(enough, image - mean, 0.0).astype(np.float32)
    radius = -(-settings.max_shift_px // factor) + 1
    radius = min(radius, min(image.shape) - 1)
    search = prepare_search(image, enough, usable > 0, radius, settings.min_overlap)
    fine_images, _ = bin_banks([filled], valid, fine, 1)
    return search, float(fine_images.max())


def _share_of_bins(valid: NDArray[np.bool_], factor: int) -> NDArray[np.float32]:
    """Part of each bin's pixels that is valid."""
    share, _ = bin_banks([valid.astype(np.float64)], valid, factor, 1)
    return np.asarray(share[0, 0, 0], np.float32)
