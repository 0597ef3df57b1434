"""The store of a run: created from a template, written by blocks, finished by the coordinator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.address import Address, Location, located, portable
from stillstack.errors import InputError, RunFaultError
from stillstack.model import COLUMNS, X, Y, empty_table
from stillstack.storage.arrays import PYRAMID, group_metadata, open_writable, write_array
from stillstack.storage.blocks import BlockWriter
from stillstack.storage.blockstore import BlockStore, create_group
from stillstack.storage.cloud import check_reachable
from stillstack.storage.cloud_store import CloudStore
from stillstack.storage.identity import read_attributes
from stillstack.storage.locking import RunLock
from stillstack.storage.multiscales import (
    level_names,
    ome_attributes,
    stage_levels,
    stage_pyramid,
)
from stillstack.storage.places import objects_at
from stillstack.storage.prepared import PreparedReferences
from stillstack.storage.staging import StagingStore
from stillstack.storage.template import GIVEN, RunTemplate, stage_aligned, stage_run


class RunStore(BlockStore):
    """The Zarr group of a run. See `BlockStore` for what it shares with stacks.

    Attributes
    ----------
    prepared : PreparedReferences
        References made ready for the workers, while the run is not complete.
    """

    kind: ClassVar[str] = "run"
    images: ClassVar[str] = "aligned"

    def __init__(
        self, path: Location, *, durable: bool = True, lock: RunLock | None = None
    ) -> None:
        super().__init__(path, durable=durable, lock=lock)
        assure = lock.assure if lock else None
        self.prepared = PreparedReferences(objects_at(path, durable=False, assure=assure))

    @classmethod
    def create(cls, lock: RunLock, template: RunTemplate, *, durable: bool = True) -> Self:
        """Make the store whole from its template; one that was cut off is made again.

        Parameters
        ----------
        lock
            Held lock on the output.
        template
            What the run will hold.
        durable
            Sync everything that is written, now and later.
        """
        create_group(
            lock,
            template.attributes(),
            lambda store: stage_run(store, template),
            durable=durable,
        )
        return cls(lock.path, durable=durable, lock=lock)

    @property
    def has_aligned(self) -> bool:
        """Whether the array of aligned frames exists."""
        return self.has(self.images)

    def create_aligned(self, shape: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> None:
        """Make the array of aligned frames when its size is known; nothing where it exists.

        Parameters
        ----------
        shape
            Shape (y, x) of the canvas.
        origin
            Pixel of the input at which it begins; ``y`` and ``x`` count the input's pixels.
        """
        if self.has_aligned:
            stored = self.read_aligned_shape()
            if stored != shape:
                raise RunFaultError(
                    f"Aligned frames in {self.path} are {stored} and not {shape}.",
                    cure="Choose another output.",
                )
            return
        store = StagingStore.on(self._objects)
        for dim, length, first in zip((Y, X), shape, origin, strict=True):
            self._objects.remove(dim)  # what a killed process may have left
            pixels = np.arange(first, first + length)
            write_array(store, dim, pixels, dims=(dim,), attrs={"units": "pixel"})
        store.commit(metadata_first=True)
        if "ome_zarr" in self.layout:
            self._create_levels(shape, origin)
        stage_aligned(store, self.layout, shape, self._coordinates())
        store.commit()

    def _create_levels(self, shape: tuple[int, int], origin: tuple[int, int]) -> None:
        """Make the smaller levels, before the aligned frames: where these are, those are too."""
        self._objects.remove(PYRAMID)  # what a killed process may have left
        store = StagingStore.on(self._objects)
        stage_pyramid(store)
        store.commit()
        stage_levels(store, self.layout, shape)
        store.commit()
        title, axes = str(self._attributes.get("title", "")), self.layout["ome_zarr"]
        ome = ome_attributes(title, self.images, shape, axes, origin)
        attributes = {**self._attributes, "ome": ome}
        self._put_group(group_metadata(attributes), attributes)

    def writer(self) -> BlockWriter:
        """Return what a worker needs to write blocks, and their smaller levels."""
        levels = level_names(self.read_aligned_shape()) if "ome_zarr" in self.layout else ()
        return replace(super().writer(), levels=levels)

    def read_aligned_shape(self) -> tuple[int, int]:
        """Shape (y, x) of the aligned frames."""
        _, y, x = self.open_array(self.images).shape
        return y, x

    def fold_rows(self, stage: str) -> NDArray[np.void]:
        """Rows that a stage has found out, as its ledger has them: pending where nothing is done.

        There are as many as the stage goes through pictures.
        """
        rows = empty_table(self.stage_frames(stage))
        for record in self.done_blocks(stage).values():
            if record.rows is not None:
                rows[record.start : record.stop] = record.rows
        return rows

    def given_rows(self) -> NDArray[np.void] | None:
        """Rows of the table that the run was given when it was created; None where it was not."""
        if not self.layout.get("given"):
            return None
        rows = empty_table(self.n_frames)
        for name, given in GIVEN.items():
            rows[name] = self.read(given)
        return rows

    def write_table(self, table: NDArray[np.void]) -> None:
        """Write all per-frame variables whole. For the coordinator alone."""
        if table.shape != (self.n_frames,):
            msg = f"A table of {table.shape} rows for {self.n_frames} frames."
            raise ValueError(msg)
        store = StagingStore.on(self._objects)
        for column in COLUMNS:
            open_writable(store, column.name)[...] = np.ascontiguousarray(table[column.name])
        store.commit()

    def write_columns(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Write per-frame variables that the template has beside the table. For the coordinator."""
        store = StagingStore.on(self._objects)
        for name, column in values.items():
            open_writable(store, name)[...] = np.ascontiguousarray(column)
        store.commit()

    def read_table(self) -> NDArray[np.void]:
        """Per-frame table as it was last written."""
        table = empty_table(self.n_frames)
        for column in COLUMNS:
            table[column.name] = self.read(column.name)
        return table

    def finish(self, **found: Any) -> None:
        """Declare the store complete, in one step; prepared references are of no more use."""
        self.prepared.drop()
        super().finish(**found)

    def _coordinates(self) -> tuple[str, ...]:
        status = self.open_array("status")
        return tuple(str(status.attrs.get("coordinates", "")).split())


def open_run(path: str | Location, *, options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Dataset of a run, lazily loaded.

    Invalid pixels of ``aligned`` are NaN. A run that is still being written opens too: its
    attribute ``complete`` is false, and frames that are not done have the status ``pending``.

    Parameters
    ----------
    path
        The run: a folder, or an address such as ``s3://bucket/run.zarr``. What travels to workers
        is the address; they take credentials from their own environment.
    options
        How an address is to be reached: ``endpoint``, ``region``, ``anonymous`` ...

    Raises
    ------
    InputError
        There is nothing there, or not a run.
    """
    place = located(path, options)
    cure = "Give the folder that `stillstack run` wrote."
    if isinstance(place, Address):
        check_reachable(place, writing=False)
    elif not place.exists():
        raise InputError(f"{place} does not exist.", cure=cure)
    attributes = read_attributes(place)
    layout = (attributes or {}).get("layout")
    if attributes is None or not isinstance(layout, dict) or layout.get("kind") != RunStore.kind:
        raise InputError(f"{place} is not a run of stillstack.", cure=cure)
    consolidated = attributes.get("complete") is True
    store = CloudStore(place) if isinstance(place, Address) else place
    dataset: xr.Dataset = xr.open_zarr(store, chunks={}, consolidated=consolidated)
    # for who has the Dataset and needs what else is in the store, or its raw frames
    dataset.encoding["place"] = portable(place)
    return dataset
