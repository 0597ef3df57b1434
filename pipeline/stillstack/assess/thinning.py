"""Counts divided into two parts that share no noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Noise = tuple[float, float]
"""Counts per detected event, and counts rms of a dark pixel."""


def thin(
    counts: NDArray[Any], share: float, noise: Noise, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Part of an image's counts, chosen event by event; what is left is ``counts - part``.

    Each detected event falls into the part with the probability ``share``. Of Poisson counts both
    parts are then Poisson, and independent of each other. Where counts are no whole number of
    events, as behind an amplifier, the fraction is divided in proportion, and what is known of the
    read noise is drawn for the part and taken from the rest: the parts are uncorrelated wherever
    the variance is ``gain x mean + read_noise^2``.

    Parameters
    ----------
    counts
        Any shape; NaN stays NaN.
    share
        0 to 1, mean of the part over mean of the whole.
    noise
        Counts per event and read noise, counts rms.
    rng
        Source of randomness.

    Returns
    -------
    ndarray of float64, of the shape of ``counts``; whole numbers of events where ``counts`` are.

    References
    ----------
    J. F. C. Kingman, Poisson Processes, Oxford (1993), section 5.1; A. Neufeld et al., J. Mach.
    Learn. Res. 25(57) (2024), "Data thinning for convolution-closed distributions".

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(8.0, (200, 200))
    >>> part = thin(counts, 0.25, (1.0, 0.0), rng)
    >>> round(float(part.mean()), 1)
    2.0
    >>> bool(abs(np.corrcoef(part.ravel(), (counts - part).ravel())[0, 1]) < 0.02)
    True
    """
    gain, read_noise = noise
    events = np.asarray(counts, np.float64) / gain
    known = np.isfinite(events)
    whole = np.where(known, np.maximum(np.rint(events), 0.0), 0.0).astype(np.int64)
    part = rng.binomial(whole, share) + share * (events - whole)
    if read_noise > 0.0:
        part += rng.normal(0.0, np.sqrt(share * (1.0 - share)) * read_noise / gain, part.shape)
    return np.asarray(part * gain, np.float64)
