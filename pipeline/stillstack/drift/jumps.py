"""Steps that stay: the sample was moved, the beam refilled.

At each place between two frames a line is drawn through the frames before and another through those
after; a step is the distance between them there. Its error follows from the frames' error bars and
from how much such distances scatter in this run, so that drift and jitter, known to no one
beforehand, are allowed for. Windows of 8 frames find jumps that are large against the error of one
frame, windows of up to 256 frames those that are small. No window reaches across a gap or a jump
that was found before.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.signal import oaconvolve

from stillstack.drift.outliers import lengths, local_scale

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

_WINDOWS: Final = (8, 16, 32, 64, 128, 256)
_ROUNDS: Final = 30


def step_weights(window: int, *, sloping: bool) -> Floats:
    """Return weights of 2 * ``window`` frames whose sum is the step in the middle of them.

    The difference of the two means or, ``sloping``, the distance of the two lines, fitted by least
    squares, half a frame beyond their ends.

    Examples
    --------
    >>> weights, frames = step_weights(8, sloping=True), np.arange(16.0)
    >>> bool(abs(weights @ frames) < 1e-12), round(float(weights @ (frames > 7.5)), 12)
    (True, 1.0)
    """
    place = np.arange(window) + 0.5
    after = np.full(window, 1.0 / window)
    if sloping:
        centred = place - place.mean()
        after -= centred * place.mean() / (centred**2).sum()
    return np.concatenate([-after[::-1], after])


def find_jumps(shift: Floats, cov: Floats, piece: Indices, sigma: float) -> Indices:
    """Return the first frames after steps that stay, in rising order.

    Parameters
    ----------
    shift
        (n, 2), finite, without outliers, in order of time, px.
    cov
        (n, 3: yy, yx, xx), of shift, px^2.
    piece
        (n,), number of the piece between gaps, never falling.
    sigma
        How large a jump is, in units of everything that is expected.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shift = rng.normal(0.0, 0.1, (100, 2))
    >>> shift[60:] += 2.0
    >>> find_jumps(shift, np.tile([0.01, 0.0, 0.01], (100, 1)), np.zeros(100, int), 7.0)
    array([60])
    """
    jumps = np.zeros(len(shift), bool)
    for window in _WINDOWS:
        if len(shift) < 2 * window:
            break
        # Lines first: a fast drift is no step to them.
        for sloping in (True, False):
            length = _step_lengths(shift, cov, step_weights(window, sloping=sloping))
            _add_jumps(jumps, length, piece, sigma, window)
    return np.flatnonzero(jumps)


def _add_jumps(jumps: Flags, length: Floats, piece: Indices, sigma: float, window: int) -> None:
    """Add the peaks of one kind of step, largest first, until none is left."""
    for _ in range(_ROUNDS):
        whole = _is_whole(piece + np.cumsum(jumps), window)
        if not whole.any():
            return
        scaled = np.zeros(len(length))
        # How much is usual is told by windows that hold no jump known so far, and by so many that
        # those around a jump are few.
        scaled[whole] = length[whole] / local_scale(length[whole], 8 * window)
        found = _peaks(scaled, sigma, window)
        if not found.size:
            return
        jumps[found] = True


def _step_lengths(shift: Floats, cov: Floats, weights: Floats) -> Floats:
    """Return the step before each frame in units of its error, without regard to pieces."""
    step = _correlated(shift, weights)
    return lengths(step, _correlated(cov, weights**2))


def _correlated(columns: Floats, weights: Floats) -> Floats:
    """Return sums over the frames around the place before each; edges are of no use."""
    half, n = len(weights) // 2, len(columns)
    summed = np.empty_like(columns)
    for column in range(columns.shape[1]):
        # Its ends repeated, lest covariances there be none.
        padded = np.pad(columns[:, column], (half, half - 1), mode="edge")
        summed[:, column] = oaconvolve(padded, weights[::-1], mode="valid")[:n]
    return summed


def _is_whole(pieces: Indices, window: int) -> Flags:
    """Tell where so many frames before and from a frame on are of one piece."""
    n = len(pieces)
    whole = np.zeros(n, bool)
    whole[window : n - window + 1] = pieces[: n - 2 * window + 1] == pieces[2 * window - 1 :]
    return whole


def _peaks(scaled: Floats, sigma: float, window: int) -> Indices:
    """Return the largest of all values in reach of each other that are above sigma."""
    above = np.flatnonzero(scaled > sigma)
    found: list[int] = []
    taken = np.zeros(len(scaled), bool)
    for i in above[np.argsort(-scaled[above], kind="stable")].tolist():
        if not taken[i]:
            found.append(i)
            taken[max(0, i - window) : i + window + 1] = True
    return np.array(sorted(found), dtype=np.int64)
