"""Offsets of groups out of the measurements between them: robust, sparse, weighted least squares.

Each edge says: offset of j less offset of i is ``shift``, give or take its covariance. The offsets
minimise the sum of rho(r), where r is an edge's residual in units of its error bars (Mahalanobis)
and rho first Huber's function, which finds the bulk, then Tukey's biweight, which lets go of what
does not belong to it (A. E. Beaton and J. W. Tukey, Technometrics 16, 147 (1974),
doi:10.1080/00401706.1974.10489171), by iteratively reweighted least squares.

Errors of edges are not independent. The noise of one image enters all its edges alike, moves its
offset, and cancels in every loop: no number of edges averages it away. So an offset's covariance
is that of the least squares, scaled by how well loops close, plus the image's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from stillstack.errors import InputError
from stillstack.network.certainty import (
    Measured,
    Solved,
    chosen,
    closure_of,
    covariance_of,
    distances,
)
from stillstack.network.edges import TEMPLATE, Edge

Floats = NDArray[np.float64]

# 95 % efficient for Gaussian errors in two dimensions.
_HUBER: Final = 1.7
_TUKEY: Final = 5.9
# Huber's function (None), then the biweight, its threshold lowered step by step: a group between
# two opinions would be left by both if it were lowered at once. And how many rounds each takes.
_STAGES: Final = ((None, 20), (8 * _TUKEY, 4), (4 * _TUKEY, 4), (2 * _TUKEY, 4), (_TUKEY, 12))
_SETTLED: Final = 1e-2
# Keeps what all its edges contradict from floating away while weights are sought.
_LEAST: Final = 1e-6


@dataclass(frozen=True, eq=False)
class Offsets:
    """Where groups lie to the template, and how sure that is.

    Parameters
    ----------
    offset
        (g, 2) shift (y, x) to add to the shifts of a group's frames so that they land on the
        template, px; NaN for a group that nothing ties to it.
    covariance
        (g, 2, 2) of their errors, px^2.
    closure
        (g,) by how much the loops template - group - neighbour - template fail to close, the
        median over the group's loops, px; NaN without one.
    rejected
        Pairs (i, j) of edges that contradict the others.
    notes
        What is remarkable, one sentence each.
    """

    offset: Floats
    covariance: Floats
    closure: Floats
    rejected: tuple[tuple[int, int], ...]
    notes: tuple[str, ...] = ()

    @property
    def std(self) -> Floats:
        """(g, 2) 1-sigma uncertainties of the offsets, px."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))

    @property
    def known(self) -> NDArray[np.bool_]:
        """(g,) True where a group has an offset."""
        return np.asarray(np.isfinite(self.offset).all(axis=1))


def solve_offsets(
    n_groups: int, edges: Sequence[Edge], *, origin: int | None = TEMPLATE
) -> Offsets:
    """Offsets of groups that agree best with all measurements, in time linear in their number.

    Parameters
    ----------
    n_groups
        Number of groups.
    edges
        Measurements between groups, and between groups and the template.
    origin
        Which has the offset (0, 0): the template, or the number of a group. None: the group in
        the middle of those that are tied together.

    Returns
    -------
    Offsets
        Groups that are not tied to the origin have the offset NaN.

    Raises
    ------
    InputError
        If an edge names a group that is not there.

    Examples
    --------
    >>> def edge(i, j, y, x):
    ...     return Edge(i, j, np.array([y, x]), np.eye(2) * 0.01**2, 0)
    >>> edges = [edge(-1, 0, 1.0, 0.0), edge(-1, 1, 2.0, 0.5), edge(0, 1, 1.0, 0.5)]
    >>> solve_offsets(3, edges).offset.round(3)
    array([[1. , 0. ],
           [2. , 0.5],
           [nan, nan]])
    """
    measured = _measured(n_groups, edges)
    tied, start = _tied(n_groups, measured, origin)
    used = tied[measured.i] & tied[measured.j]
    weight = np.zeros(used.size)
    if used.any():
        weight[used] = _robust(chosen(measured, used), tied, start)
    rejected = used & (weight == 0.0)
    weight[_doubtful(measured, used, rejected, start)] = 0.0
    tied, start = _tied(n_groups, chosen(measured, weight > 0.0), start)
    used = (weight > 0.0) & tied[measured.i] & tied[measured.j]
    offset = np.full((n_groups + 1, 2), np.nan)
    covariance = np.full((n_groups + 1, 2, 2), np.nan)
    offset[start], covariance[start] = 0.0, 0.0
    if used.any():
        part = chosen(measured, used)
        solution = _solved(part, weight[used], tied, start)
        offset[tied] = solution.offset
        covariance[tied] = covariance_of(part, weight[used], tied, solution)
    pairs = _pairs(chosen(measured, rejected), n_groups)
    return Offsets(
        offset[:n_groups],
        covariance[:n_groups],
        closure_of(n_groups, chosen(measured, used)),
        pairs,
        _remarks(n_groups, tied, pairs, edges),
    )


def _measured(n_groups: int, edges: Sequence[Edge]) -> Measured:
    strange = [(e.i, e.j) for e in edges if not (-1 <= e.i < n_groups and -1 <= e.j < n_groups)]
    if strange:
        raise InputError(
            f"Edges {strange[:5]} name groups that are not among the {n_groups}.",
            cure="Number the groups from 0, and the template -1.",
        )
    good = [edge for edge in edges if edge.good and edge.i != edge.j and _definite(edge)]
    rows = np.array([(edge.i, edge.j) for edge in good], np.int64).reshape(-1, 2) % (n_groups + 1)
    covariance = np.array([edge.covariance for edge in good]).reshape(-1, 2, 2)
    return Measured(
        rows[:, 0],
        rows[:, 1],
        np.array([edge.shift for edge in good]).reshape(-1, 2),
        covariance,
        np.linalg.inv(covariance),
        np.array([edge.share for edge in good], np.float64),
    )


