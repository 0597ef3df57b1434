"""Steps that stay: the sample was moved, the beam refilled.

At each place between two frames a line is drawn through the frames before and another through those
after; a step is the distance between them there. Its error follows from the frames' error bars and
from how much such distances scatter in this run, so that drift and jitter, known to no one
beforehand, are allowed for. Windows of 8 frames find jumps that are large against the error of one
frame, windows of up to 256 frames those that are small. A step that shrinks with the window is the
bend of a drift, and no jump. No window reaches across a gap or a jump
that was found before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.signal import oaconvolve

from stillstack.drift.outliers import lengths, local_scale, step_noise

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

_WINDOWS: Final = (8, 16, 32, 64, 128, 256)
_ROUNDS: Final = 30
# A step of so many sigma can be told from none; of a true step at least so much is left.
_TOLD: Final = 3.5
_STAYS: Final = 0.55


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
    noise, step = step_noise(shift, cov, piece)
    if len(shift):
        # Where the sample shakes more for a while, its mean is less well known, too.
        noise = noise * local_scale(step)[:, None] ** 2
    for window in _WINDOWS:
        if len(shift) < 2 * window:
            break
        # Lines first: a fast drift is no step to them. Means tell steps of half the size.
        for sloping in (True, False):
            length = _step_lengths(shift, noise, step_weights(window, sloping=sloping))
            kind = _Kind(window, sloping, sigma)
            _add_jumps(jumps, length, shift, piece, kind)
    return np.flatnonzero(jumps)


@dataclass(frozen=True)
class _Kind:
    """How steps are measured, and how large a jump is."""

    window: int
    sloping: bool
    sigma: float


def _add_jumps(jumps: Flags, length: Floats, shift: Floats, piece: Indices, kind: _Kind) -> None:
    """Add the peaks of one kind of step, largest first, until none is left."""
    barred = np.zeros(len(length), bool)
    for _ in range(_ROUNDS):
        whole = _is_whole(piece + np.cumsum(jumps), kind.window)
        if not whole.any():
            return
        scaled = np.zeros(len(length))
        # How much is usual is told by windows that hold no jump known so far, and by so many that
        # those around a jump are few.
        scaled[whole] = length[whole] / local_scale(length[whole], 8 * kind.window)
        scaled[barred] = 0.0
        found = _peaks(scaled, kind.sigma, kind.window)
        if not found:
            return
        for place in found:
            if _is_sharp(shift, place, float(scaled[place]), kind):
                jumps[place] = True
            else:
                reach = kind.window // 4
                barred[max(0, place - reach) : place + reach + 1] = True


def _is_sharp(shift: Floats, place: int, length: float, kind: _Kind) -> bool:
    """Tell whether a step is seen by the shortest windows that can tell it, too.

    A bend of a smooth drift looks like a step to long windows and shrinks with them; a step stays.
    """
    window = kind.window
    near = shift[place - window : place + window]
    step = step_weights(window, sloping=kind.sloping) @ near
    size = float(np.hypot(*step))
    along = near @ (step / size)
    # The error of a line's end is twice that of a mean, and grows as windows shrink.
    told = length if kind.sloping else 0.5 * length
    for shorter in (w for w in reversed(_WINDOWS) if w <= window):
        if told * np.sqrt(shorter / window) < _TOLD:
            break
        # Long windows do not place a step to the frame.
        reach = min(shorter // 2, window - shorter)
        first, last = window - reach - shorter, window + reach + shorter
        views = sliding_window_view(along[first:last], 2 * shorter)
        if (views @ step_weights(shorter, sloping=True)).max() < _STAYS * size:
            return False
    return True


def _step_lengths(shift: Floats, noise: Floats, weights: Floats) -> Floats:
    """Return the step before each frame in units of its error, without regard to pieces."""
    step = _correlated(shift, weights)
    return lengths(step, _correlated(noise, weights**2))


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


def _peaks(scaled: Floats, sigma: float, window: int) -> list[int]:
    """Return the largest of all values in reach of each other that are above sigma."""
    above = np.flatnonzero(scaled > sigma)
    found: list[int] = []
    taken = np.zeros(len(scaled), bool)
    for i in above[np.argsort(-scaled[above], kind="stable")].tolist():
        if not taken[i]:
            found.append(i)
            taken[max(0, i - window) : i + window + 1] = True
    return sorted(found)
