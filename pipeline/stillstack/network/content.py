"""Motion told from changing content: the offsets that make the images the simplest family.

Where intensities change, an image registered to one of another content is drawn aside: what
changed is not orthogonal to the gradient of the image wherever the beam-block or the border cuts a
feature, or features overlap. All references are drawn alike, so no loop shows it, and rings that
fade over three days look like a slow drift.

But a pattern that moves is told from one that changes when there are many images. Aligned, all are
mixtures of a few patterns, ``image_k = sum of a_kr pattern_r``: as a matrix, one row an image, they
have low rank. A wrong offset adds a gradient to its row and raises the rank. So the offsets are
those that leave least outside the best approximation of rank r (separable least squares:
G. H. Golub and V. Pereyra, Inverse Problems 19, R1 (2003), doi:10.1088/0266-5611/19/2/201): with
the whitened images Y = U S V^T, P = 1 - U U^T and the gradients g_k along y and x, projected away
from V, Gauss-Newton solves

    sum over l of P_kl <g_k, g_l> d_l = <g_k, (P Y)_k>

The rank is the smallest that leaves nothing but noise. What the images cannot tell (two contents
alone can be moved against each other at will) stays as the measurements between them had it, with
their error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter

from stillstack.network.edges import TEMPLATE, Edge
from stillstack.network.images import MeanImage, moved, there
from stillstack.network.solve import Offsets
from stillstack.reference_image import ReferenceImage

Floats = NDArray[np.float64]

# Images compared at once. Neighbours are averaged to so many: memory and time stay bounded.
_FAMILY: Final = 32
_FEWEST: Final = 4
_SIDE_PX: Final = 1024
# Interpolation damps noise by what depends on the fraction of a pixel. This much smoothing makes
# all rows equally noisy, and its square times 4 pi pixels share one value.
_SMOOTHING_PX: Final = 1.0
_MARGIN_PX: Final = 5
_LEAST_SUPPORT: Final = 0.05
_ROUNDS: Final = 20
# A step under this part of the error changes nothing that matters.
_SETTLED: Final = 0.1
# Singular values of noise have an edge (V. A. Marchenko and L. A. Pastur, 1967); beyond it by this.
_BEYOND_EDGE: Final = 1.1
_OBVIOUS: Final = 10.0
# The measurements count as so many times less sure than they say: their noise is the images' own,
# which must not enter twice.
_PRIOR_SIGMAS: Final = 3.0


@dataclass(frozen=True, eq=False)
class _Family:
    """Images of neighbouring groups, averaged, and where they are.

    ``members`` are the groups of each, ``factor`` px are binned to one.
    """

    pictures: tuple[ReferenceImage, ...]
    members: tuple[NDArray[np.int64], ...]
    factor: int
    prior: Floats


@dataclass(frozen=True, eq=False)
class _Rows:
    """Whitened images, one a row, and their gradients: (k, p) and (k, axis, p)."""

    values: Floats
    gradients: Floats


@dataclass(frozen=True, eq=False)
class _Settled:
    """Corrections of the family's offsets, px binned, their covariance (2k, 2k), and the rank."""

    correction: Floats
    covariance: Floats
    rank: int
    explained: bool


def settle_content(
    pictures: Sequence[ReferenceImage | None],
    offsets: Offsets,
    edges: Sequence[Edge],
    patterns: int = 4,
) -> Offsets:
    """Offsets corrected for what changing content did to the measurements.

    Parameters
    ----------
    pictures
        Image of each group.
    offsets
        From :func:`~stillstack.network.solve.solve_offsets`.
    edges
        What these were solved from; those to the template say how unlike the images are.
    patterns
        Most patterns that the content may be a mixture of.

    Returns
    -------
    Offsets
        As they were, with a note, where fewer than four groups have one, or too few pixels are
        valid in all of them.
    """
    known = np.flatnonzero(offsets.known)
    if known.size < _FEWEST:
        return offsets
    family = _family(pictures, offsets, edges, known)
    support = _support(family)
    if support.mean() < _LEAST_SUPPORT:
        note = (
            f"{100 * support.mean():.2g} % of the pixels are valid in all groups: too few to "
            "tell motion from changing content"
        )
        return replace(offsets, notes=(*offsets.notes, note))
    return _corrected(offsets, family, _settle(family, support, patterns))


