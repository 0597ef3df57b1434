"""Formats of electron microscopes that RosettaSciIO knows (extra ``rosetta``).

The library is asked once, by whoever opens the file, where the frames lie: its lazy readers make
memory maps, of which nothing is read. What tasks carry is that place, so workers need no library,
and a file that is cut off is an unreadable frame instead of the end of a process.
"""

from __future__ import annotations

import importlib
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError, MissingExtraError
from stillstack.scan import scan_coordinates
from stillstack.sources.facts import calibration, flattened, series, told
from stillstack.sources.guard import opening
from stillstack.sources.protocol import FileSource, Format
from stillstack.sources.records import RecordReader, Records

EXTRA: Final = "rosetta"
_SPECTRA: Final = ("EELS", "EDS_TEM", "EDS_SEM", "CL")
_CAMERA_TAGS: Final = {
    "DataBar.Exposure Time (s)": "exposure_s",
    "Acquisition.Parameters.High Level.Exposure (s)": "exposure_s",
    "Acquisition.Device.Name": "detector",
}
_FAR_APART: Final = (
    "Pixels of one frame lie far apart in the file: each read goes over much of it. Copy it with "
    "stillstack ingest first, in one go."
)

Signal = Mapping[str, Any]
"""What a reader of RosettaSciIO returns: ``data``, ``axes``, ``metadata`` ..."""


@dataclass(frozen=True)
class Found:
    """Frames that were found in a file, and what it says of them."""

    reader: RecordReader
    n_frames: int
    coords: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def library(plugin: str) -> Any:
    """Return a reader's module of RosettaSciIO.

    Raises
    ------
    MissingExtraError
        When the library is not installed.
    """
    try:
        return importlib.import_module(f"rsciio.{plugin}")
    except ImportError as error:
        what = f"Reading files of RosettaSciIO's formats ({plugin})"
        raise MissingExtraError("rosettasciio", EXTRA, what) from error


@contextmanager
def doubts_refused() -> Iterator[None]:
    """Raise ValueError where the library goes on with a warning about the file.

    What it logs, it prints to the standard output, where only answers belong.
    """
    logger = logging.getLogger("rsciio")
    level = logger.level
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger.setLevel(logging.ERROR)
        try:
            yield
        except Exception as error:
            # some readers leave the file open when they raise: it is closed here, without a word
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            logger.setLevel(level)
    for warning in caught:
        if warning.category is UserWarning:
            raise ValueError(str(warning.message))


def open_with(
    plugin: str, kind: str, *, timed: bool = True, **options: Any
) -> Callable[[str, str | None], FileSource]:
    """Return the opener of a format of which the library's lazy reader makes memory maps.

    Parameters
    ----------
    plugin
        Module of ``rsciio``.
    kind
        What the files are called in messages.
    timed
        Whether the axis along the frames is calibrated by the file, and no guess of the library.
    **options
        For its ``file_reader``.
    """

    def open_file(path: str, variable: str | None = None) -> FileSource:
        module = library(plugin)
        with opening(path, kind):
            with doubts_refused():
                signals = module.file_reader(path, lazy=True, **options)
            signal = chosen(signals, path, variable)
            found = found_in(signal, path)
            coords = {name: values for name, values in found.coords.items()
                      if timed or name != "time"}  # fmt: skip
            return source_of(path, kind, replace(found, coords=coords))

    return open_file


def source_of(path: str, kind: str, found: Found) -> FileSource:
    """Return the source of frames that were found."""
    reader = found.reader
    return FileSource(
        name=Path(path).name,
        path=path,
        shape=(found.n_frames, *reader.shape),
        dtype=np.dtype(reader.dtype).newbyteorder("="),
        chunk_frames=1,
        reader=reader,
        coords=found.coords,
        attrs={**found.attrs, "source_format": kind.removeprefix("a ").removeprefix("an ")},
        notes=(*found.notes, *((_FAR_APART,) if reader.interleaved else ())),
    )


def chosen(signals: Sequence[Signal], path: str, variable: str | None) -> Signal:
    """Return the stack among what a file holds: the only one, or the one of a number.

    Raises
    ------
    InputError
        When there is none, or more than one.
    """
    frames = {str(n): s for n, s in enumerate(signals) if _holds_frames(s)}
    several = {n: s for n, s in frames.items() if s["data"].ndim > 2}
    if variable is not None:
        if variable in frames:
            return frames[variable]
        raise InputError(
            f"{path} holds no frames under the number {variable!r}.",
            cure=f"It holds: {_listing(frames) or 'nothing but spectra'}.",
        )
    candidates = several or frames
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    if candidates:
        raise InputError(
            f"{path} holds {len(candidates)} stacks: {_listing(candidates)}.",
            consequence="Which of them is meant is not for the program to guess.",
            cure="Name one by its number: input.variable in the config, the option --variable, "
            "or the path with '::NUMBER' behind it.",
        )
    raise InputError(
        f"{path} holds no frames, only spectra or lines.",
        cure="Open it with hyperspy, and save what is meant as frames.",
    )


def _holds_frames(signal: Signal) -> bool:
    info = signal.get("metadata", {}).get("Signal", {})
    form = _image_tags(signal).get("Meta Data", {})
    spectra = info.get("signal_type") in _SPECTRA or (
        isinstance(form, Mapping) and form.get("Format") in ("Spectrum", "Spectrum image")
    )
    # where the last axes are not both those of an image, it is spectra, or their map
    maps = signal["data"].ndim > 2 and any(axis["navigate"] for axis in signal["axes"][-2:])
    spectra = spectra or maps
    return signal["data"].ndim >= 2 and not spectra and signal["data"].dtype.kind in "uifbc"


