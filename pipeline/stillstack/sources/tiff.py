"""Multi-page TIFF, BigTIFF, ImageJ and OME-TIFF: opened by path inside each task."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.sources.fingerprint import digest, stamp
from stillstack.sources.folder import checked_numbers
from stillstack.sources.guard import opening, reading
from stillstack.sources.image import (
    TIFF_SUFFIXES,
    ColourError,
    colour_refused,
    dtype_of,
    read_page,
    refuse_colour,
    refuse_undecodable,
    tiff_time,
)
from stillstack.sources.ome import ome_times
from stillstack.sources.protocol import FileSource, Format, FrameReader
from stillstack.sources.raw import RawReader
from stillstack.sources.tiffpages import page_offsets

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# A directory that is known to belong to a frame and is not in the file.
_LOST = 0


@dataclass(frozen=True)
class PagesReader:
    """Reads pages of TIFF files, each found by the offset of its directory.

    Parameters
    ----------
    folder
        What the file names are relative to.
    files
        Names of the files; most often one.
    pages
        For each frame from ``first``: number of its file, and offset of its directory there.
    first
        Number of the frame that ``pages[0]`` is.
    shape, dtype
        That each frame has to have.
    """

    folder: str
    files: tuple[str, ...]
    pages: tuple[tuple[int, int], ...]
    first: int
    shape: tuple[int, int]
    dtype: str

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``, decoded in place; each file is opened once."""
        frames = np.empty((stop - start, *self.shape), self.dtype)
        wanted = self.pages[start - self.first : stop - self.first]
        for file in dict.fromkeys(file for file, _ in wanted):
            path = str(Path(self.folder, self.files[file]))
            numbers = [start + place for place, page in enumerate(wanted) if page[0] == file]
            with reading(f"Frame {numbers[0]} of {path}"), tifffile.TiffFile(path) as tiff:
                for number in numbers:
                    with reading(f"Frame {number} of {path}"):
                        page = page_at(tiff, self.pages[number - self.first][1], number)
                        read_page(page, out=frames[number - start])
        return frames

    def narrow(self, start: int, stop: int) -> PagesReader:
        """Return a reader that knows the pages of these frames only."""
        pages = self.pages[start - self.first : stop - self.first]
        return replace(self, pages=pages, first=start)

    def fingerprint(self) -> str:
        """Digest of the files' names, sizes and times, and of where the pages begin."""
        stamps = (f"{name} {stamp(Path(self.folder, name))}" for name in self.files)
        return digest([*stamps, repr(self.pages)])


def page_at(tiff: tifffile.TiffFile, offset: int, number: int) -> tifffile.TiffPage:
    """Return the page whose directory begins at a byte of the file; ValueError for none."""
    size = tiff.filehandle.size
    if offset == _LOST or offset >= size:
        raise ValueError(f"the file is cut off after {size} bytes, before this page begins")
    tiff.filehandle.seek(offset)
    return tifffile.TiffPage(tiff, number)


