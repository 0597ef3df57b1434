"""What is given as a reference: refused where it cannot be one, and its digest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.kernels.reference import Settings, digest_of
from stillstack.kernels.validity import ValueRules


@dataclass(frozen=True, eq=False)
class GivenReference:
    """A reference before it is prepared.

    Parameters
    ----------
    image, valid
        The image (y, x), float32, and its valid pixels, lone bright ones left out.
    frame_valid
        Pixels that are valid in every frame.
    settings
        How frames are registered.
    """

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    frame_valid: NDArray[np.bool_]
    settings: Settings

    @property
    def digest(self) -> str:
        """Hash of all that determines what frames are registered to."""
        return digest_of(self.image, self.valid, self.frame_valid, self.settings)


def given_reference(
    image: NDArray[Any],
    valid: NDArray[np.bool_] | None = None,
    *,
    frame_valid: NDArray[np.bool_] | None = None,
    below: float | None = None,
    above: float | None = None,
    equal: tuple[float, ...] = (),
    allow_small: bool = False,
    **settings: Any,
) -> GivenReference:
    """A reference as it is given: checked, and of fixed types, in a hundredth of the time.

    Parameters
    ----------
    image, valid, frame_valid, below, above, equal, allow_small
        As for :func:`~stillstack.kernels.preparation.prepare_reference`, which prepares it too.
    **settings
        The other keywords of that function.

    Raises
    ------
    InputError
        If it cannot be a reference.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> given = given_reference(rng.poisson(50.0, (64, 64)), max_shift_px=8)
    >>> given.image.dtype, len(given.digest)
    (dtype('float32'), 32)
    """
    chosen = Settings(**settings, rules=ValueRules(below, above, tuple(equal)))
    chosen = replace(
        chosen,
        max_shift_px=int(chosen.max_shift_px),
        n_frames=float(chosen.n_frames),
        gain=float(chosen.gain),
        read_noise=float(chosen.read_noise),
        min_overlap=float(chosen.min_overlap),
        max_peak_ratio=float(chosen.max_peak_ratio),
    )
    image, valid, frame_valid = _checked(image, valid, frame_valid, chosen, allow_small)
    valid = valid & ~_lone_pixels(image, valid, chosen)
    valid.flags.writeable = False
    return GivenReference(image, valid, frame_valid, chosen)


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
    if image.dtype.kind in "iu":  # saturated, as in a frame
        given &= image < np.iinfo(image.dtype).max
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
