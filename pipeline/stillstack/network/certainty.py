"""How sure offsets are: their covariance, and how well loops of measurements close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Solving for every column takes time that grows with the square of the groups; beyond so many the
# covariance is that of so many draws, good to 4 %.
_EXACT: Final = 600
_DRAWS: Final = 300


@dataclass(frozen=True, eq=False)
class Measured:
    """Good edges as arrays; ``i`` and ``j`` are rows of the unknowns, the origin's among them."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    shift: Floats
    covariance: Floats
    information: Floats
    share: Floats


@dataclass(frozen=True, eq=False)
class Solved:
    """Offsets of the tied rows, and the factored normal equations that they solve.

    ``rows`` are the unknowns' places among the tied rows, ``design`` whitens: its rows are edges.
    """

    offset: Floats
    factor: Any
    design: Any
    rows: NDArray[np.int64]


def chosen(measured: Measured, which: NDArray[np.bool_]) -> Measured:
    """Return these of the edges."""
    return Measured(*(array[which] for array in vars(measured).values()))


def distances(part: Measured, offset: Floats, tied: NDArray[np.bool_]) -> Floats:
    """Residual of each edge in units of its error bars."""
    place = np.cumsum(tied) - 1
    residual = offset[place[part.j]] - offset[place[part.i]] - part.shift
    squared = np.einsum("ea,eab,eb->e", residual, part.information, residual)
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def covariance_of(
    part: Measured,
    weight: Floats,
    tied: NDArray[np.bool_],
    errors: Solved,
) -> Floats:
    """(n, 2, 2) covariances of the offsets of the tied rows: the measurements', and the images'."""
    n = int(tied.sum())
    found: Floats = np.zeros((n, 2, 2), np.float64)
    found[errors.rows] = _inverse_blocks(errors)
    spare = 2 * (weight.size - (n - 1))
    if spare <= 0:
        return found
    squared = distances(part, errors.offset, tied) ** 2
    found *= float((weight * squared).sum() / spare)
    found[errors.rows] += _own(part, tied)[errors.rows]
    return found


def _inverse_blocks(errors: Solved) -> Floats:
    """(n, 2, 2) diagonal blocks of the inverse normal matrix."""
    n = errors.rows.size
    if n <= _EXACT:
        inverse = errors.factor.solve(np.eye(2 * n)).reshape(n, 2, n, 2)
        return np.asarray(inverse[np.arange(n), :, np.arange(n), :])
    draws = np.random.default_rng(0).standard_normal((errors.design.shape[0], _DRAWS))
    answers = errors.factor.solve(errors.design.T @ draws).reshape(n, 2, _DRAWS)
    return np.asarray(np.einsum("nad,nbd->nab", answers, answers) / _DRAWS)


def _own(part: Measured, tied: NDArray[np.bool_]) -> Floats:
    """(n, 2, 2) what each image's own noise does: its share of the surest of its edges."""
    place = np.cumsum(tied) - 1
    nodes = np.concatenate([place[part.i], place[part.j]])
    share = np.concatenate([1.0 - part.share, part.share])
    own = np.concatenate([part.covariance, part.covariance]) * share[:, None, None]
    order = np.lexsort((np.trace(own, axis1=1, axis2=2), nodes))
    first = np.r_[True, np.diff(nodes[order]) > 0]
    result = np.zeros((int(tied.sum()), 2, 2))
    result[nodes[order][first]] = own[order][first]
    return result


def closure_of(n_groups: int, used: Measured) -> Floats:
    """Median misclosure of each group's loops over the template, px."""
    with_template = used.i == n_groups
    from_template = np.full((n_groups + 1, 2), np.nan)
    from_template[used.j[with_template]] = used.shift[with_template]
    i, j = used.i[~with_template], used.j[~with_template]
    gap = np.hypot(*(from_template[j] - from_template[i] - used.shift[~with_template]).T)
    closed = np.isfinite(gap)
    groups = np.concatenate([i[closed], j[closed]])
    values = np.tile(gap[closed], 2)
    result = np.full(n_groups, np.nan)
    order = np.lexsort((values, groups))
    numbers, first, count = np.unique(groups[order], return_index=True, return_counts=True)
    low, high = first + (count - 1) // 2, first + count // 2
    result[numbers] = (values[order][low] + values[order][high]) / 2
    return result