@dataclass(frozen=True)
class Geometry:
    """Shape and dtype of a frame, and what the file stores."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    stored: str


def _geometry(tiff: tifffile.TiffFile, path: str, page: tifffile.TiffPage) -> Geometry:
    if len(page.shape) != 2:
        raise InputError(
            f"A page of {path} has the shape {page.shape}: one page has to be one frame.",
            cure="Save the stack with one page a frame.",
        )
    dtype = dtype_of(page)
    height, width = page.shape
    return Geometry((height, width), dtype, tiff.byteorder + dtype.str[1:])


@dataclass(frozen=True)
class Layout:
    """Where the frames of a TIFF are, and what its axes mean."""

    reader: FrameReader
    n_frames: int
    coords: dict[str, NDArray[Any]]
    notes: tuple[str, ...] = ()


def open_tiff(path: str, variable: str | None = None) -> FileSource:  # noqa: ARG001
    """Source for a TIFF file of one page or more, all of one shape.

    The leading axes of ImageJ, OME and shaped files (time, depth, channel ...) are folded into
    ``frame`` in the order of the file; where several are longer than one, each becomes a coordinate
    of its own name in lower case. Of an OME file the first series is read; of any other file every
    page is a frame.
    """
    with opening(path, "a TIFF file"), tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        try:
            refuse_colour(page)
        except ColourError as error:
            raise colour_refused(path, error) from error
        refuse_undecodable(page, path)
        frame = _geometry(tiff, path, page)
        kind = "OME-TIFF" if tiff.is_ome else "TIFF"
        known = tiff.is_ome or tiff.is_stk or tiff.is_lsm or tiff.is_mmstack
        layout = (_series_layout if known else _plain_layout)(tiff, path, frame)
    return FileSource(
        name=Path(path).name,
        path=path,
        shape=(layout.n_frames, *frame.shape),
        dtype=frame.dtype,
        chunk_frames=1,
        reader=layout.reader,
        coords=layout.coords,
        attrs={"source_format": kind},
        notes=layout.notes,
    )


def _series_layout(tiff: tifffile.TiffFile, path: str, frame: Geometry) -> Layout:
    """Layout by tifffile's account of the first series, for formats with metadata of their own."""
    series = tiff.series[0]
    axes = series.axes
    if not axes.endswith("YX") or series.shape[-2:] != frame.shape:
        raise InputError(
            f"The first series of {path} has the axes {axes} and the shape {series.shape}: "
            "a stack ends in y, x, and has no colours.",
            cure="Save it in greyscale with one page a frame.",
        )
    leading = dict(zip(axes[:-2], series.shape[:-2], strict=True))
    n_frames = math.prod(leading.values())
    coords = _axis_coordinates(leading)
    if tiff.is_ome:
        coords |= ome_times(tiff.ome_metadata, leading)
    offset = series.dataoffset
    if offset is not None and tiff.pages.first.is_final and not series.is_multifile:
        reader = RawReader(path, offset, frame.shape, frame.stored)
        return Layout(reader, n_frames, coords)
    pages = list(series.pages)
    if len(pages) != n_frames:
        raise InputError(
            f"The first series of {path} has {n_frames} frames in {len(pages)} pages.",
            cure="Save it with one page a frame.",
        )
    return Layout(_reader_of_pages(path, frame, pages), n_frames, coords)


def _reader_of_pages(path: str, like: Geometry, pages: list[Any]) -> PagesReader:
    """Reader of the pages of a series, which may be spread over files, and may be missing."""
    folder = Path(path).parent
    files: dict[str, int] = {Path(path).name: 0}
    places: list[tuple[int, int]] = []
    for page in pages:
        if page is None:
            places.append((0, _LOST))
            continue
        handle = page.parent.filehandle
        name = Path(handle.dirname).joinpath(handle.name).relative_to(folder).as_posix()
        places.append((files.setdefault(name, len(files)), page.offset))
    return PagesReader(str(folder), tuple(files), tuple(places), 0, like.shape, like.dtype.str)


def _plain_layout(tiff: tifffile.TiffFile, path: str, frame: Geometry) -> Layout:
    """Layout of a file in which every page is a frame."""
    page = tiff.pages.first
    offsets, whole = page_offsets(path)
    leading = _declared_axes(tiff)
    declared = math.prod(leading.values())
    n_found = len(offsets)
    raw = RawReader(path, page.dataoffsets[0], frame.shape, frame.stored)
    # ImageJ and tifffile store large stacks behind one directory; and a stack of which the end,
    # with the other directories, is lost still says how many frames it had.
    if declared > n_found and page.is_final and (n_found == 1 or not whole):
        notes = () if n_found == 1 and whole else (_cut_off(path, n_found, declared),)
        return Layout(raw, declared, _axis_coordinates(leading), notes)
    n_frames = n_found if whole else max(n_found + 1, declared)
    notes = () if whole else (_cut_off(path, n_found, n_frames),)
    times, contiguous = _check_pages(tiff, path, page, offsets)
    coords = _axis_coordinates(leading) if declared == n_frames else {}
    if len(times) == n_frames and None not in times:
        coords["time"] = np.array(times, dtype="datetime64[ns]")
    if contiguous and whole:
        return Layout(raw, n_frames, coords)
    places = [(0, offset) for offset in offsets] + [(0, _LOST)] * (n_frames - n_found)
    folder, name = str(Path(path).parent), Path(path).name
    reader = PagesReader(folder, (name,), tuple(places), 0, frame.shape, frame.dtype.str)
    return Layout(reader, n_frames, coords, notes)


