"""All groups' images tied together: neighbours first, then each to the mean of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.config.network import NetworkConfig
from stillstack.errors import InputError
from stillstack.network.content import settle_content
from stillstack.network.edges import TEMPLATE, Edge, measure_edges, neighbour_pairs
from stillstack.network.images import MeanImage, mean_of, there
from stillstack.network.solve import Offsets, solve_offsets
from stillstack.reference_image import ReferenceImage

Pictures = Sequence[ReferenceImage | None]
Measure = Callable[[Sequence[tuple[Any, ...]]], Iterable[tuple[Edge, ...]]]
"""Calls :func:`~stillstack.network.edges.measure_edges` with each of the argument tuples."""

# With fewer images than this, the mean of the others is used for each: an image's own noise is
# in the mean of all, and draws it to where it lay when that was made.
_ITS_OWN: Final = 24


@dataclass(frozen=True, eq=False)
class Tied:
    """Groups' images tied together.

    Parameters
    ----------
    offsets
        Where the groups lie to the template.
    template
        Mean of the groups' images, each moved by its offset; None where none has one.
    edges
        All measurements.
    """

    offsets: Offsets
    template: ReferenceImage | None
    edges: tuple[Edge, ...]


def one_by_one(tasks: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Edge, ...]]:
    """Measure edges in this process."""
    for task in tasks:
        yield measure_edges(*task)


def tie_groups(
    pictures: Pictures,
    config: NetworkConfig,
    settings: Mapping[str, Any],
    *,
    measure: Measure = one_by_one,
) -> Tied:
    """Offsets of all groups to their common template, with errors.

    Neighbours are registered to one another and solved for. Moved by these first offsets, the
    images are averaged to the template; each is registered to it, and all measurements are solved
    together. Last, where the content changes, patterns are told from motion (:mod:`.content`).
    The number of registrations, and the time to solve, grow linearly with the groups.

    Parameters
    ----------
    pictures
        Image of each group, None where a group has none. Read one or two at a time: a sequence
        that loads them when asked for needs little memory.
    config
        Section of the config.
    settings
        Keywords of :func:`~stillstack.kernels.registration.prepare_reference`.
    measure
        Runs the measurements, all of one stage at a time, in any order or place.

    Returns
    -------
    Tied
        A group that cannot be tied to the others has the offset NaN.

    Raises
    ------
    InputError
        If no group has an image.
    """
    shape = next((p.image.shape for p in pictures if p is not None), None)
    if shape is None:
        raise InputError(
            f"None of the {len(pictures)} groups has a reference.",
            consequence="Their frames cannot be registered.",
            cure="Look at the frames' status: are all of them bad?",
        )
    if sum(picture is not None for picture in pictures) == 1:
        return _alone(pictures)
    near = _between_neighbours(pictures, config, settings, measure)
    first = solve_offsets(len(pictures), near, origin=None)
    total = mean_of(pictures, first.offset, shape)
    edges = (*near, *_to_template(pictures, first.offset, total, settings, measure))
    offsets = solve_offsets(len(pictures), edges)
    offsets = _rounded(settle_content(pictures, offsets, edges, config.patterns))
    template = mean_of(pictures, offsets.offset, shape).mean() if offsets.known.any() else None
    return Tied(offsets, template, edges)


def _alone(pictures: Pictures) -> Tied:
    """One group has an image, which is the template."""
    n = len(pictures)
    offset, covariance = np.full((n, 2), np.nan), np.full((n, 2, 2), np.nan)
    number = next(number for number, picture in enumerate(pictures) if picture is not None)
    offset[number], covariance[number] = 0.0, 0.0
    only = there(pictures, number)
    notes = (f"{n - 1} of {n} groups have no reference",) if n > 1 else ()
    offsets = Offsets(offset, covariance, np.full(n, np.nan), (), notes)
    return Tied(offsets, only, ())


def _rounded(offsets: Offsets) -> Offsets:
    """Offsets whose bits do not depend on the threads with which linear algebra sums."""
    return replace(
        offsets,
        offset=np.round(offsets.offset, 7) + 0.0,
        covariance=offsets.covariance.astype(np.float32).astype(np.float64),
    )


def _between_neighbours(
    pictures: Pictures, config: NetworkConfig, settings: Mapping[str, Any], measure: Measure
) -> tuple[Edge, ...]:
    # Without a neighbour nothing says how to average; the template then starts as they lie.
    pairs = neighbour_pairs(len(pictures), config.neighbours or 1)
    tasks = [
        (i, pictures[i], [(j, pictures[j]) for j in others], settings)
        for i, others in pairs.items()
    ]
    return tuple(edge for edges in measure(tasks) for edge in edges)


def _to_template(
    pictures: Pictures,
    offset: NDArray[np.float64],
    total: MeanImage,
    settings: Mapping[str, Any],
    measure: Measure,
) -> tuple[Edge, ...]:
    present = [number for number, picture in enumerate(pictures) if picture is not None]
    known: NDArray[np.bool_] = np.asarray(np.isfinite(offset).all(axis=1))
    # Where a group was not tied, nothing better than the middle is known of it.
    around = np.where(known[:, None], offset, 0.0)
    step = {number: (round(around[number, 0]), round(around[number, 1])) for number in present}
    if len(present) <= _ITS_OWN:
        tasks: list[tuple[Any, ...]] = []
        for number in present:
            picture = there(pictures, number)
            rest = total.without(picture, offset[number]) if known[number] else total.mean()
            if rest is not None:
                tasks.append((TEMPLATE, rest, [(number, picture)], settings, [step[number]]))
    else:
        others = [(number, pictures[number]) for number in present]
        near = [step[number] for number in present]
        tasks = [(TEMPLATE, total.mean(), others, settings, near)]
    return tuple(edge for edges in measure(tasks) for edge in edges)
