"""Everything about a reference that does not depend on a frame: made once, used for every frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.kernels import smoothing
from stillstack.kernels.correlation import Search, prepare_search
from stillstack.kernels.denoising import Denoised, denoise, is_narrow, pedestal_of, products
from stillstack.kernels.levels import Array, Level, bin_banks, bin_weights
from stillstack.kernels.pyramid import count_valid
from stillstack.kernels.reference import Reference, Settings, digest_of
from stillstack.kernels.validity import ValueRules

SEARCH_PX = 256
# The coarsest level whose predicted standard deviation is within 2.5 % of full resolution.
INFORMATION_KEPT = 0.95
TAPS_PX = 4
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
        Reference image (y, x), any real dtype, counts. Non-finite pixels, and single pixels that
        stand far above all their neighbours, are taken as invalid.
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
    >>> rng = np.random.default_rng(0)
    >>> reference = prepare_reference(rng.poisson(50.0, (64, 64)), max_shift_px=8)
    >>> reference.image.shape
    (64, 64)
    """
    settings = Settings(
        int(max_shift_px),
        float(n_frames),
        float(gain),
        float(read_noise),
        float(min_overlap),
        min_ncc,
        float(max_peak_ratio),
        ValueRules(below, above, tuple(equal)),
    )
    image, valid, frame_valid = _checked(image, valid, frame_valid, settings, allow_small)
    valid = valid & ~_lone_pixels(image, valid, settings)
    valid.flags.writeable = False
    offset = float(image[valid].mean(dtype=np.float64))
    filled = smoothing.fill_invalid(np.where(valid, image.astype(np.float64) - offset, 0.0), valid)
    pedestal = pedestal_of(filled, valid, offset, settings)
    denoised = denoise(filled, valid, offset - pedestal, settings)
    coarsest = _coarsest_factor(image.shape)
    factor = _refinement_factor(denoised, frame_valid, coarsest)
    levels = _levels(denoised, frame_valid, factor, coarsest)
    search, ceiling = _coarse(filled, valid, frame_valid, coarsest, factor, settings)
    return Reference(
        image=image,
        valid=valid,
        frame_valid=frame_valid,
        settings=settings,
        digest=digest_of(image, valid, frame_valid, settings),
        reference_std=np.sqrt(np.diag(denoised.covariance) / settings.n_frames),
        smoothing_px=denoised.sigma,
        offset=offset,
        pedestal=pedestal,
        ceiling=ceiling + offset,
        search=search,
        levels=levels,
        slope=denoised.slope,
        cubic=denoised.cubic,
        narrow=is_narrow(denoised),
        noisy=denoised.noise_part > NOISE_PART,
    )


