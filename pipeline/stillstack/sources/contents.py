"""What lies at a path, told without a frame being read: frames, a stack of ours, or a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from stillstack.address import Address, is_address, located
from stillstack.model import FRAME, SCAN_X, SCAN_Y
from stillstack.sources.opening import open_source
from stillstack.sources.protocol import FileSource
from stillstack.storage import open_run, read_attributes

Kind = Literal["source", "stack", "run"]
_KNOWN_WORDS: Final = ("pixel", "exposure", "voltage", "physicalsize", "count_time", "dwell")
_SHORT: Final = 80
_FOR_THE_PROGRAM: Final = (
    *("layout", "complete", "config_digest", "source_fingerprint", "reference_digest"),
    *("Conventions", "source_format", "source_attributes", "config", "versions", "registration"),
)


@dataclass(frozen=True)
class Span:
    """Values of one per-frame coordinate.

    Parameters
    ----------
    dtype
        Of the values.
    first, last
        Smallest and largest, or of text the first and the last frame's.
    n_distinct, n_missing
        How many different ones, and how many frames have none.
    """

    dtype: str
    first: Any
    last: Any
    n_distinct: int
    n_missing: int = 0


@dataclass(frozen=True)
class Contents:
    """What is at a path.

    Parameters
    ----------
    path
        Where.
    kind
        ``"run"``: what ``stillstack run`` wrote; ``"stack"``: what ingest or simulate did;
        ``"source"``: anything else with frames.
    format
        Of the file or folder.
    complete
        Of a run or a stack, whether all of it has been written; None for others.
    shape
        (frame, y, x); None for a run that has no aligned frames.
    dtype, chunk_frames
        Of the frames, and how many of them are stored as one piece.
    coords
        Per-frame coordinates.
    attrs
        What it says of itself: those that tell pixel size, exposure or voltage first.
    variables
        Of a run: dimensions, dtype and units of each variable.
    scan
        Rows and columns of the grid on which the frames of a scan lie; None where there is none.
    pixel_size
        Of the frames, with its unit; empty where the file does not say.
    notes
        What is odd about the file, in sentences.
    config
        Lines of a config to begin with; empty for a run.
    """

    path: str
    kind: Kind
    format: str
    complete: bool | None = None
    shape: tuple[int, int, int] | None = None
    dtype: str = ""
    chunk_frames: int = 0
    coords: Mapping[str, Span] = field(default_factory=dict)
    attrs: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    scan: tuple[int, int] | None = None
    pixel_size: str = ""
    notes: tuple[str, ...] = ()
    config: str = ""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame as pixels."""
        if self.shape is None:
            return 0
        return self.shape[1] * self.shape[2] * np.dtype(self.dtype).itemsize

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        coords = {name: vars(span) for name, span in self.coords.items()}
        size = {"frame_bytes": self.frame_bytes}
        if self.shape is not None:
            size["raw_bytes"] = self.frame_bytes * self.shape[0]
        return {**vars(self), "coords": coords, **size}


def contents(
    path: str | os.PathLike[str],
    *,
    variable: str | None = None,
    pattern: str | None = None,
    engine: str | None = None,
) -> Contents:
    """What is at a path, from its metadata alone.

    Parameters
    ----------
    path, variable, pattern, engine
        As of :func:`stillstack.open_stack`.

    Raises
    ------
    InputError
        There is nothing there, or nothing with frames.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for delay in (0.5, 2.0):
    ...         np.save(f"{folder}/delay{delay}.npy", np.zeros((4, 6), "uint16"))
    ...     found = contents(folder, pattern="delay{delay:f}.npy")
    >>> found.shape, found.coords["delay"].first, found.coords["delay"].last
    ((2, 4, 6), 0.5, 2.0)
    """
    ours = _ours(path) if variable is pattern is engine is None else None
    if ours is not None and ours["layout"]["kind"] == "run":
        return _run(path, ours)
    source = open_source(path, variable=variable, pattern=pattern, engine=engine)
    attrs = dict(source.attrs)
    if ours is not None:
        attrs = {**ours, **dict(ours.get("source_attributes") or {}), **attrs}
    return Contents(
        path=source.path,
        kind="source" if ours is None else "stack",
        format=str(source.attrs.get("source_format", "")),
        complete=None if ours is None else ours.get("complete") is True,
        shape=source.shape,
        dtype=source.dtype.name,
        chunk_frames=source.chunk_frames,
        coords={name: span_of(np.asarray(values)) for name, values in source.coords.items()},
        attrs=_told(attrs),
        scan=_scan(source.coords),
        pixel_size=_pixel_size(attrs),
        notes=source.notes,
        config=_first_config(
            source, path, {"variable": variable, "pattern": pattern, "engine": engine}
        ),
    )


