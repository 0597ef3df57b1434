"""Which array of a Zarr store is meant, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from stillstack.address import Address
from stillstack.errors import InputError
from stillstack.storage.cloud import check_reachable
from stillstack.storage.ome_image import (
    OmeFaultError,
    OmeImage,
    has_image,
    image_of_shape,
    is_plate,
    is_series,
    ome_image,
    refuse_faulty,
)
from stillstack.storage.reading import (
    METADATA_FILES,
    Where,
    foreign_files_are_fine,
    open_array,
    open_node,
    stamp_of,
)

_V2_DIMENSIONS: Final = "_ARRAY_DIMENSIONS"


@dataclass(frozen=True, eq=False)
class StoredArray:
    """What a Zarr array says of itself.

    Parameters
    ----------
    path
        Of the store: a folder, or an address.
    variable
        Name within the group at ``path``; None where ``path`` is the array itself.
    shape, dtype, chunks
        Of the array; with shards, ``chunks`` are the pieces inside them, which can be read singly.
    dims
        Names of the dimensions, where they have any.
    attrs
        The user's attributes, without those that only encode dimensions and coordinates.
    fill_value
        The value that the attributes declare to mean "no data" (``_FillValue``), or None.
    coordinate_names
        1-D arrays beside it that run along its first dimension.
    image
        What OME-Zarr metadata say of it, where there are any.
    image_fault
        What is wrong with them, where an array was named all the same.
    """

    path: Where
    variable: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    dims: tuple[str | None, ...] | None
    attrs: Mapping[str, Any]
    fill_value: float | None
    coordinate_names: tuple[str, ...]
    image: OmeImage | None = None
    image_fault: str = ""


def is_zarr(path: Path) -> bool:
    """Return True where a folder holds a Zarr array or group."""
    return any((path / name).is_file() for name in METADATA_FILES)


def describe(path: Where, variable: str | None = None) -> StoredArray:
    """Say what is known of a stack in a Zarr store without reading it.

    Parameters
    ----------
    path
        An array, or a group with ``variable`` in it.
    variable
        May be left out where the group is an OME-Zarr image, or holds a single 3-D array of
        numbers, or a single one whose first dimension is called ``frame``.

    Raises
    ------
    InputError
        When there is no such array, or more than one it could be.
    """
    if isinstance(path, Address):
        check_reachable(path, writing=False)
    node = open_node(path)
    if isinstance(node, zarr.Array):
        if variable is not None:
            raise InputError(
                f"{path} is a single Zarr array, which has no variable {variable!r}.",
                cure="Leave the variable out.",
            )
        return _described(node, None, path, None)
    variable = None if variable is None else variable.strip("/")
    named = variable
    variable = _image_array(node, path, variable)
    if variable is None:
        variable = _only_stack(node, path)
    with foreign_files_are_fine():
        array = node.get(variable)
    if not isinstance(array, zarr.Array):
        raise InputError(
            f"{path} has no array {variable!r}.",
            cure=f"It has: {_listing(_arrays(node)) or 'no arrays at all'}.",
        )
    parent = node
    if "/" in variable:
        found = node[variable.rpartition("/")[0]]
        parent = found if isinstance(found, zarr.Group) else node
    described = _described(array, parent, path, variable)
    return _with_image(described, node, by_itself=variable == named)


def _image_array(group: zarr.Group, path: Where, variable: str | None) -> str | None:
    """Name of the largest level of the image that is meant; ``variable`` where it is none.

    Raises
    ------
    InputError
        The metadata are wrong, or there are several images.
    """
    with foreign_files_are_fine():
        node = group if variable is None else group.get(variable)
    if not isinstance(node, zarr.Group):
        return variable
    where = f"{path}::{variable}" if variable else str(path)
    attrs, prefix = dict(node.attrs), f"{variable}/" if variable else ""
    if not has_image(attrs) and (is_series(attrs) or is_plate(attrs)):
        prefix += _only_image(node, where) + "/"
        attrs = dict(node[prefix.removeprefix(f"{variable}/").rstrip("/")].attrs)
    try:
        image = ome_image(attrs)
    except OmeFaultError as fault:
        raise refuse_faulty(where, fault) from fault
    return variable if image is None else prefix + image.path


def _only_image(group: zarr.Group, where: str) -> str:
    """Name of the one image that a group holds in groups of its own."""
    if not _can_list(group):
        raise InputError(
            f"{where} holds several images, which cannot be listed.",
            cure="Name one: the option variable, or the address with '::0' behind it.",
        )
    with foreign_files_are_fine():
        members = group.members(max_depth=None)
        images = sorted(
            name
            for name, member in members
            if isinstance(member, zarr.Group)
            and has_image(dict(member.attrs))
            and "labels" not in name.split("/")
        )
    if len(images) == 1:
        return images[0]
    if not images:
        raise InputError(
            f"{where} says that it holds OME-Zarr images, and there is none.",
            cure="Look whether they lie elsewhere, or name an array by itself: '::NAME'.",
        )
    listed = ", ".join(images[:8]) + (" ..." if len(images) > 8 else "")
    raise InputError(
        f"{where} holds {len(images)} OME-Zarr images: {listed}.",
        consequence="Which of them is meant is not for the program to guess.",
        cure="Name one: the option variable, or the path with '::NAME' behind it.",
    )


def _with_image(stored: StoredArray, group: zarr.Group, *, by_itself: bool) -> StoredArray:
    """Add what OME-Zarr metadata above an array say of it."""
    parts = (stored.variable or "").split("/")
    for depth in range(len(parts)):
        above, name = "/".join(parts[:depth]), "/".join(parts[depth:])
        node = group[above] if above else group
        try:
            image = image_of_shape(dict(node.attrs), name, stored.shape)
        except OmeFaultError as fault:
            if not by_itself:
                raise refuse_faulty(f"{stored.path}", fault) from fault
            return replace(stored, image_fault=str(fault))
        if image is not None:
            return replace(stored, image=image)
    return stored


def read_coordinates(
    stored: StoredArray,
) -> dict[str, tuple[NDArray[Any], dict[str, Any]]]:
    """Values and attributes of the coordinates along the first dimension, as stored."""
    group, _, _ = (stored.variable or "").rpartition("/")
    found = {}
    for name in stored.coordinate_names:
        array = open_array(
            stored.path,
            f"{group}/{name}" if group else name,
            stamp_of(stored.path, stored.variable),
        )
        attrs = {key: value for key, value in array.attrs.items() if key != _V2_DIMENSIONS}
        found[name] = (np.asarray(array[...]), attrs)
    return found


def _arrays(group: zarr.Group) -> dict[str, zarr.Array[Any]]:
    """All arrays of a group and of the groups in it, by name."""
    if not _can_list(group):
        raise InputError(
            f"What the group {group.store} holds cannot be listed.",
            consequence="Which array is the stack is not known.",
            cure="Name it: the option variable, or the address with '::NAME' behind it.",
        )
    with foreign_files_are_fine():
        return {
            name: node
            for name, node in group.members(max_depth=None)
            if isinstance(node, zarr.Array)
        }


def _can_list(group: zarr.Group) -> bool:
    return group.store.supports_listing or group.metadata.consolidated_metadata is not None


def _only_stack(group: zarr.Group, path: Where) -> str:
    arrays = _arrays(group)
    stacks = {name: array for name, array in arrays.items() if _could_be_stack(array)}
    if len(stacks) > 1:
        framed = {name: a for name, a in stacks.items() if (_dims(a) or ("",))[0] == "frame"}
        stacks = framed if len(framed) == 1 else stacks
    if len(stacks) == 1:
        return next(iter(stacks))
    if not stacks:
        raise InputError(
            f"The Zarr group {path} holds no array of three or four dimensions and numbers.",
            consequence="There is no stack in it.",
            cure=f"It holds: {_listing(arrays) or 'nothing'}.",
        )
    raise InputError(
        f"The Zarr group {path} holds {len(stacks)} stacks: {_listing(stacks)}.",
        consequence="Which of them is meant is not for the program to guess.",
        cure="Name one: the option variable, or the path with '::NAME' behind it.",
    )


def _could_be_stack(array: zarr.Array[Any]) -> bool:
    return array.ndim in (3, 4) and np.dtype(array.dtype).kind in "uif"


def _listing(arrays: Mapping[str, zarr.Array[Any]]) -> str:
    return ", ".join(f"{name} {a.shape} {a.dtype}" for name, a in sorted(arrays.items()))


def _dims(array: zarr.Array[Any]) -> tuple[str | None, ...] | None:
    named = getattr(array.metadata, "dimension_names", None) or array.attrs.get(_V2_DIMENSIONS)
    return tuple(named) if isinstance(named, list | tuple) else None


def _described(
    array: zarr.Array[Any], group: zarr.Group | None, path: Where, variable: str | None
) -> StoredArray:
    # what a stack of ours keeps of the source that it was copied from
    kept = None if group is None else group.attrs.get("source_attributes")
    attrs = {**(kept if isinstance(kept, Mapping) else {}), **array.attrs}
    dims = _dims(array)
    fill = attrs.pop("_FillValue", None)
    listed = str(attrs.pop("coordinates", "")) + " "
    if group is not None:
        listed += str(group.attrs.get("coordinates", ""))
    attrs.pop(_V2_DIMENSIONS, None)
    own_name = (variable or "").rpartition("/")[2]
    return StoredArray(
        path=path,
        variable=variable,
        shape=array.shape,
        dtype=np.dtype(array.dtype),
        chunks=array.chunks,
        dims=dims,
        attrs=attrs,
        fill_value=fill if isinstance(fill, int | float) else None,
        coordinate_names=_coordinates_beside(group, own_name, dims, array.shape, listed.split()),
    )


def _coordinates_beside(
    group: zarr.Group | None,
    own_name: str,
    dims: tuple[str | None, ...] | None,
    shape: tuple[int, ...],
    listed: list[str],
) -> tuple[str, ...]:
    """Names of the 1-D arrays along the first dimension that are coordinates.

    Where the store says which arrays are coordinates, as xarray does, those; else every one.
    """
    if group is None or not dims or dims[0] is None or not _can_list(group):
        return ()
    with foreign_files_are_fine():
        beside = dict(group.arrays())
    along = [
        name
        for name, other in beside.items()
        if name != own_name and _dims(other) == (dims[0],) and other.shape == shape[:1]
    ]
    return tuple(sorted(n for n in along if not listed or n in listed or n == dims[0]))
