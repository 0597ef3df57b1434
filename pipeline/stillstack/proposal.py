"""A beam-block proposed from an image, and a figure round it to copy into a config.

The proposal is made to be looked at: it applies only when a person has put it into the config.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

Inside = NDArray[np.bool_]

# The search is made on an image of about this size: a beam-block is large, and noise averages out.
_SEARCH_PX: Final = 384
_LEVELS: Final = np.geomspace(0.02, 0.6, 22)
# How much a shadow may grow where the threshold does by half (scenes grow by 40 % and more), how
# much brighter its surroundings are, and the least and largest share of the image it may take.
_GROWTH: Final = 0.2
_CONTRAST: Final = 4.0
# Least share of its convex hull that it fills: a rod with a disc fills a half and more.
_COMPACT: Final = 0.4
# From this share of its bounding box on, a part is described as a rectangle.
_FILLED: Final = 0.93
# More vertices than this are traded for a wider margin, as long as the figure stays this close.
_MANY_VERTICES: Final = 20
_LARGEST_GROWTH: Final = 1.25
_LEAST_SHARE: Final = 0.003
_MOST_SHARE: Final = 0.3


def propose_beam_block(image: NDArray[Any]) -> Inside:
    """Return True inside what is probably a beam-block; nowhere, if nothing looks like one.

    A shadow is told from a dark part of the scene by its edge: as a threshold rises, the dark part
    that is joined to the border hardly grows, and what surrounds it is several times brighter.

    Parameters
    ----------
    image
        Frames (n, y, x) spread over the run, whose mean is looked at: what moves blurs, what stands
        still does not. Or one image (y, x).

    Returns
    -------
    ndarray of bool, shape (y, x).

    Examples
    --------
    >>> image = np.full((64, 64), 50.0)
    >>> image[:40, 28:36] = 2
    >>> bool(propose_beam_block(image)[:38, 29:35].all())
    True
    """
    mean: NDArray[Any] = image if image.ndim == 2 else image.mean(axis=0, dtype=np.float64)
    step = max(1, round(max(mean.shape) / _SEARCH_PX))
    smooth = ndimage.gaussian_filter(ndimage.median_filter(_binned(mean, step), 3), 1.0)
    bright = smooth - np.percentile(smooth, 0.2)
    # Behind a halo that falls off, a shadow is dark beside its surroundings only.
    shadows = _shadows(bright) or [
        shadow
        for shadow in _shadows(_beside_surroundings(bright))
        if shadow.mean() > 3 * _LEAST_SHARE
    ]
    found = np.logical_or.reduce([np.zeros(smooth.shape, bool), *shadows])
    penumbra = ndimage.binary_dilation(found)
    inside = np.kron(penumbra, np.ones((step, step), bool))
    return inside[: mean.shape[0], : mean.shape[1]]


def _beside_surroundings(bright: NDArray[np.float32]) -> NDArray[np.float32]:
    middle = float(np.median(bright))
    scene = np.minimum(bright, 3 * middle)  # a spot does not light up its surroundings
    around = ndimage.gaussian_filter(scene, 0.06 * max(bright.shape))
    beside: NDArray[np.float32] = bright / np.maximum(around + 0.05 * middle, np.float32(1e-12))
    return beside


def _binned(image: NDArray[Any], step: int) -> NDArray[np.float32]:
    """Mean over squares of ``step`` pixels; those at the far edges are made up by repetition."""
    finite = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    missing = [(0, -size % step) for size in image.shape]
    padded = np.pad(finite, missing, mode="edge")
    rows, columns = padded.shape[0] // step, padded.shape[1] // step
    binned: NDArray[np.float32] = padded.reshape(rows, step, columns, step).mean(axis=(1, 3))
    return binned


def _shadows(image: NDArray[np.float32]) -> list[Inside]:
    """Find the dark parts that end at an edge, the widest outline of each."""
    masks = [_border_parts(image < level * float(np.median(image))) for level in _LEVELS]
    ahead = int(np.ceil(np.log(1.5) / np.log(_LEVELS[1] / _LEVELS[0])))
    found: list[Inside] = []
    for labels, wider in reversed(list(zip(masks[:-ahead], masks[ahead:], strict=True))):
        sizes, wider_sizes = np.bincount(labels.ravel()), np.bincount(wider.ravel())
        for label in 1 + np.flatnonzero(sizes[1:] > _LEAST_SHARE * image.size):
            part = labels == label
            grown = wider_sizes[wider[part][0]] / sizes[label] - 1
            if sizes[label] < _MOST_SHARE * image.size and grown < _GROWTH:
                known = any((part & other).any() for other in found)
                if not known and _is_block(part) and _surrounded_by_light(part, image):
                    found.append(part)
    return found


def _surrounded_by_light(part: Inside, image: NDArray[np.float32]) -> bool:
    near = ndimage.binary_dilation(part, iterations=3)
    ring = ndimage.binary_dilation(near, iterations=3) & ~near
    dark = max(float(np.median(image[part])), 0.0)
    # Differences over 4 px: what has been smoothed by 1 px is independent there.
    noise = 1.4826 / np.sqrt(2) * float(np.median(np.abs(image[4:] - image[:-4])))
    light = float(np.percentile(image[ring], 25)) if ring.any() else 0.0
    return bool(light > _CONTRAST * (dark + noise))


def _is_block(part: Inside) -> bool:
    """True for a compact part outside the image's corners, where many scenes end in the dark."""
    in_corner = bool(part[[0, 0, -1, -1], [0, -1, 0, -1]].any())
    hull = float(ConvexHull(_outline_points(part)).volume)
    return not in_corner and int(part.sum()) > _COMPACT * hull