def _family(
    pictures: Sequence[ReferenceImage | None],
    offsets: Offsets,
    edges: Sequence[Edge],
    known: NDArray[np.int64],
) -> _Family:
    members = tuple(np.array_split(known, min(known.size, _FAMILY)))
    variance = np.full(len(pictures), np.nan)
    for edge in edges:
        if edge.i == TEMPLATE and edge.good:
            variance[edge.j] = np.trace(edge.covariance) / 2
    if np.isnan(variance).all():
        variance[:] = np.trace(offsets.covariance, axis1=1, axis2=2) / 2
    variance[np.isnan(variance)] = np.nanmax(variance)
    means = []
    factor = 1
    for groups in members:
        total = MeanImage(there(pictures, int(groups[0])).image.shape)
        for group in groups:
            total.add(there(pictures, int(group)), offsets.offset[group])
        factor = -(-max(total.shape) // _SIDE_PX)
        means.append(_binned(total.mean(), factor))
    prior = _PRIOR_SIGMAS * np.sqrt([variance[groups].mean() for groups in members]) / factor
    return _Family(tuple(means), members, factor, prior)


def _binned(picture: ReferenceImage, factor: int) -> ReferenceImage:
    if factor == 1:
        return picture
    height, width = (side // factor for side in picture.image.shape)
    bins = (slice(0, height * factor), slice(0, width * factor))
    shape = (height, factor, width, factor)
    image = np.where(picture.valid, picture.image, np.float32(0))[bins].reshape(shape)
    valid = np.asarray(picture.valid[bins].reshape(shape).all(axis=(1, 3)))
    return ReferenceImage(
        image.mean(axis=(1, 3)).astype(np.float32), valid, picture.n_frames * factor**2
    )


def _support(family: _Family) -> NDArray[np.bool_]:
    """Pixels that count in all images, and still do after a small move."""
    common = np.logical_and.reduce([picture.valid for picture in family.pictures])
    return np.asarray(binary_erosion(common, iterations=_MARGIN_PX, border_value=0))


def _settle(family: _Family, support: NDArray[np.bool_], patterns: int) -> _Settled:
    k = len(family.pictures)
    correction, rank, before = np.zeros((k, 2)), 1, np.inf
    prior = np.repeat(family.prior**-2.0, 2)
    for _ in range(_ROUNDS):
        rows = _rows(family, support, correction)
        normal, right, excess = _equations(rows, rank)
        normal[np.diag_indices(2 * k)] += prior
        step = np.linalg.solve(normal, right - prior * correction.ravel())
        correction = correction + step.reshape(k, 2)
        covariance: Floats = np.asarray(np.linalg.inv(normal), np.float64)
        settled = np.all(np.abs(step) < _SETTLED * np.sqrt(np.diag(covariance)))
        # What better offsets would still explain is no pattern of its own.
        stays = excess > _OBVIOUS and excess > 0.5 * before
        before = excess
        if rank < min(patterns, k - 3) and (stays or (settled and excess > 1.0)):
            rank, before = rank + 1, np.inf
        elif settled:
            break
    return _Settled(correction, covariance, rank, excess <= 1.0)


def _rows(family: _Family, support: NDArray[np.bool_], correction: Floats) -> _Rows:
    values, gradients = [], []
    for picture, shift in zip(family.pictures, correction, strict=True):
        now = moved(picture, shift)
        image = np.where(now.valid, now.image, 0.0)
        smooth = [
            gaussian_filter(image, _SMOOTHING_PX, order=order)[support]
            for order in ((0, 0), (1, 0), (0, 1))
        ]
        values.append(smooth[0])
        gradients.append(smooth[1:])
    rows, slopes = np.array(values), np.array(gradients)
    # Counting noise: its variance is as the counts over the number of frames.
    level = rows.mean(axis=0)
    weight = 1.0 / np.sqrt(np.maximum(level, 1e-3 * max(float(level.mean()), 1e-12)))
    repeat = np.sqrt([float(picture.n_frames) for picture in family.pictures])
    rows = rows * weight * repeat[:, None]
    slopes = slopes * weight * repeat[:, None, None]
    # Each image has a background of its own, with a slope.
    y, x = (along - along.mean() for along in np.nonzero(support))
    smooth_part, _ = np.linalg.qr(np.stack([weight, weight * y, weight * x], axis=1))
    return _Rows(
        rows - (rows @ smooth_part) @ smooth_part.T,
        slopes - (slopes @ smooth_part) @ smooth_part.T,
    )


def _equations(rows: _Rows, rank: int) -> tuple[Floats, Floats, float]:
    """Normal matrix and right side in units of the noise, and what is left over its edge."""
    k, p = rows.values.shape
    power, vectors = np.linalg.eigh(rows.values @ rows.values.T)
    power = power[::-1]
    mixture = vectors[:, ::-1][:, :rank]
    pattern = mixture.T @ rows.values
    left = rows.values - mixture @ pattern
    pattern /= np.sqrt(np.maximum(power[:rank], 1e-300))[:, None]
    # Gradients of the patterns, not of the images: noise is averaged, and leaves ``left`` alone.
    gradient = np.einsum("kl,lap->kap", mixture @ mixture.T, rows.gradients)
    gradient -= (gradient @ pattern.T) @ pattern
    outside = np.eye(k) - mixture @ mixture.T
    flat = gradient.reshape(2 * k, p)
    normal = (flat @ flat.T).reshape(k, 2, k, 2) * outside[:, None, :, None]
    right = np.einsum("kap,kp->ka", gradient, left).ravel()
    area = 4.0 * np.pi * _SMOOTHING_PX**2
    noise = max(float((left**2).sum()) / ((k - rank) * p) * area, 1e-300)
    edge = (1.0 + np.sqrt(k / (p / area))) ** 2 * _BEYOND_EDGE
    excess = float(power[rank] / max(float(np.median(power[rank:])), 1e-300) / edge)
    return normal.reshape(2 * k, 2 * k) / noise, right / noise, excess


def _corrected(offsets: Offsets, family: _Family, settled: _Settled) -> Offsets:
    """Offsets with the family's corrections, between its members by linear interpolation."""
    k = len(family.members)
    # The template stays where it was: the mean of all images is the origin.
    weight = np.array([float(picture.n_frames) for picture in family.pictures])
    centred = np.eye(k) - weight / weight.sum()
    correction = centred @ settled.correction * family.factor
    spread = settled.covariance.reshape(k, 2, k, 2)
    spread = np.einsum("ij,jakb,lk->ialb", centred, spread, centred)
    own = spread[np.arange(k), :, np.arange(k), :] * family.factor**2
    covariance = offsets.covariance.copy()
    for groups, part in zip(family.members, own, strict=True):
        alone = groups.size == 1
        covariance[groups] = part if alone else covariance[groups] + part
    known = np.flatnonzero(offsets.known)
    middle = np.array([groups.mean() for groups in family.members])
    moved_by = np.stack([np.interp(known, middle, along) for along in correction.T], axis=1)
    offset = offsets.offset.copy()
    offset[known] += moved_by
    note = (
        f"content: the references are mixtures of {settled.rank} "
        + ("pattern" if settled.rank == 1 else "patterns")
        + ("" if settled.explained else " and of more that are left over")
        + f"; offsets corrected by up to {np.abs(moved_by).max():.2g} px"
    )
    return replace(offsets, offset=offset, covariance=covariance, notes=(*offsets.notes, note))
