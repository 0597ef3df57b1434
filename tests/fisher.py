"""What photon noise allows: the smallest covariance that an unbiased shift can have.

Counts ``m`` are Poisson, with the expectation

    intensity x scene(x + shift) + background + slope_y y + slope_x x

whose six parameters are all unknown. The Fisher information between two of them is the sum over
the pixels used of the product of the expectation's derivatives, over the expectation. Its inverse
bounds the covariance (Cramer and Rao). Everything comes from the analytic scene; no kernel is
imported.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stillstack.simulation.scene import Scene

Valid = NDArray[np.bool_]
Floats = NDArray[np.float64]


def shared_pixels(shift: Floats, reference_valid: Valid, frame_valid: Valid) -> Valid:
    """Pixels that are valid in the frame and whose origin is valid in the reference."""
    shared = np.zeros(frame_valid.shape, bool)
    origins = [
        np.round(np.arange(n) + d).astype(int)
        for n, d in zip(frame_valid.shape, shift, strict=True)
    ]
    inside = [(o >= 0) & (o < n) for o, n in zip(origins, reference_valid.shape, strict=True)]
    here = np.ix_(*inside)
    shared[here] = reference_valid[np.ix_(*(o[i] for o, i in zip(origins, inside, strict=True)))]
    return shared & frame_valid


def shift_covariance(
    scene: Scene, shift: Floats, reference_valid: Valid, frame_valid: Valid
) -> Floats:
    """Bound of the covariance (2, 2) of a frame's shift, px^2."""
    used = shared_pixels(np.asarray(shift, float), reference_valid, frame_valid)
    expected = scene.expected(shift)[used]
    wanted = np.stack([part[used] for part in scene.gradient(shift)])
    rows, columns = np.nonzero(used)
    n_y, n_x = scene.shape
    nuisance = np.stack([expected, np.ones_like(expected), rows / n_y - 0.5, columns / n_x - 0.5])
    # What the nuisances could explain of the gradients tells nothing about the shift.
    root = np.sqrt(expected)
    explained, *_ = np.linalg.lstsq((nuisance / root).T, (wanted / root).T)
    rest = wanted / root - explained.T @ (nuisance / root)
    return np.asarray(np.linalg.inv(rest @ rest.T))


def shift_bound(scene: Scene, shift: Floats, reference_valid: Valid, frame_valid: Valid) -> Floats:
    """Smallest standard deviation (y, x) of a frame's shift, px."""
    covariance = shift_covariance(scene, shift, reference_valid, frame_valid)
    return np.asarray(np.sqrt(np.diag(covariance)))
