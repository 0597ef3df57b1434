"""Pump-on and pump-off frames paired, so that what drifts slowly is in both alike.

Pairs are made of all frames, good or not; then pairs of which one is not good are left out. So a
bad frame takes its partner with it, never another's, and both averages hold the same number of
frames from the same times. What the reduction needs is a label for each frame::

    pairs = pump_pairs(run.pump == "on", good=is_good(run.status), time=run.time, delay=run.delay)
    run = run.assign_coords(pump_pair=("frame", pairs.labels))
    # reduce with by=["delay", "pump_pair"], then
    difference(reduced.sel(pump_pair=["on", "off"]), "pump_pair", reference="off")

The mean over pairs of (on - off) is the difference of the two means wherever both frames of the
pairs counted. Its error is taken from the scatter of either state's frames: too large, not too
small, where slow drift of the source is common to both; `jackknife` over scans has it without that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse import csgraph

from stillstack.errors import InputError

SCHEMES: Final = ("alternating", "nearest")
ON: Final = "on"
OFF: Final = "off"
UNPAIRED: Final = "unpaired"
# So many frames of the other state, on either side, are partners to choose from.
_CANDIDATES: Final = 3


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which frames belong together.

    Parameters
    ----------
    pair
        (frame,) number of the frame's pair, from 0 in order of time; -1 where it has none.
    used
        (frame,) True where the frame has a pair and both its frames are good.
    labels
        (frame,) ``"on"``, ``"off"``, or ``"unpaired"`` where the frame is not used: a coordinate to
        reduce by.
    n_pairs, n_used
        Pairs that were made, and those of two good frames.
    n_left_out
        Pairs left out because one or both frames are not good.
    n_single
        Frames without a partner.
    """

    pair: NDArray[np.int64] = field(repr=False)
    used: NDArray[np.bool_] = field(repr=False)
    labels: NDArray[np.str_] = field(repr=False)
    n_pairs: int
    n_used: int
    n_left_out: int
    n_single: int


def pump_pairs(
    on: ArrayLike,
    *,
    good: ArrayLike,
    time: ArrayLike | None = None,
    delay: ArrayLike | None = None,
    scheme: str = "alternating",
    max_gap: float | None = None,
) -> Pairs:
    """Pairs of one pumped and one unpumped frame each.

    Parameters
    ----------
    on
        (frame,) boolean, True where the pump was on.
    good
        (frame,) boolean, True where the frame may be used.
    time
        (frame,) seconds or datetime64; the frame's number, if None. A frame without a time (NaN,
        NaT) has no partner.
    delay
        (frame,) partners have the same delay, if given; a frame without one has no partner.
    scheme
        ``"alternating"``: neighbours in time, within their delay, of different state; each frame
        in one pair, as many pairs as can be. ``"nearest"``: each with one of the three frames
        of the other state before it and after it, so that there are as many pairs as can be and
        their distances in time sum to the least; for states in blocks or at random.
    max_gap
        Largest distance in time within a pair, in seconds (frames, without ``time``).

    Returns
    -------
    Pairs

    Raises
    ------
    InputError
        If lengths differ, ``on`` is not boolean, or no pair can be made.

    Examples
    --------
    >>> pairs = pump_pairs([True, False, True, False, True], good=[True, True, True, False, True])
    >>> pairs.labels.tolist(), pairs.n_left_out, pairs.n_single
    (['on', 'off', 'unpaired', 'unpaired', 'unpaired'], 1, 1)
    """
    pumped, fine = _flags("on", on), _flags("good", good)
    n_frames = pumped.size
    when = _seconds(time, n_frames)
    groups = _groups(delay, n_frames)
    for name, length in (("good", fine.size), ("time", when.size), ("delay", groups.size)):
        if length != n_frames:
            raise InputError(
                f"`{name}` has {length} values for {n_frames} frames.",
                cure="Give one value for each frame.",
            )
    if scheme not in SCHEMES:
        raise InputError(f"The scheme is {scheme!r}.", cure=f"Use one of {', '.join(SCHEMES)}.")
    limit = np.inf if max_gap is None else float(max_gap)
    make = _alternating if scheme == "alternating" else _nearest
    order = np.lexsort((when, groups))
    order = order[np.isfinite(when[order]) & (groups[order] >= 0)]
    found = [
        make(part, pumped, when, limit)
        for part in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
        if part.size
    ]
    pairs = np.concatenate([*found, np.empty((0, 2), np.int64)])
    if not len(pairs):
        raise InputError(
            f"Of {n_frames} frames, {int(pumped.sum())} with the pump on, no two make a pair.",
            consequence="There is no difference of on and off to be had.",
            cure="Check `on`, that both states occur at the same delay, and max_gap.",
        )
    return _described(pairs[np.argsort(when[pairs].min(axis=1), kind="stable")], pumped, fine)


