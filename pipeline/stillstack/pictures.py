"""Images as figures: intensity scales suited to diffraction, the valid area as an outline.

Nothing here touches pyplot or a display, so the pictures are the same in a notebook, in the
report and on a machine without a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

INVALID_COLOUR: Final = "#c9ccd1"
IMAGE_COLOURS: Final = "viridis"
DIFFERENCE_COLOURS: Final = "RdBu_r"
PROPOSAL_COLOUR: Final = "#ff8c1a"
_IN_A_ROW: Final = 4


def display_image(image: NDArray[Any], limit: int = 640) -> tuple[NDArray[np.float64], int]:
    """Bin the image to at most `limit` pixels a side; also give the factor.

    NaN pixels do not count; a bin of NaN alone is NaN.

    Examples
    --------
    >>> display_image(np.array([[1.0, 3.0], [np.nan, 2.0]]), limit=1)
    (array([[2.]]), 2)
    """
    factor = max(1, -(-max(image.shape) // limit))
    known = np.isfinite(image)
    values = image if known.all() else np.where(known, image, 0)
    total, count = (_folded(_folded(part, factor).T, factor).T for part in (values, known))
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0), factor


def _folded(image: NDArray[Any], factor: int) -> NDArray[np.float64]:
    """Sums of so many rows each; of fewer at the end."""
    whole = len(image) // factor
    rows = (
        image[: whole * factor].reshape(whole, factor, image.shape[1]).sum(axis=1, dtype=np.float64)
    )
    if whole * factor < len(image):
        rest = image[whole * factor :].sum(axis=0, dtype=np.float64, keepdims=True)
        rows = np.concatenate([rows, rest])
    return np.asarray(rows, np.float64)


def image_norm(*images: NDArray[Any]) -> Normalize:
    """Choose one intensity scale for all images: percentiles, logarithmic where needed.

    Diffraction patterns hold a few pixels a thousand times brighter than the rest: limits are
    the 0.5 and 99.8 percentiles, and the scale is logarithmic where those are further apart
    than a factor of 15 from the median.
    """
    values = np.concatenate([image[np.isfinite(image)].ravel() for image in images])
    if not values.size:
        return Normalize(0.0, 1.0)
    low, middle, high = np.percentile(values, [0.5, 50, 99.8])
    if high <= low:
        return Normalize(low - 0.5, low + 0.5)
    if middle > 0 and high > 15 * middle:
        return LogNorm(max(low, middle / 10), high, clip=True)
    return Normalize(low, high)


def difference_norm(*images: NDArray[Any]) -> Normalize:
    """Choose one scale for all differences: symmetric about zero, 99.5 percentile of magnitude."""
    values = np.concatenate([np.abs(image[np.isfinite(image)]).ravel() for image in images])
    limit = float(np.percentile(values, 99.5)) if values.size else 1.0
    return Normalize(-(limit or 1.0), limit or 1.0)


def draw_image(
    axes: Axes,
    image: NDArray[Any],
    *,
    pixel: int = 1,
    norm: Normalize | None = None,
    colours: str = IMAGE_COLOURS,
    valid: NDArray[np.bool_] | None = None,
    label: str = "counts",
) -> None:
    """Draw an image on `axes` in units of its pixels, with a colour bar.

    Parameters
    ----------
    axes
        Where to draw.
    image
        Image, shape (y, x); NaN is drawn grey. Large images are binned for display.
    pixel
        Pixels of the detector that one pixel of the image is long, where it is binned already.
    norm
        Intensity scale; by default that of `image_norm`.
    colours
        Name of a matplotlib colour map.
    valid
        Outline to draw on the image, True where a pixel counts.
    label
        Label of the colour bar.
    """
    shown, factor = display_image(image)
    height, width = (factor * pixel * length for length in shown.shape)
    picture = axes.imshow(
        shown,
        norm=norm or image_norm(shown),
        cmap=mpl.colormaps[colours].with_extremes(bad=INVALID_COLOUR),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest" if max(shown.shape) < 200 else "antialiased",
    )
    axes.set(xlabel="x (px)", ylabel="y (px)")
    axes.set_xlim(-0.5, pixel * image.shape[1] - 0.5)
    axes.set_ylim(pixel * image.shape[0] - 0.5, -0.5)
    if valid is not None:
        draw_outline(axes, valid)
    figure = axes.figure
    bar = figure.colorbar(picture, ax=axes, fraction=0.05, pad=0.02, aspect=28)
    bar.set_label(label)
    bar.outline.set_visible(False)


def draw_outline(
    axes: Axes, valid: NDArray[np.bool_], colour: str = "#ff4fa3", line: str = "solid"
) -> None:
    """Draw the border between valid and other pixels, and the frame's edge where it is valid."""
    shown, factor = display_image(valid.astype(float), limit=1024)
    padded = np.pad(shown > 0.5, 1)
    y, x = ((np.arange(length) - 0.5) * factor - 0.5 for length in padded.shape)
    if padded.any():
        axes.contour(x, y, padded, levels=[0.5], colors=colour, linewidths=1.2, linestyles=line)


