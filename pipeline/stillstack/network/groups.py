"""Which frames share a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.config.network import NetworkConfig
from stillstack.errors import InputError

_NAMED: Final = 5


@dataclass(frozen=True, eq=False)
class Groups:
    """Frames divided into groups.

    Parameters
    ----------
    name
        Coordinate that they are divided by; ``"keyframe"`` where they are frames in a row.
    labels
        (g,) value of the coordinate, ascending; for frames in a row the number of the first.
    index
        (n,) int32, number of each frame's group.
    notes
        What is remarkable, one sentence each.
    """

    name: str
    labels: NDArray[Any]
    index: NDArray[np.int32]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(g,) frames of each group."""
        return np.bincount(self.index, minlength=len(self))

    @cached_property
    def _sorted(self) -> NDArray[np.int64]:
        return np.argsort(self.index, kind="stable")

    def frames(self, group: int) -> NDArray[np.int64]:
        """Numbers of a group's frames, ascending."""
        start = int(self.sizes[:group].sum())
        return self._sorted[start : start + int(self.sizes[group])]


def groups_of(config: NetworkConfig, coords: Mapping[str, NDArray[Any]], n_frames: int) -> Groups:
    """Groups of frames that have a reference of their own each.

    Parameters
    ----------
    config
        Section of the config. Without ``by`` and ``keyframe_frames`` all frames are one group.
    coords
        Per-frame coordinates of the source, each of shape (frame,).
    n_frames
        Number of frames.

    Returns
    -------
    Groups
        Groups of one frame are allowed, and named in the notes: their reference is as noisy as
        their frame.

    Raises
    ------
    InputError
        If there is no such coordinate, frames have no value of it, or there are too many groups.

    Examples
    --------
    >>> delay = np.array([0.5, -1.0, 0.5, 2.0])
    >>> groups = groups_of(NetworkConfig(by="delay"), {"delay": delay}, 4)
    >>> groups.labels, groups.index, groups.frames(1)
    (array([-1. ,  0.5,  2. ]), array([1, 0, 1, 2], dtype=int32), array([0, 2]))
    """
    if config.by is not None:
        groups = _by_coordinate(config.by, coords, n_frames)
    else:
        groups = _in_a_row(config.keyframe_frames or max(n_frames, 1), n_frames)
    if len(groups) > config.max_groups:
        raise InputError(
            f"{groups.name} divides {n_frames} frames into {len(groups)} groups, more than "
            f"max_groups ({config.max_groups}).",
            consequence="Each group is given a reference of its own, and that takes frames.",
            cure="Choose a coordinate with fewer values or longer groups, or raise max_groups.",
        )
    single = np.flatnonzero(groups.sizes == 1)
    if single.size and len(groups) > 1:
        note = (
            f"{single.size} of {len(groups)} groups have one frame, which is its own reference: "
            f"{groups.name} {_some(groups.labels[single])}"
        )
        return Groups(groups.name, groups.labels, groups.index, (note,))
    return groups


def _in_a_row(length: int, n_frames: int) -> Groups:
    # Of about equal length: a short rest would have a noisier reference than all others.
    n_groups = max(1, min(round(n_frames / length), n_frames // 2))
    edges = np.arange(n_groups + 1) * n_frames // n_groups
    index = np.repeat(np.arange(n_groups, dtype=np.int32), np.diff(edges))
    return Groups("keyframe", edges[:-1], index)


def _by_coordinate(name: str, coords: Mapping[str, NDArray[Any]], n_frames: int) -> Groups:
    if name not in coords:
        there = ", ".join(sorted(coords)) or "none"
        raise InputError(
            f"Frames are to be grouped by {name}, but the source has no such coordinate.",
            consequence="It cannot be told which frames share a reference.",
            cure=f"Use one of its coordinates ({there}), or keyframe_frames.",
        )
    values = np.asarray(coords[name])
    if values.shape != (n_frames,):
        raise InputError(
            f"The coordinate {name} has shape {values.shape}, the stack {n_frames} frames.",
            cure="Give one value for each frame.",
        )
    missing = np.flatnonzero(_missing(values))
    if missing.size:
        raise InputError(
            f"{missing.size} of {n_frames} frames have no {name}: frames {_some(missing)}.",
            consequence="It cannot be told which reference they belong to.",
            cure="Give each frame a value, or exclude these frames.",
        )
    labels, index = np.unique(values, return_inverse=True)
    return Groups(name, labels, index.reshape(-1).astype(np.int32))


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.kind in "fcmM":
        return np.asarray(np.isnan(values) if values.dtype.kind in "fc" else np.isnat(values))
    if values.dtype.kind == "O":
        return np.array([_is_missing(value) for value in values.tolist()], np.bool_)
    if values.dtype.kind in "US":
        return np.asarray(np.char.str_len(values) == 0)
    return np.zeros(values.shape, np.bool_)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _some(values: NDArray[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:_NAMED])
    return shown + (" ..." if values.size > _NAMED else "")
