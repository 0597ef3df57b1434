"""From pixels of a detector to those of a screen: a window of an image, binned, and its outline.

Whatever the frames' size, no more than about a screen's pixels travel to the browser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from contourpy import contour_generator
from matplotlib.colors import LogNorm, Normalize
from numpy.typing import NDArray

from stillstack.pictures import display_image

PANEL_PIXELS: Final = 480
"""Most pixels of a side that a panel of the explorer is sent."""

Line = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A part of the detector that is looked at: rows y0 to y1 and columns x0 to x1, px."""

    y0: float
    y1: float
    x0: float
    x1: float

    @classmethod
    def whole(cls, shape: tuple[int, int]) -> Window:
        """All of a frame.

        Parameters
        ----------
        shape
            Rows and columns.
        """
        return cls(-0.5, shape[0] - 0.5, -0.5, shape[1] - 0.5)


@dataclass(frozen=True, eq=False)
class Tile:
    """Pixels for the screen, and the rectangle of the detector that they cover.

    Parameters
    ----------
    pixels
        float32 (y, x), NaN where nothing counts.
    y, x
        Outer edges of its first row and column, px of the detector.
    height, width
        Its extent, px of the detector.
    """

    pixels: NDArray[np.float32]
    y: float
    x: float
    height: float
    width: float


def tile_of(
    image: NDArray[Any],
    window: Window,
    *,
    origin: tuple[int, int] = (0, 0),
    limit: int = PANEL_PIXELS,
) -> Tile:
    """Bin the part of an image that is looked at to at most ``limit`` pixels a side.

    Parameters
    ----------
    image
        (y, x), NaN where a pixel does not count.
    window
        What is looked at.
    origin
        Row and column of the detector that the image's first pixel is.
    limit
        Most rows and columns that are sent.

    Examples
    --------
    >>> tile = tile_of(np.ones((4096, 4096)), Window(1000, 1400, 0, 400))
    >>> tile.pixels.shape, tile.y, tile.height
    ((401, 401), 999.5, 401.0)
    """
    spans = []
    edges = ((window.y0, window.y1), (window.x0, window.x1))
    for (first, last), start, length in zip(edges, origin, image.shape, strict=True):
        low, high = sorted((first - start, last - start))
        begin = int(np.clip(np.floor(low + 0.5), 0, length - 1))
        end = int(np.clip(np.floor(high + 0.5) + 1, begin + 1, length))
        spans.append((begin, end))
    (y0, y1), (x0, x1) = spans
    pixels, factor = display_image(image[y0:y1, x0:x1], limit)
    return Tile(
        np.ascontiguousarray(pixels, np.float32),
        y0 + origin[0] - 0.5,
        x0 + origin[1] - 0.5,
        float(pixels.shape[0] * factor),
        float(pixels.shape[1] * factor),
    )


def outline(valid: NDArray[np.bool_], limit: int = 1024) -> list[Line]:
    """Border between pixels that count and others, and the frame's edge where it counts.

    Parameters
    ----------
    valid
        (y, x), True where a pixel counts.
    limit
        Rows and columns to which larger arrays are binned first.

    Returns
    -------
    list of ndarray of shape (n, 2): closed lines of (y, x), px.

    Examples
    --------
    >>> lines = outline(np.ones((2, 3), bool))
    >>> len(lines), lines[0].min(axis=0), lines[0].max(axis=0)
    (1, array([-0.5, -0.5]), array([1.5, 2.5]))
    """
    if not valid.any():
        return []
    shown, factor = display_image(valid.astype(np.float32), limit)
    padded = np.pad(shown > 0.5, 1).astype(float)
    y, x = (np.arange(length) - 0.5 for length in padded.shape)
    lines = contour_generator(x, y, padded).lines(0.5)
    return [np.asarray(line, float)[:, ::-1] * factor - 0.5 for line in lines]


def limits(norm: Normalize) -> tuple[float, float, bool]:
    """Least and largest value of a colour scale, and whether it is logarithmic.

    Parameters
    ----------
    norm
        As `stillstack.pictures.image_norm` gives it.
    """
    low, high = float(norm.vmin or 0.0), float(norm.vmax or 0.0)
    return low, high if high > low else low + 1.0, isinstance(norm, LogNorm)
