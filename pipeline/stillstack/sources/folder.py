"""Stacks of single-frame files: a folder, or a pattern that matches files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.sources.fingerprint import digest, stamp
from stillstack.sources.guard import opening, reading, reason
from stillstack.sources.image import (
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    TIFF_SUFFIXES,
    ColourError,
    ImageHeader,
    colour_refused,
    read_image,
    read_image_header,
    refuse_undecodable_file,
)
from stillstack.sources.names import coordinates_from_names, natural_key
from stillstack.sources.protocol import FileSource, Format

CHECK_ALL = 1000
CHECK_SPREAD = 200
# In a folder that holds several kinds, the first of these that occurs is the stack.
_KINDS = (TIFF_SUFFIXES, (".npy",), *((suffix,) for suffix in PICTURE_SUFFIXES))
_STAMPED, _LOOKERS = 512, 16
_GLOB = "*?["


@dataclass(frozen=True)
class FolderReader:
    """Reads frames that are one file each.

    Parameters
    ----------
    folder
        What the names are relative to.
    names
        Of the frames ``first``, ``first + 1`` ...
    first
        Number of the frame that ``names[0]`` is.
    shape, dtype
        That each frame has to have.
    """

    folder: str
    names: tuple[str, ...]
    first: int
    shape: tuple[int, int]
    dtype: str

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``, decoded in place; a file at fault is named."""
        frames = np.empty((stop - start, *self.shape), self.dtype)
        for place, number in enumerate(range(start, stop)):
            path = os.path.join(self.folder, self.names[number - self.first])  # noqa: PTH118
            with reading(f"Frame {number}, {path},"):
                read_image(path, out=frames[place])
        return frames

    def narrow(self, start: int, stop: int) -> FolderReader:
        """Return a reader that knows the names of these frames only."""
        names = self.names[start - self.first : stop - self.first]
        return replace(self, names=names, first=start)

    def fingerprint(self) -> str:
        """Digest of names, sizes and times."""
        parts = [self.names[i : i + _STAMPED] for i in range(0, len(self.names), _STAMPED)]
        # Each look at a file is a round trip where the folder is on another machine.
        with ThreadPoolExecutor(_LOOKERS) as pool:
            stamps = pool.map(self._stamps, parts)
            return digest(text for part in stamps for text in part)

    def _stamps(self, names: Sequence[str]) -> list[str]:
        return [f"{name}\0{stamp(os.path.join(self.folder, name))}" for name in names]  # noqa: PTH118


def is_pattern(path: str) -> bool:
    """Return True where a path has wildcards in it."""
    return any(letter in path for letter in _GLOB)


def open_folder(path: str, pattern: str | None = None) -> FileSource:
    """Source for the images of a folder, in natural order.

    TIFF files where there are any, else .npy, else pictures; everything else in the folder, and
    what is hidden, is left alone.
    """
    with opening(path, "a folder"), os.scandir(path) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    for suffixes in _KINDS:
        chosen = [name for name in names if name.lower().endswith(suffixes)]
        if chosen:
            return open_images(path, chosen, pattern)
    others = sorted({Path(name).suffix or name for name in names})[:8]
    raise InputError(
        f"The folder {path} holds no image"
        + (
            f", only {len(names)} entries such as {', '.join(others)}."
            if names
            else ": it is empty."
        ),
        cure=f"A folder is read as a stack of single frames: {', '.join(IMAGE_SUFFIXES)}. A Zarr "
        "store has zarr.json, .zarray or .zgroup in it.",
    )


def open_pattern(path: str, pattern: str | None = None) -> FileSource:
    """Source for the images that a pattern such as ``run3/scan*/frame_*.tif`` matches."""
    base, below = split_pattern(path)
    names = glob.glob(below, root_dir=base, recursive=True)  # noqa: PTH207  # relative, and fast
    names = [name for name in names if not Path(name).name.startswith(".")]
    if not names:
        raise InputError(
            f"No file matches {path}.",
            consequence="There is nothing to register.",
            cure=f"Look what is in {base}; in a pattern * stands for any text within a name.",
        )
    others = [name for name in names if Path(name).suffix.lower() not in IMAGE_SUFFIXES]
    if others:
        raise InputError(
            f"{path} matches {min(others, key=natural_key)}, which is no single image.",
            cure=f"Let the pattern match only images ({', '.join(IMAGE_SUFFIXES)}); a file that "
            "holds a whole stack is opened by its own name.",
        )
    return open_images(base, names, pattern)


