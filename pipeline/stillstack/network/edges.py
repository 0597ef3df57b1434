"""Measurements between the images of groups, and which of them are worth making.

An *edge* says where one image lies relative to another. Groups are compared with the mean of all,
the *template*, and with neighbours on all scales: at the distance d = 1, 2, 4, 8 ... from every
(d/2)-th group. So there are fewer than four edges a group, however many groups there are, and any
two groups are joined by a path of at most a few times log2(n) edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.kernels.registration import Reference, prepare_reference, register_frame
from stillstack.model import REJECTING, Status
from stillstack.reference_image import ReferenceImage

TEMPLATE: Final = -1
"""Number that stands for the mean of all groups."""

# What a user asks of a frame says nothing about means of many.
_OF_FRAMES: Final = ("min_ncc", "below", "above", "equal")


@dataclass(frozen=True, eq=False)
class Edge:
    """One measurement: the shift that takes image ``j`` onto image ``i``.

    Parameters
    ----------
    i, j
        Numbers of the two groups; ``i`` may be ``TEMPLATE``.
    shift
        (y, x) to apply to image j, px: offset of j less offset of i. NaN where rejected.
    covariance
        (2, 2) of its error, px^2, from the noise of both images and what they do not share.
    status
        Bits of :class:`stillstack.model.Status`.
    share
        Part of the noise's variance that is image j's.
    """

    i: int
    j: int
    shift: NDArray[np.float64]
    covariance: NDArray[np.float64]
    status: int
    share: float = 0.5

    @property
    def good(self) -> bool:
        """Whether the shift may be used."""
        return not self.status & REJECTING


def neighbour_pairs(n_groups: int, farthest: int | str = "all") -> dict[int, tuple[int, ...]]:
    """Pairs of groups to compare: for each reference the groups that are registered to it.

    Parameters
    ----------
    n_groups
        Number of groups.
    farthest
        Largest distance, or ``"all"``.

    Examples
    --------
    >>> neighbour_pairs(6)
    {0: (1, 2, 4), 1: (2, 3), 2: (3, 4), 3: (4, 5), 4: (5,)}
    >>> sum(len(others) for others in neighbour_pairs(1000).values()) < 4000
    True
    """
    limit = n_groups - 1 if isinstance(farthest, str) else min(int(farthest), n_groups - 1)
    pairs: dict[int, list[int]] = {}
    distance = 1
    while distance <= limit:
        for first in range(0, n_groups - distance, max(1, distance // 2)):
            pairs.setdefault(first, []).append(first + distance)
        distance *= 2
    return {first: tuple(others) for first, others in sorted(pairs.items())}


def measure_edges(
    reference: int,
    picture: ReferenceImage | None,
    others: Sequence[tuple[int, ReferenceImage | None]],
    settings: Mapping[str, Any],
    near: Sequence[tuple[int, int]] | None = None,
) -> tuple[Edge, ...]:
    """Edges between one image and others, which are registered to it.

    To prepare an image costs as much as to register a hundred, so all that share one belong into
    one task.

    Parameters
    ----------
    reference
        Number of the image that the others are registered to, or ``TEMPLATE``.
    picture
        That image; None where the group has none.
    others
        Number and image of each of the others.
    settings
        Keywords of :func:`~stillstack.kernels.registration.prepare_reference`: what frames are
        registered with. Limits on single frames' values and correlation are not used.
    near
        Where each of the others is expected, whole px: ``max_shift_px`` is counted from there.

    Returns
    -------
    tuple of Edge
        One for each of the others. What cannot be compared has a status and a NaN shift.

    Examples
    --------
    >>> from stillstack.reference_image import ReferenceImage
    >>> y, x = np.mgrid[:96, :96]
    >>> def group(at):
    ...     spot = 100 * np.exp(-((y - at) ** 2 + (x - 48) ** 2) / 200) + 5
    ...     image = np.random.default_rng(int(at)).poisson(spot * 50) / 50
    ...     return ReferenceImage(image.astype("f4"), np.ones((96, 96), bool), 50)
    >>> (edge,) = measure_edges(0, group(48), [(1, group(45))], {"max_shift_px": 8})
    >>> edge.shift.round(1) + 0.0, edge.good
    (array([3., 0.]), True)
    """
    steps = [(0, 0)] * len(others) if near is None else list(near)
    n_other = _typical(other for _, other in others)
    prepared = None if picture is None else _prepared(picture, n_other, settings)
    edges = []
    for (number, other), step in zip(others, steps, strict=True):
        if prepared is None or picture is None or other is None or not other.valid.any():
            edges.append(_nothing(reference, number, int(Status.BLANK)))
            continue
        here = other.displaced(step) if any(step) else other
        found = register_frame(here.image, prepared, here.valid)
        if not found.good:
            edges.append(_nothing(reference, number, found.status))
            continue
        y, x = (float(value) for value in found.shift_std)
        covariance = np.array([[y * y, found.shift_corr * y * x], [0.0, x * x]])
        covariance[1, 0] = covariance[0, 1]
        share = picture.n_frames / (picture.n_frames + other.n_frames)
        # The registration's error is the frame's part alone; the reference is as noisy as its
        # number of frames says.
        covariance /= share
        shift = found.shift + np.array(step, np.float64)
        edges.append(Edge(reference, number, shift, covariance, found.status, share))
    return tuple(edges)


def _typical(pictures: Any) -> float:
    numbers = [picture.n_frames for picture in pictures if picture is not None]
    return float(np.median(numbers)) if numbers else 1.0


def _prepared(
    picture: ReferenceImage, n_other: float, settings: Mapping[str, Any]
) -> Reference | None:
    """Reference for images that are themselves means: their noise is that much smaller."""
    chosen = {key: value for key, value in settings.items() if key not in _OF_FRAMES}
    gain, read_noise = chosen.pop("gain", 1.0), chosen.pop("read_noise", 0.0)
    try:
        return prepare_reference(
            picture.image,
            picture.valid,
            frame_valid=np.ones(picture.valid.shape, np.bool_),
            n_frames=picture.n_frames / n_other,
            gain=gain / n_other,
            read_noise=read_noise / n_other**0.5,
            **chosen,
        )
    except InputError:
        # Blank, or almost nothing of it valid: a group without edges, which is reported as such.
        return None


def _nothing(i: int, j: int, status: int) -> Edge:
    return Edge(i, j, np.full(2, np.nan), np.full((2, 2), np.nan), status)