def _definite(edge: Edge) -> bool:
    (a, b), (c, d) = edge.covariance.tolist()
    return bool(np.isfinite(edge.shift).all() and a > 0 and d > 0 and a * d - b * c > 0)


def _tied(n_groups: int, measured: Measured, origin: int | None) -> tuple[NDArray[np.bool_], int]:
    """Which unknowns are tied to the origin, and the row of the origin."""
    n = n_groups + 1
    ones = np.ones(measured.i.size)
    graph = sparse.coo_array((ones, (measured.i, measured.j)), shape=(n, n))
    _, part = connected_components(graph, directed=False)
    if origin is not None:
        start = origin % n
        return np.asarray(part == part[start]), start
    sizes = np.bincount(part[:n_groups])
    members = np.flatnonzero(part[:n_groups] == int(np.argmax(sizes)))
    start = int(members[members.size // 2])
    return np.asarray(part == part[start]), start


def _robust(part: Measured, tied: NDArray[np.bool_], start: int) -> Floats:
    """Weights of the edges, 0 for those that contradict the others."""
    weight = np.ones(part.i.size)
    for threshold, rounds in _STAGES:
        for _ in range(rounds):
            solution = _solved(part, np.maximum(weight, _LEAST), tied, start)
            r = distances(part, solution.offset, tied)
            new = _huber(r) if threshold is None else _tukey(r, threshold)
            change = float(np.abs(new - weight).max())
            weight = new
            if change < _SETTLED:
                break
    return weight


def _huber(r: Floats) -> Floats:
    return np.asarray(np.minimum(1.0, _HUBER / np.maximum(r, 1e-12)))


def _tukey(r: Floats, threshold: float) -> Floats:
    return np.asarray(np.where(r < threshold, (1.0 - (r / threshold) ** 2) ** 2, 0.0))


def _solved(part: Measured, weight: Floats, tied: NDArray[np.bool_], start: int) -> Solved:
    place = np.cumsum(tied) - 1
    n = int(tied.sum())
    unknown = np.delete(np.arange(n), place[start])
    column = np.full(n, -1)
    column[unknown] = np.arange(n - 1)
    lower = np.linalg.cholesky(part.information * weight[:, None, None])
    root = np.asarray(np.swapaxes(lower, 1, 2), np.float64)
    design = _design(column[place[part.i]], column[place[part.j]], root, n - 1)
    right = np.einsum("eab,eb->ea", root, part.shift).ravel()
    factor = splu(
        (design.T @ design).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    offset = np.zeros((n, 2))
    offset[unknown] = factor.solve(design.T @ right).reshape(-1, 2)
    return Solved(offset, factor, design, unknown)


def _design(i: Any, j: Any, root: Floats, n: int) -> Any:
    """Sparse matrix that takes all unknown offsets to whitened differences, two rows an edge."""
    edges = np.arange(i.size)
    rows, columns, values = [], [], []
    for place, sign in ((i, -1.0), (j, 1.0)):
        known = place >= 0
        for a in range(2):
            for b in range(2):
                rows.append(2 * edges[known] + a)
                columns.append(2 * place[known] + b)
                values.append(sign * root[known, a, b])
    where = (np.concatenate(rows), np.concatenate(columns))
    return sparse.coo_array((np.concatenate(values), where), shape=(2 * i.size, 2 * n)).tocsr()


def _doubtful(
    measured: Measured, used: NDArray[np.bool_], rejected: NDArray[np.bool_], start: int
) -> NDArray[np.bool_]:
    """Edges on which alone a group hangs that others contradict: which is right cannot be told."""

    def count(which: NDArray[np.bool_]) -> NDArray[np.int64]:
        ends = np.concatenate([measured.i[which], measured.j[which]])
        return np.bincount(ends, minlength=int(max(measured.i.max(), measured.j.max(), start)) + 1)

    if not rejected.any():
        return rejected
    loose = (count(rejected) > 0) & (count(used & ~rejected) < 2)
    loose[start] = False
    return np.asarray(used & (loose[measured.i] | loose[measured.j]))


def _pairs(rejected: Measured, n_groups: int) -> tuple[tuple[int, int], ...]:
    def number(row: int) -> int:
        return TEMPLATE if row == n_groups else row

    rows = zip(rejected.i.tolist(), rejected.j.tolist(), strict=True)
    return tuple((number(i), number(j)) for i, j in rows)


def _remarks(
    n_groups: int,
    tied: NDArray[np.bool_],
    rejected: tuple[tuple[int, int], ...],
    edges: Sequence[Edge],
) -> tuple[str, ...]:
    notes = []
    loose = np.flatnonzero(~tied[:n_groups])
    if loose.size:
        shown = ", ".join(str(group) for group in loose[:5]) + (" ..." if loose.size > 5 else "")
        notes.append(
            f"{loose.size} of {n_groups} groups are not tied to the others and have no offset: "
            f"groups {shown}"
        )
    failed = sum(not edge.good for edge in edges)
    if failed or rejected:
        notes.append(
            f"of {len(edges)} measurements between references {failed} failed and "
            f"{len(rejected)} contradict the others"
        )
    return tuple(notes)