def _checked(
    image: NDArray[Any],
    valid: NDArray[np.bool_] | None,
    frame_valid: NDArray[np.bool_] | None,
    settings: Settings,
    allow_small: bool,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    image = np.asarray(image)
    if image.ndim != 2:
        raise InputError(
            f"The reference image has shape {image.shape}.",
            consequence="Frames are registered to one two-dimensional image (y, x).",
            cure="Choose one frame, or the mean of several.",
        )
    if np.iscomplexobj(image):
        raise InputError("The reference image is complex.", cure="Take its modulus or real part.")
    given, static = (
        None if v is None else np.asarray(v).astype(bool) for v in (valid, frame_valid)
    )
    if given is None:
        given = np.ones(image.shape, bool) if static is None else static
    static = given if static is None else static
    for name, array in (("valid", given), ("frame_valid", static)):
        if array.shape != image.shape:
            raise InputError(
                f"`{name}` has shape {array.shape}, the reference image {image.shape}.",
                cure="Give arrays of equal shape.",
            )
    if not 0 < settings.max_shift_px < min(image.shape):
        raise InputError(
            f"max_shift_px is {settings.max_shift_px}, the frame {image.shape[0]} x "
            f"{image.shape[1]} px.",
            consequence="No pixel of a frame shifted so far would overlap the reference.",
            cure="Choose max_shift_px between 1 and well under the smaller side of the frame.",
        )
    given = given & np.isfinite(image)
    for name, array in (("valid", given), ("frame_valid", static)):
        if not array.any():
            raise InputError(
                f"`{name}` leaves no valid pixel of {image.size}.",
                consequence="There is nothing to register.",
                cure="True means that a pixel counts; was the array inverted?",
            )
        if np.count_nonzero(array) < 0.1 * image.size and not allow_small:
            raise InputError(
                f"`{name}` leaves {100 * array.mean():.2g} % of the {image.size} pixels.",
                consequence="An inverted array fails silently as shifts that mean nothing.",
                cure="True means that a pixel counts; if so few are meant, pass allow_small=True.",
            )
    values = image[given]
    if values.min() == values.max():
        raise InputError(
            f"The reference is blank: all its {values.size} valid pixels hold {values[0]}.",
            consequence="No frame can be registered to it.",
            cure="Choose another frame, or the mean of several.",
        )
    single = np.where(given, image, 0).astype(np.float32)
    for array in (single, given, static):
        array.flags.writeable = False
    return single, given, static


def _lone_pixels(
    image: NDArray[np.float32], valid: NDArray[np.bool_], settings: Settings
) -> NDArray[np.bool_]:
    """Pixels far above all their valid neighbours: hot, or struck; no optics draws such a spot."""
    padded = np.pad(np.where(valid, image, -np.inf), 1, constant_values=-np.inf)
    n_y, n_x = image.shape
    highest = np.full(image.shape, -np.inf)
    for j in range(3):
        for i in range(3):
            if (j, i) != (1, 1):
                np.maximum(highest, padded[j : j + n_y, i : i + n_x], out=highest)
    base = float(np.median(image[valid]))
    around = np.where(np.isfinite(highest), highest, base)
    variance = (settings.gain * np.maximum(around, 0.0) + settings.read_noise**2) / max(
        settings.n_frames, 1.0
    )
    excess = image - around
    return (
        valid
        & (excess > 8.0 * np.sqrt(variance) + 10.0 * settings.gain / max(settings.n_frames, 1.0))
        & (excess > 2.0 * np.maximum(around - min(base, 0.0), 0.0))
    )


def _coarsest_factor(shape: tuple[int, ...]) -> int:
    factor = 1
    while max(shape) / factor > SEARCH_PX * 1.25:
        factor *= 2
    return factor


def _refinement_factor(denoised: Denoised, frame_valid: NDArray[np.bool_], coarsest: int) -> int:
    """The coarsest level that keeps the Fisher information about the displacement."""
    gradient = denoised.images[1:]
    best, full, factor = 1, 0.0, 1
    while factor <= coarsest:
        images, whole = bin_banks([denoised.variance, *gradient], denoised.solid, factor, 1)
        counted = count_valid(frame_valid, factor) == factor**2
        w = bin_weights(images[0, 0, 0], whole[0, 0] & counted, factor)
        binned = (images[1, 0, 0], images[2, 0, 0])
        information = float(np.linalg.eigvalsh(products(binned, binned, w))[0])
        if factor == 1:
            full = information
        elif information >= INFORMATION_KEPT * full:
            best = factor
        else:
            break
        factor *= 2
    return best


def _levels(
    denoised: Denoised, frame_valid: NDArray[np.bool_], factor: int, coarsest: int
) -> tuple[Level, ...]:
    levels = []
    while coarsest > factor:
        images, whole = bin_banks(
            [denoised.images[0], denoised.variance], denoised.solid, coarsest, 1
        )
        image = images[0, 0, 0]
        # A step of half a bin sees the mean slope between neighbours, not the slope at a point.
        gradient = np.gradient(image, float(coarsest))
        stacked = np.stack([image, *gradient])[:, None, None].astype(np.float32)
        w = bin_weights(images[1], whole, coarsest)
        levels.append(Level(coarsest, stacked, w, count_valid(frame_valid, coarsest)))
        coarsest //= 2
    # Interpolating the reference takes three pixels on either side.
    solid = np.zeros_like(denoised.solid)
    inner = (slice(TAPS_PX, -TAPS_PX),) * 2
    solid[inner] = denoised.solid[inner]
    images, whole = bin_banks([*denoised.images, denoised.variance], solid, factor, factor)
    w = bin_weights(images[-1], whole, factor)
    images = np.ascontiguousarray(images[:-1])
    levels.append(Level(factor, images, w, count_valid(frame_valid, factor)))
    return tuple(levels)


def _coarse(
    filled: Array,
    valid: NDArray[np.bool_],
    frame_valid: NDArray[np.bool_],
    factor: int,
    fine: int,
    settings: Settings,
) -> tuple[Search, float]:
    half = 0.5 * factor**2
    enough = count_valid(valid, factor) >= half
    static = count_valid(frame_valid, factor) >= half
    images, _ = bin_banks([filled], valid, factor, 1)
    image = images[0, 0, 0]
    mean = float(image[enough].mean()) if enough.any() else 0.0
    image = np.where(enough, image - mean, 0.0).astype(np.float32)
    radius = -(-settings.max_shift_px // factor) + 1
    radius = min(radius, min(image.shape) - 1)
    search = prepare_search(image, enough, static, radius, settings.min_overlap)
    fine_images, _ = bin_banks([filled], valid, fine, 1)
    return search, float(fine_images.max())
