"""From a source to a lazy stack whose graph carries no data."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.blockwise import BlockwiseDep, blockwise
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.model import FRAME, X, Y
from stillstack.sources.guard import unreadable
from stillstack.sources.protocol import Source

_DEFAULT_CHUNK_BYTES = 32 * 2**20


class Reads(Protocol):
    """Anything that reads a range of frames."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``."""
        ...


@runtime_checkable
class Narrowing(Protocol):
    """A source that can leave behind what a range of frames does not need."""

    def narrow(self, start: int, stop: int) -> Reads:
        """Return what a task that reads these frames has to carry."""
        ...


Piece = tuple[Reads, int, int, tuple[int, int], str]


def read_piece(piece: Piece) -> NDArray[Any]:
    """Frames of one chunk: what a task runs.

    Parameters
    ----------
    piece
        Reader, first frame, end, shape of a frame, dtype.
    """
    reader, start, stop, shape, dtype = piece
    frames = reader.read(start, stop)
    if frames.shape != (stop - start, *shape) or frames.dtype != np.dtype(dtype):
        raise unreadable(
            f"Frames {start} to {stop}",
            f"they were announced as {(stop - start, *shape)} {dtype}, "
            f"and are {frames.shape} {frames.dtype}",
        )
    return frames


class Pieces(BlockwiseDep):
    """Says what the task of each chunk carries, when Dask comes to ask for it.

    Parameters
    ----------
    source
        Narrowed to the range, so that a short slice of a long source makes a small graph.
    edges
        First frame of each chunk, and the end.
    shape, dtype
        Of a frame.
    token
        Name of all this, the same at each build.
    """

    produces_tasks = False

    def __init__(
        self,
        source: Reads,
        edges: NDArray[np.int64],
        shape: tuple[int, int],
        dtype: str,
        token: str,
    ) -> None:
        self.source = source
        self.edges = edges
        self.shape = shape
        self.dtype = dtype
        self.token = token
        self.numblocks = (len(edges) - 1, 1, 1)

    def __getitem__(self, idx: tuple[int, ...]) -> Piece:
        start, stop = int(self.edges[idx[0]]), int(self.edges[idx[0] + 1])
        return (narrowed(self.source, start, stop), start, stop, self.shape, self.dtype)

    def __dask_tokenize__(self) -> str:
        return self.token


def stack_of(
    source: Source, start: int = 0, stop: int | None = None, chunk_frames: int | None = None
) -> xr.DataArray:
    """Lazy stack of a range of frames of a source.

    Nothing is read, and the cost depends on the length of the range, not of the source.

    Parameters
    ----------
    source
        Where the frames come from.
    start, stop
        Absolute frame numbers; by default the whole source.
    chunk_frames
        Frames of one Dask chunk, counted from ``start``; by default the smallest multiple of the
        source's own pieces that makes about 32 MiB.

    Returns
    -------
    DataArray of dimensions frame, y, x, chunked along frame. Its ``frame`` coordinate is the
    absolute number of the frame in the source, and per-frame coordinates come along. Built twice
    from an unchanged source it has the same keys.

    Raises
    ------
    InputError
        When the range or ``chunk_frames`` makes no sense.

    Examples
    --------
    >>> import tempfile
    >>> from stillstack.sources import open_source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/frames.npy", np.zeros((20, 4, 6), "uint16"))
    ...     stack_of(open_source(f"{folder}/frames.npy"), 5, 10, chunk_frames=2).chunks
    ((2, 2, 1), (4,), (6,))
    """
    n_frames, height, width = source.shape
    stop = n_frames if stop is None else stop
    if not 0 <= start < stop <= n_frames:
        raise InputError(
            f"Frames {start} to {stop} were asked of {source.name}, which has frames 0 to "
            f"{n_frames}.",
            cure="Ask for a range inside it that holds one frame or more.",
        )
    dtype = np.dtype(source.dtype)
    step = _default_chunk(source) if chunk_frames is None else chunk_frames
    if step < 1:
        raise InputError(
            f"chunk_frames is {step}.", cure="Choose one frame or more, or leave it out."
        )
    edges = np.append(np.arange(start, stop, step), stop)
    token = tokenize(getattr(source, "token", None) or source.fingerprint(), start, stop, step)
    pieces = Pieces(narrowed(source, start, stop), edges, (height, width), dtype.str, token)
    frames = _dask_array(f"frames-{token}", pieces, dtype)
    coords = {name: (FRAME, values[start:stop]) for name, values in source.coords.items()}
    return xr.DataArray(
        frames,
        dims=(FRAME, Y, X),
        coords={FRAME: np.arange(start, stop), **coords},
        name="frames",
        attrs=dict(source.attrs),
    )


def _dask_array(name: str, pieces: Pieces, dtype: np.dtype[Any]) -> da.Array:
    # A Blockwise layer, as Dask's own readers make: it fuses with what is mapped over it, stays
    # symbolic until it is computed, and is marked as a producer so that the scheduler queues it.
    layer = blockwise(
        read_piece, name, (0, 1, 2), pieces, (0, 1, 2), numblocks={}, _data_producer=True
    )
    graph = HighLevelGraph.from_collections(name, layer)
    lengths = tuple(int(length) for length in np.diff(pieces.edges))
    height, width = pieces.shape
    return da.Array(graph, name, (lengths, (height,), (width,)), dtype=dtype)


def narrowed(source: Reads, start: int, stop: int) -> Reads:
    """Return what a task that reads these frames has to carry: of a source that can, less."""
    return source.narrow(start, stop) if isinstance(source, Narrowing) else source


def _default_chunk(source: Source) -> int:
    _, height, width = source.shape
    piece_bytes = source.chunk_frames * height * width * np.dtype(source.dtype).itemsize
    return source.chunk_frames * max(1, _DEFAULT_CHUNK_BYTES // max(1, piece_bytes))
