"""What valid pixels are drawn on: frames of a stack, and their mean."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.config.valid import ValidConfig
from stillstack.explore.config_edit import ConfigFile
from stillstack.explore.drawing import Drawing
from stillstack.explore.frames import ReadFrame
from stillstack.inspection import typical_frame
from stillstack.model import FRAME
from stillstack.sampling import ordinary_frames, spread_numbers, take_sample
from stillstack.sources import corrected, open_source
from stillstack.valid import valid_from_config

SAMPLED: Final = 5


@dataclass(frozen=True, eq=False)
class Scenery:
    """Frames to draw on.

    Parameters
    ----------
    name
        What a title calls them.
    n_frames
        How many there are.
    typical
        (y, x), mean of a few frames spread over the stack.
    sample
        Those frames, (n, y, x), as they were recorded.
    read
        Reads the frame of a number.
    drawing
        To begin with.
    file
        The config that it is written into; None where there is none.
    """

    name: str
    n_frames: int
    typical: NDArray[np.float64]
    sample: NDArray[Any]
    read: ReadFrame
    drawing: Drawing
    file: ConfigFile | None

    def counts(self, spec: ValidConfig) -> NDArray[np.bool_]:
        """Pixels (y, x) whose sampled values count by the rules below, above and equal.

        Parameters
        ----------
        spec
            With the rules.
        """
        rules = ValidConfig(below=spec.below, above=spec.above, equal=spec.equal)
        shape = (self.typical.shape[0], self.typical.shape[1])
        return valid_from_config(rules, shape, sample=self.sample)


def scenery_of_config(path: str | Path) -> Scenery:
    """Frames of a config that need not have been run, and its valid pixels so far.

    Parameters
    ----------
    path
        YAML file.

    Raises
    ------
    InputError
        The config is wrong, or its frames or its image cannot be read.
    """
    file = ConfigFile.read(path)
    given = file.config.input
    recorded = open_source(
        given.path, variable=given.variable, pattern=given.pattern, options=given.options or None
    )
    source = corrected(recorded, file.config.correction, file.config.valid.frames)
    sample = take_sample(recorded, SAMPLED)
    frames = sample.frames
    if source is not recorded:
        frames = np.concatenate([source.read(number, number + 1) for number in sample.numbers])
    drawing = file.drawing((source.shape[1], source.shape[2]))
    return Scenery(
        name=str(path),
        n_frames=source.shape[0],
        typical=_typical(frames, drawing.area()),
        sample=sample.frames,
        read=functools.lru_cache(4)(lambda number: source.read(number, number + 1)[0]),
        drawing=drawing,
        file=file,
    )


def scenery_of_stack(stack: xr.DataArray, config: str | Path | None = None) -> Scenery:
    """Frames of a stack in a notebook, lazy or in memory, to draw on.

    Parameters
    ----------
    stack
        Dimensions frame, y, x, or y, x.
    config
        YAML file whose valid pixels are to begin with, and into which they are written.

    Raises
    ------
    InputError
        The config is wrong.
    """
    if FRAME not in stack.dims:
        stack = stack.expand_dims(FRAME)
    shape = (int(stack.shape[1]), int(stack.shape[2]))
    numbers = spread_numbers(0, stack.sizes[FRAME], SAMPLED)
    sample = np.asarray(stack.isel({FRAME: list(numbers)}).data)
    file = None if config is None else ConfigFile.read(config)
    drawing = Drawing(ValidConfig(), shape) if file is None else file.drawing(shape)
    return Scenery(
        name=str(stack.name or "frames"),
        n_frames=stack.sizes[FRAME],
        typical=_typical(sample, drawing.area()),
        sample=sample,
        read=functools.lru_cache(4)(lambda number: np.asarray(stack.isel({FRAME: number}).data)),
        drawing=drawing,
        file=file,
    )


def _typical(frames: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of frames, without those that look like no other."""
    ordinary = ordinary_frames(frames, valid)
    return typical_frame(frames[ordinary] if ordinary.any() else frames)
