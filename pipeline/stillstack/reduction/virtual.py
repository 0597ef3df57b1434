"""The virtual aligned stack: raw frames and shifts as aligned frames that nobody wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from stillstack.address import Location, portable
from stillstack.errors import InputError
from stillstack.graph import align
from stillstack.kept_references import reference_in
from stillstack.model import FRAME
from stillstack.reduction.raw import check_fits, reference_named, source_of
from stillstack.sources import Source, stack_of
from stillstack.storage import RunStore

ALIGNED = "aligned"


@dataclass(frozen=True)
class MissingFrames:
    """Stands in for a run's raw frames where they are gone: whoever reads one is told so.

    Parameters
    ----------
    error
        What is missing, and the cure.
    shape, dtype
        Of the frames that were there, as far as it matters.
    """

    error: InputError
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    name: str = "missing frames"
    chunk_frames: int = 1
    coords: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Raise the error."""
        del start, stop
        raise self.error

    def fingerprint(self) -> str:
        """Text that no source has."""
        return f"missing {self.shape} {self.error}"


def with_virtual_aligned(run: xr.Dataset, place: Location) -> xr.Dataset:
    """Dataset of a run with the variable ``aligned``: lazily made where it was not written.

    Parameters
    ----------
    run
        Of the run.
    place
        Where it is.

    Returns
    -------
    xarray.Dataset
        The same where aligned frames were written. Else with :func:`virtual_aligned`; where the raw
        frames are gone it is there too, and who computes it is told what is missing.
    """
    if ALIGNED in run:
        return run
    store = RunStore.view(place)
    try:
        frames: Source = source_of(store)
    except InputError as error:
        frames = MissingFrames(error, (store.n_frames, *store.frame_shape), np.dtype("f4"))
    return run.assign({ALIGNED: virtual_aligned(run, store, frames)})


def virtual_aligned(run: xr.Dataset, store: RunStore, source: Source) -> xr.DataArray:
    """Lazy aligned frames of a run, resampled from the raw ones by the run's shifts.

    Parameters
    ----------
    run
        Of the run: its table of shifts and status.
    store
        Its store, which has the reference, whose rules say which pixels count.
    source
        The raw frames.

    Returns
    -------
    xarray.DataArray
        float32 (float64 for frames of more than 16 bits), as large as the raw frames, NaN where a
        pixel does not count and for frames that are not good: never rounded or clipped.

    Raises
    ------
    InputError
        If the source has not as many frames as the run, of its shape.
    """
    check_fits(source, store, source.name)
    attributes = store.attributes
    table = run[["shift", "status"]].compute()
    aligned = align(
        stack_of(source).drop_vars([FRAME, *source.coords]),
        table.drop_vars([name for name in table.coords if name != "axis"]),
        reference=_stored_reference(store),
        interpolation=attributes["interpolation"],
        dtype=np.result_type(source.dtype, np.float32),
    )
    coords = {name: c for name, c in run.coords.items() if c.dims == (FRAME,)}
    return aligned.assign_coords(coords).assign_attrs(
        long_name="frame, resampled when asked for so that it lands on the reference",
        units="count",
    )


def _stored_reference(store: RunStore) -> Delayed:
    """Key of the graph for a run's reference, which is prepared only when a frame is asked for."""
    kept = reference_named(store)
    key: Delayed = delayed(reference_in)(
        portable(store.path), kept, dask_key_name=f"stored-reference-{kept.digest}"
    )
    return key