def _image_tags(signal: Signal) -> Mapping[str, Any]:
    """Tags that DigitalMicrograph keeps with an image; empty for other formats."""
    images = signal.get("original_metadata", {}).get("ImageList", {})
    tags: Mapping[str, Any] = images.get("TagGroup0", {}).get("ImageTags", {})
    return tags if isinstance(tags, Mapping) else {}


def _listing(signals: Mapping[str, Signal]) -> str:
    return ", ".join(
        f"{number}: {s['metadata'].get('General', {}).get('title') or 'without a title'} "
        f"{s['data'].shape} {s['data'].dtype}"
        for number, s in signals.items()
    )


def found_in(signal: Signal, path: str) -> Found:
    """Return where the frames of a signal lie, and what the file says of them."""
    data, axes = signal["data"], list(signal["axes"])
    shape = data.shape
    if data.ndim > 4:
        raise InputError(
            f"{path} has the shape {shape}: frames of a stack, or of a scan of two dimensions.",
            cure="Open it with hyperspy, and save the part that is meant.",
        )
    reader = place_of(data, Path(path).parent)
    tags = flattened(_image_tags(signal))
    attrs = {name: tags[place] for place, name in _CAMERA_TAGS.items() if place in tags}
    attrs |= {**told(_mapped(signal)), **calibration(axes[-2:], "pixel_size")}
    coords: dict[str, NDArray[Any]] = {}
    if data.ndim == 4:
        coords |= scan_coordinates((shape[0], shape[1]))
        attrs |= calibration(axes[:2], "scan_step")
    elif data.ndim == 3:
        coords |= series({**axes[0], "size": shape[0]})
    return Found(reader, int(np.prod(shape[:-2])), coords, attrs)


def place_of(data: da.Array, folder: Path) -> RecordReader:
    """Return where the frames of a lazy array lie, asked of the memory maps behind it.

    A block of it is a view of a memory map: its address says at which byte it begins, and its
    strides how the frames follow one another. No pixel is touched.

    Raises
    ------
    ValueError
        When it is no view of a file: such data could only be read whole.
    """
    # RosettaSciIO makes a chunk a file here, or regular pieces of a single one
    blocks = data.to_delayed().ravel()
    first_axis = data.chunks[0] if data.ndim > 2 else (1,)
    per_file = data.ndim == 3 and len(blocks) > 1 and len(first_axis) == len(blocks)
    files: list[Records] = []
    strides: tuple[int, ...] = ()
    for number, block in enumerate(blocks if per_file else blocks[:1]):
        view = block.compute(scheduler="synchronous")
        name, offset = _place(view, folder)
        steps = view.strides
        if strides and steps != strides:
            raise ValueError("its frames do not lie alike in all files")
        strides = steps
        n_frames = first_axis[number] if per_file else int(np.prod(data.shape[:-2]))
        if files and files[-1].name == name:
            before = files[-1]
            if offset != before.offset + before.n_frames * steps[0]:
                raise ValueError("its frames do not lie at regular places")
            files[-1] = replace(before, n_frames=before.n_frames + n_frames)
        else:
            files.append(Records(name, offset, n_frames))
    if data.ndim == 4 and data.shape[0] > 1 and strides[0] != data.shape[1] * strides[1]:
        raise ValueError("the rows of its scan do not follow one another")
    frame_step = strides[-3] if data.ndim > 2 else data.nbytes
    return RecordReader(
        folder=str(folder),
        files=tuple(files),
        strides=(int(frame_step), int(strides[-2]), int(strides[-1])),
        shape=(int(data.shape[-2]), int(data.shape[-1])),
        dtype=view.dtype.str,
    )


def _place(view: Any, folder: Path) -> tuple[str, int]:
    """File of a view of a memory map, and the byte at which its first element lies."""
    root = view
    while isinstance(getattr(root, "base", None), np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or root.filename is None:
        raise ValueError("it is stored in a way that can only be read whole")
    begins = view.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    name = Path(root.filename).absolute().relative_to(folder.absolute())
    # NumPy maps whole pages: the offset is that of the first byte asked for
    return name.as_posix(), int(root.offset) + begins


def _mapped(signal: Signal) -> dict[str, Any]:
    """Metadata of a signal, with what the library would copy from the file's own tags."""
    metadata = {key: dict(part) for key, part in signal.get("metadata", {}).items()
                if isinstance(part, Mapping)}  # fmt: skip
    for origin, (target, convert) in signal.get("mapping", {}).items():
        value: Any = signal.get("original_metadata", {})
        for part in origin.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None or (isinstance(value, str | list) and not value):
            continue
        converted = value if convert is None else convert(value)
        *sections, last = target.split(".")
        place: dict[str, Any] = metadata
        for section in sections:
            place = place.setdefault(section, {})
        if converted is not None:
            place.setdefault(last, converted)
    return metadata


DM: Final = Format(
    "Gatan DM3, DM4",
    (".dm3", ".dm4"),
    open_with("digitalmicrograph", "a DM3 or DM4 file", chunks=-1),
    has_variables=True,
)
BLO: Final = Format(
    "NanoMegas blockfile",
    (".blo",),
    open_with("blockfile", "a blockfile", chunks=-1),
)
RPL: Final = Format("Lispix ripple", (".rpl",), open_with("ripple", "a ripple file", chunks=-1))
EMPAD: Final = Format("EMPAD", (".xml",), open_with("empad", "an EMPAD file", timed=False))
