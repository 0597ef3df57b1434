"""The store of a reduction: images for each group of frames, each group written whole by one task.

A group is a block of its ledger. Its images, and the numbers beside them, are chunks of their own,
so that tasks never share an object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.address import Address, Location, located, portable
from stillstack.errors import InputError
from stillstack.model import X, Y
from stillstack.storage.arrays import (
    make_array,
    open_writable,
    write_array,
    write_coordinate,
)
from stillstack.storage.blockstore import BlockStore, create_group
from stillstack.storage.cloud import check_reachable
from stillstack.storage.cloud_store import CloudStore
from stillstack.storage.identity import read_attributes
from stillstack.storage.locking import RunLock
from stillstack.storage.objects import StoredObject
from stillstack.storage.places import objects_at
from stillstack.storage.staging import StagingStore
from stillstack.storage.template import FORMAT


@dataclass(frozen=True, eq=False)
class ReductionTemplate:
    """What a reduction will hold.

    Parameters
    ----------
    labels
        Values along each leading dimension, by its name; none: one group.
    label_attrs
        Attributes of these coordinates.
    frame_shape
        Rows and columns of each image.
    images, numbers
        dtype and attributes of each variable that has an image, or a number, for each group.
    digest, fingerprint
        What the store belongs to: a reduction with another is refused.
    attrs
        More attributes of the group.
    """

    labels: Mapping[str, NDArray[Any]]
    label_attrs: Mapping[str, Mapping[str, Any]]
    frame_shape: tuple[int, int]
    images: Mapping[str, tuple[str, Mapping[str, Any]]]
    numbers: Mapping[str, tuple[str, Mapping[str, Any]]]
    digest: str
    fingerprint: str
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of labels along each leading dimension."""
        return tuple(len(values) for values in self.labels.values())

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group while the reduction is not complete."""
        return {
            **self.attrs,
            "Conventions": "CF-1.12",
            "config_digest": self.digest,
            "source_fingerprint": self.fingerprint,
            "layout": {
                "format": FORMAT,
                "kind": ReductionStore.kind,
                "n_frames": int(np.prod(self.shape, dtype=np.int64)),
                "frame_shape": list(self.frame_shape),
                "block_frames": 1,
                "by": list(self.labels),
                "shape": list(self.shape),
                "images": list(self.images),
                "numbers": list(self.numbers),
            },
            "complete": False,
        }


@dataclass(frozen=True)
class GroupWriter:
    """Writes the variables of one group; small, and it pickles.

    Parameters
    ----------
    path
        The store.
    durable
        Sync what is written.
    """

    path: str | Address
    durable: bool

    def write(
        self, place: tuple[int, ...], values: Mapping[str, NDArray[Any]]
    ) -> tuple[StoredObject, ...]:
        """Write all variables of a group together, and return what was written.

        Parameters
        ----------
        place
            Index of the group along each leading dimension.
        values
            (y, x) images, and numbers as arrays without dimensions, by name.
        """
        store = StagingStore.on(objects_at(self.path, durable=self.durable))
        try:
            for name, value in values.items():
                array = open_writable(store, name)
                where: tuple[Any, ...] = (*place, ...)
                array[where] = value
        except BaseException:
            store.discard()
            raise
        return store.commit()


class ReductionStore(BlockStore):
    """The Zarr group of a reduction. A block is one group of frames."""

    kind: ClassVar[str] = "reduction"
    images: ClassVar[str] = "coverage"

    @classmethod
    def create(cls, lock: RunLock, template: ReductionTemplate, *, durable: bool = True) -> Self:
        """Make the store whole from its template: metadata, and the coordinates.

        Parameters
        ----------
        lock
            Held lock on the output.
        template
            What it will hold.
        durable
            Sync everything that is written, now and later.
        """
        create_group(
            lock,
            template.attributes(),
            lambda store: _stage(store, template),
            durable=durable,
        )
        return cls(lock.path, durable=durable, lock=lock)

    def group_writer(self) -> GroupWriter:
        """Return what a task needs to write a group."""
        return GroupWriter(portable(self.path), self.durable)


def open_reduction(path: str | Location, *, options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Dataset of a reduction that was written, lazily loaded.

    Parameters
    ----------
    path, options
        As for `open_run`.

    Raises
    ------
    InputError
        There is nothing there, or not a reduction.
    """
    place = located(path, options)
    if isinstance(place, Address):
        check_reachable(place, writing=False)
    attributes = read_attributes(place)
    layout = (attributes or {}).get("layout")
    if not isinstance(layout, dict) or layout.get("kind") != ReductionStore.kind:
        raise InputError(
            f"{place} is not a reduction of stillstack.",
            cure="Give what `stillstack reduce` wrote.",
        )
    consolidated = (attributes or {}).get("complete") is True
    store = CloudStore(place) if isinstance(place, Address) else place
    dataset: xr.Dataset = xr.open_zarr(store, chunks={}, consolidated=consolidated)
    return dataset


def _stage(store: StagingStore, template: ReductionTemplate) -> None:
    for name, values in template.labels.items():
        write_coordinate(
            store, name, np.asarray(values), dims=(name,), attrs=template.label_attrs.get(name)
        )
    for dim, length in zip((Y, X), template.frame_shape, strict=True):
        write_array(store, dim, np.arange(length), dims=(dim,), attrs={"units": "pixel"})
    dims, ones = tuple(template.labels), (1,) * len(template.labels)
    for name, (dtype, attrs) in template.images.items():
        make_array(
            store,
            name,
            (*template.shape, *template.frame_shape),
            np.dtype(dtype),
            dims=(*dims, Y, X),
            chunks=(*ones, *template.frame_shape),
            fill=_fill(dtype),
            attrs=attrs,
        )
    for name, (dtype, attrs) in template.numbers.items():
        make_array(
            store,
            name,
            template.shape,
            np.dtype(dtype),
            dims=dims,
            chunks=ones,
            fill=_fill(dtype),
            attrs=attrs,
        )


def _fill(dtype: str) -> Any:
    kind = np.dtype(dtype)
    return kind.type(np.nan if kind.kind == "f" else 0)
