"""The template of a run: everything that is known of its store before the first frame is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.model import (
    AXES,
    AXIS,
    COLUMNS,
    FRAME,
    GROUP,
    TRAJECTORY_COLUMNS,
    Column,
    X,
    Y,
    empty_table,
    image_fill,
)
from stillstack.storage.arrays import (
    PYRAMID,
    Codec,
    cf_fill,
    coordinates_attribute,
    make_array,
    write_array,
    write_frame_coordinates,
)
from stillstack.storage.multiscales import (
    Axes,
    ome_attributes,
    stage_levels,
    stage_pyramid,
)
from stillstack.storage.staging import StagingStore

FORMAT: Final = 1
DETECTOR: Final = ("detector_y", "detector_x")
GIVEN: Final = {"shift": "shift_raw", "shift_std": "shift_raw_std", "status": "status_raw"}
"""Variables that keep what a run was given, or estimated, of each column of the table."""
_TAKEN: Final = (
    *(column.name for column in (*COLUMNS, *TRAJECTORY_COLUMNS)),
    *("aligned", "reference", "reference_valid", "valid", GROUP, "run", Y, X, AXIS, *DETECTOR),
    *("group_index", "group_shift", "group_shift_std", "loop_closure", PYRAMID),
)


@dataclass(frozen=True, eq=False)
class RunTemplate:
    """What a run will hold.

    Parameters
    ----------
    n_frames
        Frames of the stack.
    frame_shape
        Their (y, x) shape.
    config_digest, source_fingerprint
        What the store belongs to: a run with another is refused.
    reference, reference_valid, valid
        What is really used; (y, x), or (group, y, x) where there are several references.
    aligned_dtype
        dtype of the aligned frames; None where only shifts are wanted.
    canvas
        ``"input"``: aligned frames are as large as the input's. ``"common"``: their size is known
        later (`RunStore.create_aligned`), and the images above have dimensions of their own.
    chunk_frames
        Frames in a chunk.
    block_frames
        Frames in a block, the unit of work: a multiple of ``chunk_frames``.
    sharded
        Store each block as one object (a Zarr shard) rather than one per chunk.
    codec
        Compression: ``"zstd"`` or ``"lz4"``.
    coords
        Per-frame coordinates: numbers, times, strings.
    attrs
        More attributes of the group: config, versions, sources, reference_std.
    columns
        Per-frame variables beside those of every run; pending until `RunStore.write_columns`.
    given
        Rows of the table that are applied as they are, where nothing is registered.
    groups
        What is known of several references: variables of the dimension ``group``, and ``frame``.
    stage_frames
        How many pictures a stage goes through, where it is not every frame by itself.
    axes
        Of an OME-Zarr image, where the aligned frames shall be one; else None.
    """

    n_frames: int
    frame_shape: tuple[int, int]
    config_digest: str
    source_fingerprint: str
    reference: NDArray[Any]
    reference_valid: NDArray[Any]
    valid: NDArray[Any]
    aligned_dtype: np.dtype[Any] | str | None = None
    canvas: Literal["input", "common"] = "input"
    chunk_frames: int = 1
    block_frames: int = 8
    sharded: bool = False
    codec: Codec = "zstd"
    coords: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    given: NDArray[np.void] | None = None
    groups: Mapping[str, xr.Variable] = field(default_factory=dict)
    stage_frames: Mapping[str, int] = field(default_factory=dict)
    axes: Axes | None = None

    def __post_init__(self) -> None:
        check_blocks(self.n_frames, self.chunk_frames, self.block_frames)
        for name in ("reference", "reference_valid", "valid"):
            shape = np.shape(getattr(self, name))
            if shape[-2:] != tuple(self.frame_shape):
                msg = f"{name} is {shape} and the frames are {self.frame_shape}"
                raise ValueError(msg)

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group while the run is not complete."""
        dtype = None if self.aligned_dtype is None else np.dtype(self.aligned_dtype).name
        axes = None if self.axes is None or dtype is None else self.axes.to_json()
        ome = {}
        if axes is not None and self.canvas == "input":
            title = str(self.attrs.get("title", ""))
            ome = {"ome": ome_attributes(title, "aligned", self.frame_shape, axes)}
        return {
            **self.attrs,
            **ome,
            "Conventions": "CF-1.12",
            "config_digest": self.config_digest,
            "source_fingerprint": self.source_fingerprint,
            "layout": {
                "format": FORMAT,
                "kind": "run",
                "n_frames": self.n_frames,
                "frame_shape": list(self.frame_shape),
                "aligned_dtype": dtype,
                "canvas": self.canvas,
                "chunk_frames": self.chunk_frames,
                "block_frames": self.block_frames,
                "sharded": self.sharded,
                "codec": self.codec,
                **({"stage_frames": dict(self.stage_frames)} if self.stage_frames else {}),
                **({"given": True} if self.given is not None else {}),
                **({} if axes is None else {"ome_zarr": axes}),
            },
            "complete": False,
        }


