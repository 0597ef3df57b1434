"""One frame registered to a reference: coarse search, whole pixel, sub-pixel, and how sure.

The steps, each in a module of its own:

1. *Observation*: one pass over the frame makes means over bins of valid pixels and
   tells whether all its values are in order; coarser levels follow from these.
2. *Coarse search*: masked normalized correlation within ``max_shift_px`` at the coarsest level that
   still places the scene.
3. *Convergence*: weighted least squares on a fixed support, from coarse to fine, the last time at
   the coarsest level that keeps the Fisher information.
4. *Judgement*: struck pixels are found in the residuals and left out; the covariance comes from
   the residuals; what cannot be trusted gets a status and no shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.convergence import Convergence, converge, settle
from stillstack.kernels.levels import Array
from stillstack.kernels.observation import Observation, as_frame, observe
from stillstack.kernels.peaks import Peak, find_peak
from stillstack.kernels.preparation import prepare_reference
from stillstack.kernels.reference import Reference
from stillstack.kernels.search import search
from stillstack.kernels.validity import value_validity
from stillstack.model import REJECTING, Status

__all__ = ["Reference", "Registration", "frame_validity", "prepare_reference", "register_frame"]

# A frame of noise alone reaches 5 standard deviations somewhere in a window of 1e4 displacements.
SIGNIFICANT = 8.0
# Of what noise does not explain, the reference has to explain this part.
EXPLAINED = 0.5


@dataclass(frozen=True, eq=False)
class Registration:
    """Where a frame belongs, and how sure that is.

    Parameters
    ----------
    shift
        Displacement (y, x) to apply to the frame, px; NaN where the frame is rejected.
    shift_std
        Its 1-sigma uncertainty, px.
    shift_corr
        Correlation of the errors of y and x.
    ncc
        Masked normalized correlation coefficient at the answer.
    peak_ratio
        Second separate peak of the coarse map over the first.
    overlap
        Fraction of the reference's valid pixels that the answer uses.
    chi2
        Mean squared residual in units of the expected noise.
    intensity, background
        Frame = intensity x reference + background; background in counts.
    n_struck
        Struck pixels that were left out.
    status
        Bits of :class:`stillstack.Status`.
    """

    shift: Array
    shift_std: Array
    shift_corr: float
    ncc: float
    peak_ratio: float
    overlap: float
    chi2: float
    intensity: float
    background: float
    n_struck: int
    status: int

    @property
    def good(self) -> bool:
        """Whether the shift may be used."""
        return not self.status & REJECTING


def register_frame(
    frame: NDArray[Any], reference: Reference, valid: NDArray[np.bool_] | None = None
) -> Registration:
    """Shift of a frame onto a reference, its uncertainty, and whether to trust it.

    Parameters
    ----------
    frame
        Frame (y, x), any real dtype, of the reference's shape.
    reference
        From :func:`prepare_reference`.
    valid
        Valid pixels of this frame, combined (and) with the reference's ``frame_valid``.

    Returns
    -------
    Registration

    Raises
    ------
    InputError
        If the shapes disagree. A bad frame is no error: it gets a status and a NaN shift.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y, x = np.mgrid[:96, :96]
    >>> scene = lambda dy: 100 * np.exp(-((y - 48 + dy) ** 2 + (x - 48) ** 2) / 200) + 5
    >>> reference = prepare_reference(rng.poisson(scene(0)), max_shift_px=8)
    >>> register_frame(rng.poisson(scene(3)), reference).shift.round().tolist() == [3, 0]
    True
    """
    seen = observe(frame, reference, valid)
    if isinstance(seen, int):
        return _rejected(seen)
    peak = find_peak(_coarse_map(seen, reference))
    if peak is None:
        return _rejected(seen.status | Status.LOW_NCC)
    start = np.array(peak.displacement) * reference.levels[0].factor
    found = converge(seen, reference, start)
    ratio = peak.second / peak.value
    if found is None:
        return _rejected(_limit(peak, seen.status) | Status.NOT_CONVERGED, peak_ratio=ratio)
    return _judge(found, peak, ratio, seen, reference)


def _coarse_map(seen: Observation, reference: Reference) -> Array:
    """Correlation at every displacement of the window, at the coarsest level."""
    view, level = seen.levels[0], reference.levels[0]
    is_static = view.usable is level.usable
    return search(view.mean, view.usable, reference.search, is_static=is_static, lost=view.lost)


def frame_validity(
    frame: NDArray[Any],
    reference: Reference,
    shift: NDArray[np.floating[Any]] | None = None,
    status: int = 0,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Valid pixels of a raw frame, for resampling it.

    Parameters
    ----------
    frame
        Frame (y, x).
    reference
        What it was registered to.
    shift, status
        What :func:`register_frame` answered; with them, and the bit ``STRUCK`` set, struck pixels
        are left out too.
    valid
        As given to :func:`register_frame`.
    """
    frame, own = as_frame(frame, reference, valid)
    static = reference.frame_valid if valid is None else reference.frame_valid & own
    result = value_validity(frame, static, reference.settings.rules).valid
    if not status & Status.STRUCK or shift is None or not np.all(np.isfinite(shift)):
        return result
    seen = observe(frame, reference, valid)
    if isinstance(seen, int):
        return result
    found = settle(seen, reference, -np.asarray(shift, np.float64))
    if found is None or not found.struck.size:
        return result
    result = result.copy()
    result.ravel()[found.struck] = False
    return result


