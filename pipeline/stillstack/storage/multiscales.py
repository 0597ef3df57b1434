"""Aligned frames as an OME-Zarr 0.5 image: smaller levels beside them, and the metadata.

The arrays of one group are one xarray Dataset, where a dimension has one length. So the smaller
levels lie in a group of their own inside the run, and only its metadata name them together. The
first axis is the frames', and keeps their name: the specification wants the names of the axes to be
those of the arrays' dimensions, and says of an axis by its type what it is.

Source: https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from stillstack.kernels.downsampling import level_shapes
from stillstack.model import FRAME, X, Y, image_fill
from stillstack.storage.arrays import PYRAMID, cf_fill, make_array
from stillstack.storage.staging import StagingStore

VERSION: Final = "0.5"

# What of the reference's counts is shown as black and as white.
_BLACK, _WHITE = 1.0, 99.5


@dataclass(frozen=True)
class Axes:
    """Length of a step along each axis of the aligned frames.

    Parameters
    ----------
    steps
        From frame to frame, row to row and column to column.
    units
        Of these, by the specification's names; empty where they are not known.
    window
        Counts that viewers show as black and as white.
    """

    steps: tuple[float, float, float] = (1.0, 1.0, 1.0)
    units: tuple[str, str, str] = ("", "", "")
    window: tuple[float, float] = (0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the layout of a run keeps them."""
        return {name: list(values) for name, values in vars(self).items()}


def level_names(shape: tuple[int, int]) -> tuple[str, ...]:
    """Names of the smaller levels' arrays.

    Examples
    --------
    >>> level_names((1000, 600))
    ('pyramid/1', 'pyramid/2')
    """
    return tuple(f"{PYRAMID}/{number}" for number in range(1, len(level_shapes(shape)) + 1))


def display_window(image: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[float, float]:
    """Counts to show as black and as white, by the pixels of an image that count."""
    values = image[valid & np.isfinite(image)]
    if not values.size:
        return (0.0, 1.0)
    black, white = np.percentile(values, (_BLACK, _WHITE))
    return (float(black), float(white)) if white > black else (float(black), float(black) + 1.0)


def ome_attributes(
    name: str,
    array: str,
    shape: tuple[int, int],
    axes: Mapping[str, Any],
    origin: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """Attribute ``ome`` of a run's group.

    Parameters
    ----------
    name
        Of the image.
    array
        Of the aligned frames.
    shape
        Theirs, (y, x).
    axes
        What `Axes.to_json` gave.
    origin
        Pixel of the input at which they begin: positions are those of the input's pixels.
    """
    steps = np.array(axes["steps"])
    datasets = []
    for level, path in enumerate((array, *level_names(shape))):
        factor = np.array([1, 2**level, 2**level])
        # the middle of the first of the pixels that are one now
        first = np.array([0, *origin]) + (factor - 1) / 2
        transforms = [{"type": "scale", "scale": (steps * factor).tolist()}]
        if first.any():
            transforms.append({"type": "translation", "translation": (steps * first).tolist()})
        datasets.append({"path": path, "coordinateTransformations": transforms})
    black, white = axes["window"]
    return {
        "version": VERSION,
        "multiscales": [
            {
                "name": name,
                "axes": [
                    {"name": axis, "type": kind, **({"unit": unit} if unit else {})}
                    for axis, kind, unit in zip(
                        (FRAME, Y, X), ("time", "space", "space"), axes["units"], strict=True
                    )
                ],
                "datasets": datasets,
                "type": "mean over valid pixels",
            }
        ],
        "omero": {
            "channels": [
                {
                    "active": True,
                    "color": "FFFFFF",
                    "label": name,
                    "window": {"min": black, "start": black, "end": white, "max": white},
                }
            ],
            "rdefs": {"model": "greyscale"},
        },
    }


def stage_pyramid(store: StagingStore) -> None:
    """Stage the group of the smaller levels."""
    zarr.create_group(store=store, path=PYRAMID, zarr_format=3)


def stage_levels(store: StagingStore, layout: Mapping[str, Any], shape: tuple[int, int]) -> None:
    """Stage the metadata of the smaller levels, in chunks of as many frames as level 0."""
    dtype = np.dtype(layout["aligned_dtype"])
    fill = image_fill(dtype)
    chunk, block = layout["chunk_frames"], layout["block_frames"]
    for name, size in zip(level_names(shape), level_shapes(shape), strict=True):
        make_array(
            store,
            name,
            (layout["n_frames"], *size),
            dtype,
            dims=(FRAME, Y, X),
            chunks=(chunk, *size),
            shards=(block, *size) if layout["sharded"] else None,
            codec=layout["codec"],
            fill=fill,
            attrs={
                "long_name": "aligned frames, means over the valid pixels of each bin",
                "units": "count",
                **cf_fill(dtype, fill),
            },
        )