def check_blocks(n_frames: int, chunk_frames: int, block_frames: int) -> None:
    """Raise ValueError unless blocks hold whole chunks."""
    if n_frames < 1 or chunk_frames < 1 or block_frames < 1 or block_frames % chunk_frames:
        msg = (
            f"{n_frames} frames in chunks of {chunk_frames} and blocks of {block_frames}: "
            "all must be positive, and a block a whole number of chunks."
        )
        raise ValueError(msg)


def stage_run(store: StagingStore, template: RunTemplate) -> None:
    """Stage all arrays of a run: metadata, and the values that are known."""
    names = write_frame_coordinates(store, template.coords, _TAKEN)
    write_array(store, AXIS, np.array(AXES), dims=(AXIS,), attrs={"long_name": "image axis"})
    stage_table(store, empty_table(template.n_frames), names)
    for column in template.columns:
        shape = (template.n_frames, 2) if column.per_axis else (template.n_frames,)
        values = np.full(shape, column.fill, column.dtype)
        if template.given is not None and column.name in GIVEN.values():
            source = next(name for name, kept in GIVEN.items() if kept == column.name)
            values = np.ascontiguousarray(template.given[source])
        _stage_column(store, column, values, names)
    for name, variable in template.groups.items():
        dims = tuple(str(dim) for dim in variable.dims)
        write_array(store, name, np.asarray(variable.values), dims=dims, attrs=variable.attrs)
    _stage_images(store, template)
    if template.aligned_dtype is not None and template.canvas == "input":
        layout = template.attributes()["layout"]
        if "ome_zarr" in layout:
            stage_pyramid(store)
            stage_levels(store, layout, template.frame_shape)
        stage_aligned(store, layout, template.frame_shape, names)


def stage_table(store: StagingStore, table: NDArray[np.void], coordinates: tuple[str, ...]) -> None:
    """Stage the per-frame variables, metadata and values."""
    for column in COLUMNS:
        _stage_column(store, column, np.ascontiguousarray(table[column.name]), coordinates)


def _stage_column(
    store: StagingStore, column: Column, values: NDArray[Any], coordinates: tuple[str, ...]
) -> None:
    attrs = {**column.xarray_attrs, **coordinates_attribute(coordinates)}
    fill = values.dtype.type(column.fill)
    write_array(store, column.name, values, dims=column.dims, attrs=attrs, fill=fill)


def _stage_images(store: StagingStore, template: RunTemplate) -> None:
    # Aligned frames of another size must not share these images' dimensions.
    dims = DETECTOR if template.aligned_dtype and template.canvas == "common" else (Y, X)
    images = {
        "reference": (np.asarray(template.reference, "f4"), "image that frames are registered to"),
        "reference_valid": (np.asarray(template.reference_valid, bool), "pixels that count in it"),
        "valid": (np.asarray(template.valid, bool), "pixels that count in every frame"),
    }
    for name, (image, long_name) in images.items():
        named = dims if image.ndim == 2 else (GROUP, *dims)
        units = {} if image.dtype == bool else {"units": "count"}
        write_array(store, name, image, dims=named, attrs={"long_name": long_name, **units})


def stage_aligned(
    store: StagingStore,
    layout: Mapping[str, Any],
    shape: tuple[int, int],
    coordinates: tuple[str, ...],
) -> None:
    """Stage the metadata of the aligned frames, as the group's layout says."""
    dtype = np.dtype(layout["aligned_dtype"])
    fill = image_fill(dtype)
    chunk, block = layout["chunk_frames"], layout["block_frames"]
    make_array(
        store,
        "aligned",
        (layout["n_frames"], *shape),
        dtype,
        dims=(FRAME, Y, X),
        chunks=(chunk, *shape),
        shards=(block, *shape) if layout["sharded"] else None,
        codec=layout["codec"],
        fill=fill,
        attrs={
            "long_name": "frame, resampled once so that it lands on the reference",
            "units": "count",
            **cf_fill(dtype, fill),
            **coordinates_attribute(coordinates),
        },
    )
