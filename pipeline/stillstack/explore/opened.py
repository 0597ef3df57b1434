"""Frames to look at, of a run in a store or of a table and its stacks: how each is come by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.address import Location, located, portable
from stillstack.errors import InputError
from stillstack.explore.frames import Frames, Image, ReadFrame
from stillstack.frameblock import Resampling, align_frame
from stillstack.kept_references import reference_in
from stillstack.model import AXES, FRAME, empty_table
from stillstack.reduction.raw import reference_named, source_of
from stillstack.sources import Source, open_source
from stillstack.storage import RunStore, open_run


def frames_of_run(run: xr.Dataset | str | Path | Location) -> Frames:
    """Frames of what ``stillstack run`` wrote, finished or not; no frame is read.

    Parameters
    ----------
    run
        The run's path, or the Dataset that `stillstack.open_run` made of it.

    Raises
    ------
    InputError
        It is not a run, or its frames were selected or put into another order since it was opened.
    """
    if isinstance(run, xr.Dataset):
        if "place" not in run.encoding:
            raise InputError(
                "This Dataset does not say which run it is of.",
                consequence="Its raw frames and its reference cannot be found.",
                cure="Open it with stillstack.open_run, or give a table and a stack to browse.",
            )
        place = located(run.encoding["place"])
        stored = open_run(place)
        _refuse_rearranged(run, stored)
    else:
        place = located(run)
        stored = open_run(place)
    store = RunStore.view(place)
    raw, source = _raw_of(store)
    written = store.has_aligned
    origin = tuple(int(stored[d][0]) if written and d in stored.coords else 0 for d in AXES)
    valid, references = _static(stored)
    table = {
        str(name): np.asarray(values)
        for name, values in stored.variables.items()
        if values.dims[:1] == (FRAME,) and values.ndim <= 2
    }
    return Frames(
        name=str(portable(place)).rstrip("/").rpartition("/")[2],
        shape=(store.n_frames, *store.frame_shape),
        table=table,
        valid=valid,
        references=references,
        raw=raw,
        aligned=_stored_reader(place) if written else _virtual_reader(store, source, table),
        origin=(origin[0], origin[1]),
    )


def frames_of_table(table: xr.Dataset, raw: xr.DataArray, aligned: xr.DataArray) -> Frames:
    """Frames of a table and stacks that are in no store: what `register` and `align` give.

    Parameters
    ----------
    table
        Of shifts and status; it is computed if it is lazy.
    raw, aligned
        Stacks of as many frames, lazy or in memory.

    Raises
    ------
    InputError
        The table is of another number of frames than a stack.
    """
    for stack in (raw, aligned):
        if stack.sizes[FRAME] != table.sizes[FRAME]:
            raise InputError(
                f"The table has {table.sizes[FRAME]} frames, and the stack {stack.name or ''} has "
                f"{stack.sizes[FRAME]}.",
                consequence="It cannot be told which row belongs to which frame.",
                cure="Give the table of exactly these frames.",
            )
    computed = table.compute()
    return Frames(
        name=str(raw.name or "frames"),
        shape=(raw.shape[0], raw.shape[1], raw.shape[2]),
        table={
            str(name): np.asarray(values)
            for name, values in computed.variables.items()
            if values.dims[:1] == (FRAME,)
        },
        valid=None,
        references=None,
        raw=lambda number: np.asarray(raw.isel({FRAME: number}).data),
        aligned=lambda number: np.asarray(aligned.isel({FRAME: number}).data),
    )


def _refuse_rearranged(run: xr.Dataset, stored: xr.Dataset) -> None:
    """Raise InputError where frame i of a Dataset is not frame i of the store any more."""
    same = run.sizes.get(FRAME) == stored.sizes[FRAME] and (
        "shift" not in run or np.array_equal(run["shift"], stored["shift"], equal_nan=True)
    )
    if not same:
        raise InputError(
            f"This Dataset has {run.sizes.get(FRAME, 'no')} frames, selected from or ordered "
            f"otherwise than the {stored.sizes[FRAME]} of its run, or the run went on meanwhile.",
            consequence="Raw frames would be shown beside the shifts of others.",
            cure="Browse the whole run as open_run gives it, and choose frames by their status.",
        )


def _static(stored: xr.Dataset) -> tuple[NDArray[np.bool_] | None, Image | None]:
    """Valid pixels and references of a run, as far as they are there yet."""
    valid = np.asarray(stored["valid"], bool) if "valid" in stored else None
    if "reference" not in stored:
        return valid, None
    images = np.asarray(stored["reference"], np.float32)
    if "reference_valid" in stored:
        images = np.where(np.asarray(stored["reference_valid"], bool), images, np.float32(np.nan))
    return valid, images.reshape(-1, *images.shape[-2:])


def _raw_of(store: RunStore) -> tuple[ReadFrame, Source | None]:
    try:
        source = source_of(store)
    except InputError as error:
        return _Gone(error), None
    return lambda number: source.read(number, number + 1)[0], source


@dataclass(frozen=True)
class _Gone:
    """Reads nothing: says what is missing."""

    error: InputError

    def __call__(self, number: int) -> NDArray[Any]:
        del number
        raise self.error


def _stored_reader(place: Location) -> ReadFrame:
    source = open_source(portable(place), variable="aligned")
    fill = source.attrs.get("invalid_value")

    def read(number: int) -> NDArray[Any]:
        image = source.read(number, number + 1)[0]
        if fill is None or np.isnan(fill):
            return np.asarray(image)
        return np.asarray(np.where(image == fill, np.nan, image), np.float32)

    return read


def _virtual_reader(
    store: RunStore, source: Source | None, table: Mapping[str, NDArray[Any]]
) -> ReadFrame:
    """Align one raw frame when it is asked for, by what the run found and no other rule."""
    if source is None:
        return _Gone(
            InputError("Aligned frames were not written, and the raw ones are not there any more.")
        )
    dtype = np.result_type(source.dtype, np.float32)
    height, width = store.frame_shape

    def read(number: int) -> NDArray[Any]:
        interpolation = str(store.attributes["interpolation"])
        resampling = Resampling(interpolation, dtype.str, (0, height, 0, width))
        row = empty_table(1)[0]
        for name in ("shift", "status"):
            row[name] = table[name][number]
        reference = reference_in(portable(store.path), reference_named(store))
        image = np.empty((height, width), dtype)
        frame = source.read(number, number + 1)[0]
        align_frame(frame, row, resampling, image, reference=reference)
        return image

    return read
