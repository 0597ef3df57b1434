"""Which frames are averaged, and in which groups: what is not good is left out, and counted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.model import FRAME, is_good
from stillstack.reduction.request import BY_INTENSITY, BY_SUM, NO_NORMALISATION, Request

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Selection:
    """Frames in groups, with what is needed to move and to scale them.

    Parameters
    ----------
    labels
        Values along each dimension of the result, ascending.
    attrs
        Attributes of each of these coordinates.
    groups
        Numbers of the frames in each group, ascending; groups in C order of the labels.
    shift
        (frame, 2) of all frames, px.
    status
        (frame,) of all frames.
    scale
        (frame,) what each frame is multiplied by; ones where nothing is known beforehand.
    left_out
        How many frames were left out, and why.
    """

    labels: Mapping[str, NDArray[Any]]
    attrs: Mapping[str, Mapping[str, Any]]
    groups: tuple[Numbers, ...]
    shift: NDArray[np.float64]
    status: NDArray[np.uint16]
    scale: NDArray[np.float64]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of labels along each dimension."""
        return tuple(len(values) for values in self.labels.values())

    @property
    def n_used(self) -> int:
        """Frames in all groups."""
        return sum(len(numbers) for numbers in self.groups)

    @property
    def used(self) -> Numbers:
        """Numbers of all frames in groups, ascending."""
        return np.sort(np.concatenate(self.groups))

    def place(self, group: int) -> tuple[int, ...]:
        """Index of a group along each dimension."""
        return tuple(int(i) for i in np.unravel_index(group, self.shape)) if self.labels else ()

    def digest(self) -> str:
        """Text that changes with the frames that are used, their groups, shifts and scales."""
        digest = hashlib.sha256(repr(self.shape).encode())
        for group, numbers in enumerate(self.groups):
            digest.update(f"{group}:".encode() + numbers.tobytes())
        used = self.used
        for array in (self.shift[used], self.status[used], self.scale[used]):
            digest.update(np.ascontiguousarray(array).tobytes())
        for name, values in self.labels.items():
            digest.update(f"{name} {values.tolist()}".encode())
        return digest.hexdigest()[:32]


def select(run: xr.Dataset, request: Request) -> Selection:
    """Frames that are good, grouped by the coordinates that were asked for.

    Parameters
    ----------
    run
        A run's Dataset; coordinates may have been added to it, and bits set in its status.
    request
        What is asked for.

    Returns
    -------
    Selection
        A combination of labels that no good frame has is a group without frames.

    Raises
    ------
    InputError
        If there is no such coordinate, or no frame is left.
    """
    status = np.asarray(run["status"].values, np.uint16)
    shift = np.asarray(run["shift"].transpose(FRAME, ...).values, np.float64)
    kept = np.asarray(is_good(status), bool) & np.isfinite(shift).all(axis=1)
    left_out = {"not good": int((~kept).sum())}
    columns = {name: _column(run, name) for name in request.by}
    for name, values in columns.items():
        kept = _narrowed(kept, ~_missing(values), f"no value of {name}", left_out)
    scale = np.ones(len(status))
    if request.normalise not in (NO_NORMALISATION, BY_SUM):
        monitor = _monitor(run, request.normalise)
        usable = np.isfinite(monitor) & (monitor > 0)
        why = f"{request.normalise} is not a positive number"
        kept = _narrowed(kept, usable, why, left_out)
        scale = _scales(monitor, kept, request.normalise)
    if not kept.any():
        reasons = ", ".join(f"{count} of them: {why}" for why, count in left_out.items() if count)
        raise InputError(
            f"None of {len(status)} frames is left to be averaged ({reasons}).",
            consequence="There is nothing to average.",
            cure="Look at the run's report, or group and normalise by something else.",
        )
    labels, groups = _grouped({n: v[kept] for n, v in columns.items()}, np.flatnonzero(kept))
    return Selection(
        labels=labels,
        attrs={name: dict(run[name].attrs) for name in labels},
        groups=groups,
        shift=shift,
        status=status,
        scale=scale,
        left_out={why: count for why, count in left_out.items() if count},
    )


def _narrowed(
    kept: NDArray[np.bool_], usable: NDArray[np.bool_], why: str, left_out: dict[str, int]
) -> NDArray[np.bool_]:
    """Leave out what is not usable of what is kept so far, and count it."""
    lost = int((kept & ~usable).sum())
    left_out[why] = left_out.get(why, 0) + lost
    return kept & usable


def _column(run: xr.Dataset, name: str) -> NDArray[Any]:
    per_frame = sorted(str(key) for key in run.variables if run[key].dims == (FRAME,))
    if name not in per_frame:
        raise InputError(
            f"The run has no per-frame coordinate {name!r}.",
            consequence="Frames cannot be grouped or normalised by it.",
            cure=f"It has {', '.join(per_frame)}; others can be added: "
            f"run.assign_coords({name}=('frame', values)).",
        )
    values = np.asarray(run[name].values)
    return values.astype(str) if values.dtype.kind == "O" else values


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.kind in "mM":
        return np.asarray(np.isnat(values), bool)
    if values.dtype.kind in "fc":
        return np.asarray(np.isnan(values), bool)
    return np.zeros(len(values), bool)


def _monitor(run: xr.Dataset, name: str) -> NDArray[np.float64]:
    values = _column(run, name)
    if values.dtype.kind not in "uif":
        raise InputError(
            f"Frames cannot be normalised by {name}, which holds {values.dtype.name}.",
            cure="Choose a coordinate of numbers.",
        )
    return values.astype(np.float64)


def _scales(
    monitor: NDArray[np.float64], kept: NDArray[np.bool_], name: str
) -> NDArray[np.float64]:
    """Return one over the monitor, whose mean over the frames that are used stands for 1.

    The fitted intensity is relative to the reference already.
    """
    scale = np.ones(len(monitor))
    level = 1.0 if name == BY_INTENSITY or not kept.any() else float(monitor[kept].mean())
    scale[kept] = level / monitor[kept]
    return scale


def _grouped(
    columns: Mapping[str, NDArray[Any]], numbers: NDArray[np.intp]
) -> tuple[dict[str, NDArray[Any]], tuple[Numbers, ...]]:
    """Labels along each dimension, and the frames of each of their combinations."""
    labels, flat, count = {}, np.zeros(len(numbers), np.int64), 1
    for name, values in columns.items():
        labels[name], inverse = np.unique(values, return_inverse=True)
        flat = flat * len(labels[name]) + inverse.reshape(-1)
        count *= len(labels[name])
    order = np.argsort(flat, kind="stable")
    edges = np.searchsorted(flat[order], np.arange(count + 1))
    ordered = numbers[order].astype(np.int64)
    groups = tuple(ordered[edges[i] : edges[i + 1]] for i in range(count))
    return labels, groups