def split_pattern(path: str) -> tuple[str, str]:
    """Folder in front of the first part with a wildcard, and the rest.

    Examples
    --------
    >>> split_pattern("/data/run3/scan*/f?.tif")
    ('/data/run3', 'scan*/f?.tif')
    """
    parts = Path(path).parts
    first = next(place for place, part in enumerate(parts) if is_pattern(part))
    return str(Path(*parts[:first])), str(Path(*parts[first:]))


def open_images(folder: str, names: Iterable[str], pattern: str | None = None) -> FileSource:
    """Source for given files, put into natural order.

    Raises
    ------
    InputError
        When they are not all alike, as far as they are looked at: all of up to 1,000 files, else
        the first, the last and 200 spread. A file that is damaged is no reason: it is found
        unreadable when it is its turn.
    """
    ordered = sorted(names, key=natural_key)
    headers, damaged = _headers(folder, ordered)
    first_name, first = next(iter(headers.items()))
    if len(first.shape) < 2 or any(length != 1 for length in first.shape[:-2]):
        raise _several_frames(folder, first_name, first)
    height, width = first.shape[-2:]
    for name, header in headers.items():
        if header.n_images > 1:
            raise _several_frames(folder, name, header)
        if header.shape != first.shape or header.dtype != first.dtype:
            raise InputError(
                f"The frames are not alike: {Path(folder, first_name)} is {first.shape} "
                f"{first.dtype}, {Path(folder, name)} is {header.shape} {header.dtype}.",
                consequence="Frames of one stack have one shape and one dtype.",
                cure="Take the odd file out, or choose files by a pattern such as 'scan*.tif'.",
            )
    coords = coordinates_from_names([name.replace(os.sep, "/") for name in ordered], pattern)
    taken = [header.taken for header in headers.values()]
    if len(taken) == len(ordered) and None not in taken and "time" not in coords:
        coords["time"] = np.array(taken, dtype="datetime64[ns]")
    return FileSource(
        name=Path(folder).name or folder,
        path=folder,
        shape=(len(ordered), height, width),
        dtype=first.dtype,
        chunk_frames=1,
        reader=FolderReader(folder, tuple(ordered), 0, (height, width), first.dtype.str),
        coords=coords,
        attrs={"source_format": "folder of images"},
        notes=_notes(damaged),
    )


def checked_numbers(n_files: int) -> Sequence[int]:
    """Which files are looked at before the start.

    Examples
    --------
    >>> len(checked_numbers(1000)), len(checked_numbers(50_000)), checked_numbers(50_000)[-1]
    (1000, 202, 49999)
    """
    if n_files <= CHECK_ALL:
        return range(n_files)
    return [int(number) for number in np.linspace(0, n_files - 1, CHECK_SPREAD + 2).round()]


def _headers(folder: str, names: Sequence[str]) -> tuple[dict[str, ImageHeader], list[str]]:
    """Headers of the files that are looked at, and which of them are damaged."""
    headers: dict[str, ImageHeader] = {}
    damaged: list[str] = []
    failure: Exception | None = None
    for number in checked_numbers(len(names)):
        path = str(Path(folder, names[number]))
        try:
            headers[names[number]] = read_image_header(path)
        except ColourError as error:
            raise colour_refused(path, error) from error
        except (PermissionError, MemoryError) as error:
            with opening(path, "an image"):
                raise error from None
        # Damaged: that frame will be unreadable, and the stack is good without it.
        except Exception as error:  # noqa: BLE001
            failure = error
            damaged.append(f"{path}: {reason(error)}")
            continue
        if len(headers) == 1:
            refuse_undecodable_file(path)
    if not headers:
        raise InputError(
            f"None of the files in {folder} that were looked at can be read as an image; "
            f"the last one: {reason(failure or ValueError())}.",
            cure="Check that the files are complete and of the format that their names say.",
        ) from failure
    return headers, damaged


def _notes(damaged: Sequence[str]) -> tuple[str, ...]:
    if not damaged:
        return ()
    more = f", and {len(damaged) - 3} more" if len(damaged) > 3 else ""
    return (
        f"{len(damaged)} files cannot be read, and their frames will be set aside: "
        + "; ".join(damaged[:3])
        + f"{more}.",
    )


def _several_frames(folder: str, name: str, header: ImageHeader) -> InputError:
    shape = (header.n_images, *header.shape) if header.n_images > 1 else header.shape
    return InputError(
        f"{Path(folder, name)} holds more or less than one frame: {shape}.",
        consequence="In a folder, or with a pattern, one file is one frame.",
        cure="Open a file that holds a whole stack by its own name.",
    )


def _open_picture(path: str, variable: str | None) -> FileSource:  # noqa: ARG001
    return open_images(str(Path(path).parent), [Path(path).name])


PICTURE = Format("picture (a stack of one frame)", PICTURE_SUFFIXES, _open_picture)