def _cut_off(path: str, n_found: int, n_frames: int) -> str:
    return (
        f"{path} is cut off, or still being written: its chain of pages leads out of it after "
        f"page {n_found - 1}. It is taken as {n_frames} frames, of which those that are lost are "
        "unreadable; there may have been more."
    )


def _declared_axes(tiff: tifffile.TiffFile) -> dict[str, int]:
    """Leading axes as ImageJ or tifffile note them in the first page; none is fine."""
    meta = tiff.imagej_metadata
    if meta is not None:
        sizes = {axis: int(meta.get(word, 1)) for axis, word in _IMAGEJ.items()}
        if math.prod(sizes.values()) == 1:
            return {"I": int(meta.get("images", 1))}
        return sizes if str(meta.get("order", "czt")).lower() in {"czt", "default"} else {}
    # Not tifffile's list of all series: with a series a page it takes minutes to make.
    note = tiff.pages.first.shaped_description or ""
    shaped = json.loads(note) if note.startswith("{") else {}
    shape = [int(length) for length in shaped.get("shape", ())]
    if tuple(shape[-2:]) != tiff.pages.first.shape:
        return {}
    shape = shape[:-2]
    axes = str(shaped.get("axes", ""))[: len(shape)]
    if len(axes) != len(shape) or len(set(axes)) != len(axes):
        return {"I": math.prod(shape)}
    return dict(zip(axes, shape, strict=True))


_IMAGEJ = {"T": "frames", "Z": "slices", "C": "channels"}


def _check_pages(
    tiff: tifffile.TiffFile, path: str, first: tifffile.TiffPage, offsets: list[int]
) -> tuple[list[Any], bool]:
    """Return times of the pages looked at, and whether their pixels follow one another in the file.

    Raises
    ------
    InputError
        When pages have different shapes or dtypes.
    """
    times: list[Any] = []
    contiguous = first.is_final and first.dataoffsets[0] > 0
    for number in checked_numbers(len(offsets)):
        page = page_at(tiff, offsets[number], number)
        times.append(tiff_time(page))
        if page.shape != first.shape or page.dtype != first.dtype:
            raise InputError(
                f"The frames are not alike: page 0 of {path} is {first.shape} {first.dtype}, "
                f"page {number} is {page.shape} {page.dtype}.",
                consequence="Frames of one stack have one shape and one dtype.",
                cure="Save the pages that belong together to a file of their own.",
            )
        contiguous = (
            contiguous
            and page.is_final
            and page.dataoffsets[0] == first.dataoffsets[0] + number * first.nbytes
        )
    return times, contiguous


def _axis_coordinates(leading: dict[str, int]) -> dict[str, NDArray[Any]]:
    """Position along each of several leading axes; none where there is only one."""
    long = [axis for axis, size in leading.items() if size > 1]
    if len(long) < 2:
        return {}
    indices = np.indices([leading[axis] for axis in leading])
    positions = dict(zip(leading, indices, strict=True))
    return {axis.lower(): positions[axis].ravel() for axis in long}


def _recognises(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in _STARTS


TIFF = Format(
    "TIFF, BigTIFF, OME-TIFF",
    (*TIFF_SUFFIXES, ".btf", ".tf8", ".stk", ".lsm"),
    open_tiff,
    _recognises,
)
