"""Reading Zarr stacks, format 2 or 3, from any process.

Opened read-only, by path or address, inside the task; a process keeps the few arrays that it used
last.

A chunk that was never written reads as the fill value, without a word: Zarr leaves all-fill chunks
away on purpose, so an absent chunk is no sign of damage, and is accepted.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from stillstack.address import Address
from stillstack.errors import InputError
from stillstack.storage.chunks import PlainChunks, plain_chunks
from stillstack.storage.cloud_store import CloudStore
from stillstack.storage.remote import RemoteObjects

Where = str | Address

METADATA_FILES: Final = ("zarr.json", ".zarray", ".zgroup")
_SAMPLED_CHUNKS: Final = 64


def read_range(path: Where, variable: str | None, start: int, stop: int) -> NDArray[Any]:
    """Items ``start`` to ``stop`` of an array along its first axis, native byte order.

    Raises
    ------
    Exception
        What Zarr and its codecs raise, as it is.
    """
    array, plain = _opened(path, variable, stamp_of(path, variable))
    if plain is not None and plain.folder is not None and 0 <= start < stop <= array.shape[0]:
        return plain.read(start, stop)
    values = np.asarray(array[start:stop])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def read_boxes(path: Where, variable: str | None, boxes: Iterable[Any]) -> NDArray[Any]:
    """Images at several ranges of the axes in front of the last two, one after the other.

    Raises
    ------
    Exception
        What Zarr and its codecs raise, as it is.
    """
    array = open_array(path, variable, stamp_of(path, variable))
    parts = (np.asarray(array[box]).reshape(-1, *array.shape[-2:]) for box in boxes)
    values = np.concatenate(list(parts))
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def read_tree(path: Where, group: str) -> dict[str, Any]:
    """Read the attributes of a group, and of the groups in it under their names."""
    node = open_node(path)
    found = node.get(group) if isinstance(node, zarr.Group) else None
    return _tree(found) if isinstance(found, zarr.Group) else {}


def _tree(group: zarr.Group) -> dict[str, Any]:
    with foreign_files_are_fine():
        inside = {name: _tree(each) for name, each in group.groups()}
    return {**dict(group.attrs), **inside}


def read_image(path: Where, variable: str | None) -> NDArray[Any]:
    """Read the whole of an array, native byte order; raises what Zarr raises."""
    values = np.asarray(open_array(path, variable, stamp_of(path, variable))[...])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def fingerprint(path: Where, variable: str | None) -> list[str]:
    """Metadata, and sizes and times of up to 64 chunks spread over the array.

    Attributes are left out, because they do not change the frames; and so is the path. Looking
    at every chunk of 100,000 would take longer than to open the stack. What a store says of a chunk
    is its e-tag; a web server that gives none, when it was modified.
    """
    # of an address it is opened afresh: only a folder tells cheaply that it was replaced
    opened = _opened.__wrapped__ if isinstance(path, Address) else _opened
    array, _ = opened(path, variable, stamp_of(path, variable))
    metadata = {
        key: value for key, value in array.metadata.to_dict().items() if key != "attributes"
    }
    parts = [json.dumps(metadata, sort_keys=True, default=str)]
    objects = array.shards or array.chunks
    grid = tuple(-(-length // step) for length, step in zip(array.shape, objects, strict=True))
    n_objects = int(np.prod(grid, dtype=np.int64))
    sampled = np.unique(np.linspace(0, n_objects - 1, _SAMPLED_CHUNKS).round().astype(int))
    places = [tuple(int(at) for at in np.unravel_index(number, grid)) for number in sampled]
    keys = [array.metadata.encode_chunk_key(place) for place in places]
    if isinstance(path, Address):
        inside = f"{array.path}/" if array.path else ""
        stamps = RemoteObjects(path).stamps([inside + key for key in keys])
        return [*parts, *(stamp or "absent" for stamp in stamps)]
    folder = Path(path, variable or "")
    return [*parts, *(_size_and_time(folder / key) for key in keys)]


def _size_and_time(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "absent"
    return f"{status.st_size} {status.st_mtime_ns}"


@contextmanager
def foreign_files_are_fine() -> Iterator[None]:
    """Silence the warning about files that are no part of the store, such as a run's ledger."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")
        yield


def open_node(path: Where) -> zarr.Array[Any] | zarr.Group:
    """Array or group of a store, to read; raises InputError where there is none at an address."""
    store = CloudStore(path) if isinstance(path, Address) else path
    with foreign_files_are_fine():
        try:
            return zarr.open_array(store, mode="r")
        except (FileNotFoundError, zarr.errors.BaseZarrError):
            pass
        # A consolidated list of contents is a snapshot, and may be an old one; but where one cannot
        # ask what there is, there is no other.
        listed = not isinstance(store, CloudStore) or store.supports_listing
        try:
            return zarr.open_group(store, mode="r", use_consolidated=False if listed else None)
        except (FileNotFoundError, zarr.errors.BaseZarrError):
            if isinstance(store, CloudStore):
                raise store.denied or _no_zarr(path) from None
            raise


def _no_zarr(path: Where) -> InputError:
    return InputError(
        f"There is no Zarr array or group at {path}.",
        consequence="By URL only Zarr can be read.",
        cure="Check the address; or copy other files to a folder and run them from there.",
    )


def open_array(path: Where, variable: str | None, stamp: str) -> zarr.Array[Any]:
    """Array of a store, of those that this process keeps open if it is among them."""
    return _opened(path, variable, stamp)[0]


@functools.lru_cache(maxsize=16)
def _opened(
    path: Where,
    variable: str | None,
    stamp: str,  # noqa: ARG001
) -> tuple[zarr.Array[Any], PlainChunks | None]:
    """Open an array; ``stamp`` makes sure that one that was replaced is opened again."""
    node = open_node(path)
    array = node if variable is None or isinstance(node, zarr.Array) else node[variable]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{variable} is a group")
    return array, plain_chunks(array)


def stamp_of(path: Where, variable: str | None) -> str:
    """Sizes and times of an array's metadata: another where it was replaced."""
    # A stack that is replaced under its address is noticed by its fingerprint.
    if isinstance(path, Address):
        return ""
    folder = Path(path, variable or "")
    return " ".join(_size_and_time(folder / name) for name in METADATA_FILES)