def span_of(values: NDArray[Any]) -> Span:
    """Return from where to where the values of a coordinate go.

    Examples
    --------
    >>> span_of(np.array([2.0, float("nan"), -1.0]))
    Span(dtype='float64', first=-1.0, last=2.0, n_distinct=2, n_missing=1)
    """
    flat = values.ravel()
    numeric = flat.dtype.kind in "biufmM"
    dtype = flat.dtype.name if numeric else "text"
    missing = (
        np.isnan(flat)
        if flat.dtype.kind == "f"
        else np.isnat(flat)
        if flat.dtype.kind in "mM"
        else np.zeros(flat.size, bool)
    )
    known = flat[~missing]
    if not known.size:
        return Span(dtype, None, None, 0, int(missing.sum()))
    ends = (known.min(), known.max()) if numeric else (known[0], known[-1])
    first, last = (_plain(end) for end in ends)
    return Span(dtype, first, last, int(np.unique(known).size), int(missing.sum()))


def _scan(coords: Mapping[str, NDArray[Any]]) -> tuple[int, int] | None:
    """Rows and columns of a scan, where coordinates place every frame on a grid."""
    if not {SCAN_Y, SCAN_X} <= set(coords):
        return None
    rows, columns = (np.unique(np.asarray(coords[name])).size for name in (SCAN_Y, SCAN_X))
    return rows, columns


def _pixel_size(attrs: Mapping[str, Any]) -> str:
    """Size of a pixel as one text.

    Examples
    --------
    >>> _pixel_size({"pixel_size": [0.1, 0.2], "pixel_size_units": "nm"})
    '0.1 x 0.2 nm (y, x)'
    >>> _pixel_size({"pixel_size": 55e-6, "pixel_size_units": "m"})
    '5.5e-05 m'
    """
    size, units = attrs.get("pixel_size"), attrs.get("pixel_size_units", "")
    if size is None:
        return ""
    if not isinstance(size, list | tuple):
        return f"{float(size):.6g} {units}".strip()
    return f"{' x '.join(f'{float(each):.6g}' for each in size)} {units} (y, x)".replace("  ", " ")


def _plain(value: Any) -> Any:
    if isinstance(value, np.datetime64 | np.timedelta64):
        return str(value)
    return value.item() if isinstance(value, np.generic) else str(value)


def _ours(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Attributes of a store that this program wrote, None for anything else."""
    text = os.fspath(path)
    if not is_address(text) and not Path(text).expanduser().is_dir():
        return None
    place = located(text)
    attributes = read_attributes(place if isinstance(place, Address) else place.expanduser())
    layout = (attributes or {}).get("layout")
    known = isinstance(layout, dict) and layout.get("kind") in ("run", "stack")
    return attributes if known else None


def _run(path: str | os.PathLike[str], attributes: Mapping[str, Any]) -> Contents:
    layout = attributes["layout"]
    with open_run(os.fspath(path)) as run:
        variables = {
            str(name): f"{' x '.join(map(str, array.dims))}, {array.dtype}"
            + (f", {array.attrs['units']}" if array.attrs.get("units", "1") != "1" else "")
            for name, array in sorted(run.data_vars.items(), key=lambda item: str(item[0]))
        }
        coords = {
            str(name): span_of(np.asarray(array.values))
            for name, array in run.coords.items()
            if array.dims == (FRAME,)
        }
        aligned = run.get("aligned")
        shape = None if aligned is None else (aligned.shape[0], aligned.shape[1], aligned.shape[2])
    return Contents(
        path=os.fspath(path),
        kind="run",
        format=f"OME-Zarr {attributes['ome']['version']}" if "ome" in attributes else "Zarr",
        complete=attributes.get("complete") is True,
        shape=shape,
        dtype=str(layout.get("aligned_dtype") or ""),
        chunk_frames=int(layout["chunk_frames"]),
        coords=coords,
        attrs=_told(attributes),
        variables=variables,
    )


def _told(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Attributes that fit into a line; what is only for the program is left out."""
    plain = {
        str(name): str(value)
        for name, value in attrs.items()
        if isinstance(value, str | int | float | list | tuple | np.generic | np.ndarray)
        and name not in _FOR_THE_PROGRAM
        and len(str(value)) <= _SHORT
        and "\n" not in str(value)
    }
    known = [n for n in plain if any(word in n.lower().replace(" ", "") for word in _KNOWN_WORDS)]
    return {name: plain[name] for name in [*known, *(n for n in plain if n not in known)]}


def _first_config(
    source: FileSource,
    path: str | os.PathLike[str],
    given_with: Mapping[str, str | None],
) -> str:
    """Lines of a config that runs these frames, to which the valid pixels have to be added."""
    given = os.fspath(path)
    name = Path(source.path.partition("::")[0].rstrip("/")).stem.strip("*?[]") or "frames"
    whole = given if is_address(given) else str(Path(given).expanduser().absolute())
    entry = {"path": whole}
    entry |= {key: value for key, value in given_with.items() if value is not None}
    limit = max(1, min(32, min(source.shape[1:]) // 4))
    settings = {
        "input": entry,
        "output": {"path": f"{name}-aligned.zarr"},
        "registration": {"max_shift_px": limit},
    }
    return str(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