def _flags(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    flags = np.asarray(values)
    if flags.dtype != bool or flags.ndim != 1:
        raise InputError(
            f"`{name}` is an array of {flags.dtype} with {flags.ndim} dimensions.",
            consequence="Which frames it means is a guess.",
            cure=f"Give one boolean for each frame, such as run.pump == 'on' for `{name}`.",
        )
    return flags


def _seconds(time: ArrayLike | None, n_frames: int) -> NDArray[np.float64]:
    if time is None:
        return np.arange(n_frames, dtype=np.float64)
    values = np.asarray(time)
    if values.dtype.kind in "mM":
        known = ~np.isnat(values)
        first = values[known].min() if known.any() else values.dtype.type(0, "s")
        return np.where(known, (values - first) / np.timedelta64(1, "s"), np.nan)
    return values.astype(np.float64)


def _groups(delay: ArrayLike | None, n_frames: int) -> NDArray[np.int64]:
    """Number of each frame's delay; -1 where it has none."""
    if delay is None:
        return np.zeros(n_frames, np.int64)
    values = np.asarray(delay)
    missing = np.zeros(values.shape, bool)
    if values.dtype.kind in "fmM":
        missing = np.isnan(values)
    return np.where(missing, -1, np.unique(values, return_inverse=True)[1])


def _alternating(
    order: NDArray[np.int64], on: NDArray[np.bool_], when: NDArray[np.float64], limit: float
) -> NDArray[np.int64]:
    """Neighbours of different state; from the first on, which makes as many pairs as can be."""
    differs = on[order[1:]] != on[order[:-1]]
    fits = (differs & (np.diff(when[order]) <= limit)).tolist()
    pairs, place = [], 0
    while place < len(fits):
        if fits[place]:
            pairs.append(place)
            place += 1
        place += 1
    first = np.array(pairs, np.int64)
    return np.stack([order[first], order[first + 1]], axis=1) if pairs else _NONE


def _nearest(
    order: NDArray[np.int64], on: NDArray[np.bool_], when: NDArray[np.float64], limit: float
) -> NDArray[np.int64]:
    """Pairs of the least total distance in time, as many as can be."""
    ones, others = order[on[order]], order[~on[order]]
    if not (ones.size and others.size):
        return _NONE
    place = np.searchsorted(when[others], when[ones])
    candidates = place[:, None] + np.arange(-_CANDIDATES, _CANDIDATES)
    inside = (candidates >= 0) & (candidates < others.size)
    row, which = np.nonzero(inside)
    column = candidates[row, which]
    apart = np.abs(when[ones[row]] - when[others[column]])
    row, column, apart = (values[apart <= limit] for values in (row, column, apart))
    if not row.size:
        return _NONE
    # To stay single costs more than any rearrangement of partners could save.
    scale = float(apart.max()) or 1.0
    cost = np.concatenate([apart / scale + 1.0, np.full(ones.size, 4.0 * ones.size + 4.0)])
    rows = np.concatenate([row, np.arange(ones.size)])
    columns = np.concatenate([column, others.size + np.arange(ones.size)])
    graph = sparse.csr_matrix((cost, (rows, columns)), (ones.size, others.size + ones.size))
    left, right = csgraph.min_weight_full_bipartite_matching(graph)
    paired = right < others.size
    return np.stack([ones[left[paired]], others[right[paired]]], axis=1)


_NONE: Final[NDArray[Any]] = np.empty((0, 2), np.int64)


def _described(pairs: NDArray[np.int64], on: NDArray[np.bool_], good: NDArray[np.bool_]) -> Pairs:
    both = good[pairs].all(axis=1)
    pair = np.full(on.size, -1, np.int64)
    pair[pairs] = np.arange(len(pairs))[:, None]
    used = np.zeros(on.size, bool)
    used[pairs[both]] = True
    return Pairs(
        pair=pair,
        used=used,
        labels=np.where(used, np.where(on, ON, OFF), UNPAIRED),
        n_pairs=len(pairs),
        n_used=int(both.sum()),
        n_left_out=int((~both).sum()),
        n_single=int((pair < 0).sum()),
    )
