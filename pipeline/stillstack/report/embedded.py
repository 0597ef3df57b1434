"""Pictures as bytes inside the page: small, and without a file beside it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, Final

import matplotlib.image
from matplotlib.figure import Figure
from numpy.typing import NDArray

_DPI: Final = 130
# Noise is what images are full of and what PNG cannot make small: a sixth of the bytes, and at this
# quality no difference that the eye sees.
_LOSSY: Final = {"quality": 88, "method": 4}
_SMALL: Final = {"quality": 72, "method": 4}
_LOSSLESS: Final = {"lossless": True, "quality": 60}


@dataclass(frozen=True)
class Picture:
    """An image of the page: where its bytes are, what it shows, what is said under it."""

    source: str
    shows: str
    caption: str = ""


def drawn(figure: Figure, shows: str, caption: str = "", *, image: bool = False) -> Picture:
    """Picture of a figure, compressed without loss unless it is an image of noisy counts."""
    buffer = io.BytesIO()
    options = _LOSSY if image else _LOSSLESS
    figure.savefig(buffer, format="webp", dpi=_DPI, pil_kwargs=options)
    return Picture(_data_uri(buffer.getvalue()), shows, caption)


def thumbnail(pixels: NDArray[Any]) -> str:
    """Address of a small image of colours (y, x, 4), uint8, that holds its bytes."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format="webp", pil_kwargs=_SMALL)
    return _data_uri(buffer.getvalue())


def _data_uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"
