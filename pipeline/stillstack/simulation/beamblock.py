"""The beam-block in front of a simulated scene: a rod up to a disc round the centre."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]
Valid = NDArray[np.bool_]


@dataclass(frozen=True)
class BeamBlock:
    """Where the beam-block is: a rod from the last row up to a disc round the centre.

    ``rod`` is the rectangle (y0, y1, x0, x1), its ends excluded; ``disc`` is (y, x, radius).
    """

    rod: tuple[int, int, int, int]
    disc: tuple[float, float, float]

    @property
    def figures(self) -> list[dict[str, list[float]]]:
        """What a config excludes: ``valid: {frames: {exclude: ...}}``."""
        return [{"rectangle": list(self.rod)}, {"circle": list(self.disc)}]


def beam_block_figure(shape: tuple[int, int], margin_px: float = 0.0) -> BeamBlock:
    """Rectangle and circle of the beam-block, grown by a margin.

    Examples
    --------
    >>> beam_block_figure((200, 100))
    BeamBlock(rod=(99, 200, 48, 52), disc=(99.5, 49.5, 8.0))
    """
    y, x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    half_width = 0.02 * min(shape) + margin_px
    left = max(round(x + 0.5 - half_width), 0)
    right = min(round(x + 0.5 + half_width), shape[1])
    return BeamBlock((int(y), shape[0], left, right), (y, x, 0.08 * min(shape) + margin_px))


def _inside(shape: tuple[int, int], figure: BeamBlock) -> Valid:
    y0, y1, x0, x1 = figure.rod
    y, x, radius = figure.disc
    down, across = np.ogrid[: shape[0], : shape[1]]
    inside: Valid = np.hypot(down - y, across - x) <= radius
    inside[y0:y1, x0:x1] = True
    return inside


def beam_block(shape: tuple[int, int]) -> Image:
    """Fraction of the counts that reaches each pixel: 0 behind the beam-block, 1 elsewhere.

    Examples
    --------
    >>> float(beam_block((64, 64))[32, 32])
    0.0
    """
    return transmission(tuple(shape)).copy()


@lru_cache(maxsize=4)
def transmission(shape: tuple[int, int]) -> Image:
    """Return what `beam_block` returns, made once a shape and read-only: all frames share it."""
    through = np.where(_inside(shape, beam_block_figure(shape)), 0.0, 1.0)
    through.setflags(write=False)
    return through


def beam_block_valid(shape: tuple[int, int], margin_px: float = 2.0) -> Valid:
    """Return True where a pixel counts: outside the beam-block grown by a margin.

    Examples
    --------
    >>> bool(beam_block_valid((64, 64))[0, 0])
    True
    """
    return ~_inside(shape, beam_block_figure(shape, margin_px))