def plot_image(image: NDArray[Any], *, title: str = "", **options: Any) -> Figure:
    """Figure of one image; options as for `draw_image`."""
    figure = Figure(figsize=(5.6, 4.5), layout="compressed")
    axes = figure.add_subplot()
    draw_image(axes, image, **options)
    axes.set_title(title, fontsize="medium", loc="left")
    return figure


def plot_images(
    *images: NDArray[Any],
    titles: Sequence[str],
    difference: bool = False,
    one_scale: bool = True,
    valid: NDArray[np.bool_] | None = None,
    label: str = "counts",
) -> Figure:
    """Figure of images side by side, four in a row.

    Parameters
    ----------
    *images
        Images, shape (y, x) each; NaN is drawn grey.
    titles
        One for each.
    difference
        Draw them as differences: red above zero, blue below.
    one_scale
        Whether all have the same intensity scale.
    valid
        Outline to draw on each, True where a pixel counts.
    label
        Label of the colour bars.
    """
    columns = min(len(images), _IN_A_ROW)
    rows = -(-len(images) // columns)
    side = {1: 4.4, 2: 4.2, 3: 3.2}.get(columns, 2.5)
    figure = Figure(figsize=((side + 0.9) * columns, (side + 0.3) * rows), layout="compressed")
    shown = [display_image(image)[0] for image in images]
    scale = difference_norm if difference else image_norm
    norms = [scale(*shown)] * len(images) if one_scale else [scale(image) for image in shown]
    colours = DIFFERENCE_COLOURS if difference else IMAGE_COLOURS
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, image, norm, title in zip(places, images, norms, titles, strict=False):
        draw_image(axes, image, norm=norm, colours=colours, valid=valid, label=label)
        axes.set_title(title, fontsize="medium", loc="left")
    for axes in places[len(images) :]:
        axes.set_axis_off()
    return figure


def plot_valid(
    image: NDArray[Any],
    valid: NDArray[np.bool_],
    *,
    proposed: NDArray[np.bool_] | None = None,
    title: str = "",
    label: str = "counts",
) -> Figure:
    """Figure of an image with its valid area outlined and the rest veiled.

    Parameters
    ----------
    image
        Image, shape (y, x).
    valid
        True where a pixel counts.
    proposed
        True inside what may be a beam-block: drawn dashed.
    title
        Above the picture, before what the lines mean.
    label
        Label of the colour bar.
    """
    figure = Figure(figsize=(7.2, 6.2), layout="compressed")
    axes = figure.add_subplot()
    draw_image(axes, image, label=label)
    excluded = np.ma.masked_where(valid, np.ones(valid.shape))
    axes.imshow(excluded, cmap="gray", vmin=0, vmax=2, alpha=0.55, interpolation="nearest")
    draw_outline(axes, valid)
    words = [f"Outlined: the valid area, {valid.mean():.1%} of the pixels; the rest is veiled."]
    if proposed is not None:
        draw_outline(axes, proposed, PROPOSAL_COLOUR, "dashed")
        words.append("Dashed: looks like a beam-block that is not excluded.")
    lines = [title, *words] if title else words
    axes.set_title("\n".join(lines), fontsize="medium", loc="left")
    return figure
