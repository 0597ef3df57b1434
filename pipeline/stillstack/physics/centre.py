"""Where the undiffracted beam would meet the detector: fitted, to a fraction of a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.physics.rings import ring_centre
from stillstack.physics.symmetry import Image, NoSymmetry, Point, Valid, symmetry_centre

METHODS: Final = ("auto", "symmetry", "rings")
# With less of the image in opposite pairs than this, rings may tell more.
_AMPLE_SHARE: Final = 0.3
_LEAST_VALID: Final = 100


@dataclass(frozen=True)
class Centre:
    """Centre of a diffraction pattern.

    Parameters
    ----------
    y, x
        Pixel coordinates; the middle of the first pixel is (0, 0).
    y_std, x_std
        Their 1-sigma uncertainties, px.
    corr
        Correlation of the two errors.
    method
        ``"symmetry"`` or ``"rings"``.
    agreement
        Correlation of the image with itself turned by 180 degrees, or the part of its structure
        that rings explain: 1 is best.
    """

    y: float
    x: float
    y_std: float
    x_std: float
    corr: float
    method: str
    agreement: float

    @property
    def position(self) -> Point:
        """(y, x)."""
        return self.y, self.x

    def as_dict(self) -> dict[str, float | str]:
        """Plain values, for attributes and JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def fit_centre(
    image: xr.DataArray | NDArray[Any],
    valid: xr.DataArray | NDArray[np.bool_] | None = None,
    *,
    method: str = "auto",
    guess: Point | None = None,
    reach_px: float | None = None,
) -> Centre:
    """Centre of a diffraction pattern with its error bar, from valid pixels alone.

    Parameters
    ----------
    image
        Image (y, x), counts; best the mean of all aligned frames. Non-finite pixels do not count.
    valid
        Valid pixels (y, x), True where a pixel counts; all finite ones, if None. Outside it
        everything may be: a beam-block, dead pixels.
    method
        ``"symmetry"``: opposite pixels are alike (Friedel's law), as in powders and crystals.
        ``"rings"``: brightness depends on the radius, for powders of which arcs are seen; the
        centre may lie outside the image. ``"auto"``: symmetry, and rings where there is none or
        little to compare.
    guess
        Where the centre is thought to be, (y, x). Needed where the background of a crystal's
        pattern is not centred with its spots, since these are symmetric about many points.
    reach_px
        How far from the guess the centre of symmetry is looked for: less than a quarter of the
        distance of neighbouring spots. A sixtieth of the smaller side, at least 3 px, if None.

    Returns
    -------
    Centre
        Coordinates are pixel indices, also for a DataArray with coordinates y and x of its own.
        Error bars are those of the noise; where the pairs of spots of a crystal are unequal they
        are too long, by up to a factor of three.

    Raises
    ------
    InputError
        If the image has no centre by the method, or the arrays do not fit.

    Examples
    --------
    >>> y, x = np.mgrid[:96, :96]
    >>> radius = np.hypot(y - 50.3, x - 45.5)
    >>> pattern = 100 * np.exp(-((radius - 25) ** 2) / 18) + 1000 / (radius + 20)
    >>> centre = fit_centre(np.random.default_rng(0).poisson(pattern))
    >>> f"{centre.y:.1f} {centre.x:.1f}"
    '50.3 45.5'
    """
    if method not in METHODS:
        raise InputError(
            f"The method is {method!r}.", cure=f"Use one of {', '.join(map(repr, METHODS))}."
        )
    counts, seen = _checked(image, valid)
    if guess is not None and not np.all(np.isfinite(guess)):
        raise InputError(f"The guess is {guess}.", cure="Give two finite pixel coordinates (y, x).")
    found: list[Centre] = []
    refusals: list[str] = []
    if method != "rings":
        symmetric = symmetry_centre(counts, seen, guess, reach_px)
        if isinstance(symmetric, NoSymmetry):
            refusals.append(symmetric.why)
        else:
            found.append(_centre(symmetric.centre, symmetric.covariance, "symmetry", symmetric.ncc))
            if symmetric.share >= _AMPLE_SHARE:
                return found[0]
    if method != "symmetry":
        rings = ring_centre(counts, seen, guess)
        if isinstance(rings, NoSymmetry):
            refusals.append(rings.why)
        else:
            found.append(_centre(rings.centre, rings.covariance, "rings", rings.explained))
    if not found:
        raise InputError(
            f"The image has no centre that could be fitted: {'; '.join(refusals)}.",
            consequence="Azimuthal averages need one.",
            cure="Pass guess=(y, x); check valid (True where a pixel counts), or that this is "
            "a diffraction pattern at all.",
        )
    return min(found, key=lambda centre: centre.y_std**2 + centre.x_std**2)


def _checked(
    image: xr.DataArray | NDArray[Any], valid: xr.DataArray | NDArray[np.bool_] | None
) -> tuple[Image, Valid]:
    counts = np.asarray(image, np.float64)
    if counts.ndim != 2 or min(counts.shape) < 32:
        raise InputError(
            f"The image has the shape {counts.shape}.",
            consequence="A centre is fitted to one image (y, x) of at least 32 x 32 pixels.",
            cure="Choose one group, or combine() them.",
        )
    if valid is not None and np.shape(valid) != counts.shape:
        raise InputError(
            f"`valid` has the shape {np.shape(valid)}, the image {counts.shape}.",
            cure="Give arrays of equal shape.",
        )
    finite = np.isfinite(counts)
    seen = finite if valid is None else finite & np.asarray(valid, bool)
    n_valid = int(np.count_nonzero(seen))
    if n_valid < _LEAST_VALID or np.ptp(counts[seen]) == 0:
        raise InputError(
            f"{n_valid} pixels of the image are valid"
            + (" and all hold one value." if n_valid >= _LEAST_VALID else "."),
            consequence="No centre can be fitted to that.",
            cure="True means that a pixel counts: was valid inverted? Is all coverage 0?",
        )
    return np.where(seen, counts, 0.0), seen


def _centre(
    position: Point, covariance: NDArray[np.float64], method: str, agreement: float
) -> Centre:
    y_std, x_std = (float(value) for value in np.sqrt(np.diag(covariance)))
    return Centre(
        position[0],
        position[1],
        y_std,
        x_std,
        float(covariance[0, 1]) / (y_std * x_std),
        method,
        float(agreement),
    )