def _judge(
    found: Convergence, peak: Peak, ratio: float, seen: Observation, reference: Reference
) -> Registration:
    settings, level = reference.settings, reference.levels[-1]
    fit, left = found.fit, found.left
    u_y, u_x = (float(v) for v in found.displacement)
    ncc, null_residual = fit.agreement()
    status = _limit(peak, seen.status)
    if max(abs(u_y), abs(u_x)) > settings.max_shift_px:
        status |= Status.AT_LIMIT
    overlap = left.n_bins * level.factor**2 / reference.n_valid
    if overlap < settings.min_overlap:
        status |= Status.LOW_OVERLAP
    if _correlates_too_little(found, ncc, null_residual, settings.min_ncc):
        status |= Status.LOW_NCC
    if ratio > settings.max_peak_ratio:
        status |= Status.AMBIGUOUS
    if found.struck.size:
        status |= Status.STRUCK
    std_y, std_x, corr = _error_bar(found, reference)
    rejected = bool(status & REJECTING)
    intensity = float(fit.theta[0])
    return Registration(
        shift=np.full(2, np.nan) if rejected else np.array([-u_y, -u_x]),
        shift_std=np.full(2, np.nan) if rejected else np.array([std_y, std_x]),
        shift_corr=corr,
        ncc=ncc,
        peak_ratio=ratio,
        overlap=float(overlap),
        chi2=left.weighted / found.expected,
        intensity=intensity,
        background=float(fit.theta[1]) + seen.pedestal - intensity * reference.offset,
        n_struck=int(found.struck.size),
        status=int(status),
    )


def _error_bar(found: Convergence, reference: Reference) -> tuple[float, float, float]:
    """Standard deviations along y and x, px, and their correlation."""
    (a, b), (c, d) = found.slope.tolist()
    (p, q), (_, r) = found.left.influence.tolist()
    # inverse @ influence @ inverse.T, written out
    scale = 1.0 / (a * d - b * c)
    e, f, g, h = d * scale, -b * scale, -c * scale, a * scale
    yy = e * e * p + 2.0 * e * f * q + f * f * r
    xx = g * g * p + 2.0 * g * h * q + h * h * r
    yx = e * g * p + (e * h + f * g) * q + f * h * r
    if reference.between is not None:
        doubt_y, doubt_x = reference.between.doubt_at(found.displacement)
        yy, xx = yy + doubt_y**2, xx + doubt_x**2
    product = math.sqrt(yy * xx)
    return math.sqrt(yy), math.sqrt(xx), yx / product if product > 0.0 else 0.0


def _correlates_too_little(
    found: Convergence, ncc: float, null_residual: float, min_ncc: float | None
) -> bool:
    if min_ncc is not None:
        return ncc < min_ncc
    fit, left = found.fit, found.left
    # White noise as the residuals themselves show it, whatever the gain is thought to be.
    white = max(left.white, 1e-12)
    scale = max(left.weighted / max(left.n_bins, 1), white)
    significance = float(fit.theta[0]) / math.sqrt(float(fit.inverse[0, 0]) * scale)
    if not significance >= SIGNIFICANT:
        return True
    explainable = null_residual - left.n_bins * white
    explained = null_residual - left.weighted
    spread = 5.0 * white * math.sqrt(2.0 * left.n_bins)
    return explainable > spread and explained < EXPLAINED * explainable


def _limit(peak: Peak, status: int) -> int:
    return status | (Status.AT_LIMIT if peak.at_border else 0)


def _rejected(status: int, *, peak_ratio: float = np.nan) -> Registration:
    nan = float("nan")
    nothing = np.full(2, nan)
    overlap = 0.0 if status & Status.LOW_OVERLAP else nan
    return Registration(
        nothing, nothing.copy(), nan, nan, peak_ratio, overlap, nan, nan, nan, 0, int(status)
    )