def _outline_points(part: Inside) -> NDArray[np.float64]:
    """Corners (y, x) of the first and last pixel of every row, as squares round their centres."""
    rows = np.flatnonzero(part.any(axis=1))
    first = part[rows].argmax(axis=1)
    last = part.shape[1] - 1 - part[rows, ::-1].argmax(axis=1)
    return np.array(
        [
            (row + down, column + across)
            for row, left, right in zip(rows, first, last, strict=True)
            for down in (-0.5, 0.5)
            for column, across in ((left, -0.5), (right, 0.5))
        ]
    )


def _border_parts(dark: Inside) -> NDArray[np.int32]:
    """Label the parts of ``dark`` that touch the image's border; 0 elsewhere."""
    labels, count = ndimage.label(dark)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    kept = np.isin(np.arange(count + 1), edge[edge > 0])
    parts: NDArray[np.int32] = np.where(kept[labels], labels, 0)
    return parts


def describe_region(region: Inside, margin_px: float = 2.0) -> str:
    """Return YAML of rectangles or polygons of few vertices round a region, to copy into a config.

    Parameters
    ----------
    region
        True inside, such as `propose_beam_block` returns.
    margin_px
        How far the figures reach beyond the region, px.

    Returns
    -------
    str
        The section ``valid.frames.exclude``; empty, if the region is.

    Examples
    --------
    >>> region = np.zeros((100, 100), bool)
    >>> region[:61, 46:61] = True
    >>> print(describe_region(region, margin_px=1))
    valid:
      frames:
        exclude:
          - rectangle: [0, 62, 45, 62]
    """
    labels, count = ndimage.label(region, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=1)
    parts = 1 + np.flatnonzero(sizes[1:] > 0.001 * sizes[1:].sum())
    lines = [f"      - {_figure(labels == part, margin_px)}" for part in parts]
    return "\n".join(["valid:", "  frames:", "    exclude:", *lines]) if count else ""


def _figure(part: Inside, margin_px: float) -> str:
    down, across = ndimage.find_objects(part.astype(np.uint8))[0]
    if part[down, across].mean() > _FILLED:
        margin = int(np.ceil(margin_px))
        y0, y1 = max(down.start - margin, 0), min(down.stop + margin, part.shape[0])
        x0, x1 = max(across.start - margin, 0), min(across.stop + margin, part.shape[1])
        return f"rectangle: [{y0}, {y1}, {x0}, {x1}]"
    # Beyond the image's border too, or simplifying would cut off what touches it.
    beyond = int(np.ceil(8 * margin_px))
    away = ndimage.distance_transform_edt(~np.pad(part, beyond))
    vertices = _polygon(away <= margin_px, 0.8 * margin_px)
    while len(vertices) > _MANY_VERTICES and margin_px * 1.5 < beyond:
        margin_px *= 1.5
        wider = away <= margin_px
        if _within(wider, beyond).sum() > _LARGEST_GROWTH * part.sum():
            break
        vertices = _polygon(wider, 0.8 * margin_px)
    return "polygon: [" + ", ".join(f"[{y - beyond}, {x - beyond}]" for y, x in vertices) + "]"


def _within(padded: Inside, beyond: int) -> Inside:
    return padded[beyond : padded.shape[0] - beyond, beyond : padded.shape[1] - beyond]


def _polygon(part: Inside, tolerance_px: float) -> list[tuple[int, int]]:
    """Vertices (y, x), read along the axis on which less has to be filled in."""
    if _filled_rows(part).sum() <= _filled_rows(part.T).sum():
        return _outline(part, tolerance_px)
    return [(y, x) for x, y in _outline(part.T, tolerance_px)]


def _filled_rows(part: Inside) -> Inside:
    filled: Inside = np.logical_or.accumulate(part, axis=1)
    filled &= np.logical_or.accumulate(part[:, ::-1], axis=1)[:, ::-1]
    return filled


def _outline(part: Inside, tolerance_px: float) -> list[tuple[int, int]]:
    """Vertices (y, x) round a part whose rows are intervals; half-open, as rectangles are."""
    rows = np.flatnonzero(part.any(axis=1))
    left = part[rows].argmax(axis=1)
    right = part.shape[1] - part[rows, ::-1].argmax(axis=1)
    sides = []
    for side in (left, right):
        ends = np.append(rows, rows[-1] + 1), np.append(side, side[-1])
        sides.append(_simplified(np.stack(ends, axis=1), tolerance_px))
    return [(int(y), int(x)) for y, x in (*sides[0], *sides[1][::-1])]


def _simplified(line: NDArray[np.int64], tolerance_px: float) -> NDArray[np.int64]:
    """Fewest vertices found with which a line stays within the tolerance (Douglas-Peucker)."""
    kept = np.zeros(len(line), bool)
    kept[[0, -1]] = True
    pieces = [(0, len(line) - 1)]
    while pieces:
        start, stop = pieces.pop()
        along = line[stop] - line[start]
        points = line[start : stop + 1] - line[start]
        away = np.abs(points[:, 0] * along[1] - points[:, 1] * along[0])
        away = away / max(float(np.hypot(*along)), 1e-12)
        farthest = start + int(away.argmax())
        if away.max() > tolerance_px and start < farthest < stop:
            kept[farthest] = True
            pieces += [(start, farthest), (farthest, stop)]
    return line[kept]
