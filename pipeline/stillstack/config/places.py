"""The sections ``input`` and ``output`` of a config: where frames are, and what is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stillstack.address import Location, located, place_fault
from stillstack.config.section import Section


class InputConfig(Section):
    """Where the frames are."""

    path: str = Field(
        min_length=1,
        description="A file of any format that can be read, a folder, or a pattern such as "
        "'run/*.tif'. Relative to this file.",
    )
    variable: str | None = Field(
        None,
        description="Array inside a Zarr group, dataset or group of an HDF5 file that holds "
        "several; of a DM3 or DM4 file, the number of the image.",
    )
    pattern: str | None = Field(
        None,
        description="What the file names say, as coordinates: 'scan{scan:d}_delay{delay:f}.tif'.",
    )
    engine: str | None = Field(
        None,
        min_length=1,
        description="Let xarray open it, with this engine of its: cfgrib for GRIB, zarr for packed "
        "numbers. Default: by what the file is.",
    )
    options: dict[str, str | bool] = Field(
        default_factory=dict,
        description="How an address (s3://bucket/stack.zarr) is reached: endpoint, region, "
        "profile, anonymous, requester_pays, virtual_hosted. Never credentials.",
    )

    @model_validator(mode="after")
    def _sound_place(self) -> InputConfig:
        _check_place(self.path.partition("::")[0], self.options)
        return self

    def __hash__(self) -> int:
        """Hash of a value whose options are a mapping."""
        return hash(self.model_dump_json())


class OutputConfig(Section):
    """What is written, and how."""

    path: str = Field(
        min_length=1,
        description="Zarr group to write: a folder, or an address such as s3://bucket/out.zarr. "
        "Relative to this file.",
    )
    options: dict[str, str | bool] = Field(
        default_factory=dict,
        description="How an address is reached, as in the section input. Never credentials.",
    )
    aligned: bool = Field(True, description="Write aligned frames; false: only the table.")
    codec: Literal["zstd", "lz4"] = Field(
        "zstd", description="Compression: zstd is smaller, lz4 faster."
    )
    block_frames: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Frames in one unit of work; a multiple of chunk_frames. "
        "auto follows the source's chunks.",
    )
    chunk_frames: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1, description="Frames in one chunk of the aligned array; auto: about 4 MiB of them."
    )
    shards: Literal["auto"] | bool = Field(
        False,
        description="Store each block as one object (a Zarr shard), for file systems and object "
        "stores that take few and large objects better; auto: where there would be more than "
        "100,000 objects without.",
    )
    ome_zarr: bool = Field(
        False,
        description="Write smaller images of each aligned frame along, and the metadata of an "
        "OME-Zarr 0.5 image, so that napari, Fiji and web viewers open the run.",
    )
    durable: bool = Field(
        True, description="Sync every written object to the disk before it counts as done."
    )

    @model_validator(mode="after")
    def _whole_chunks(self) -> OutputConfig:
        block, chunk = self.block_frames, self.chunk_frames
        if isinstance(block, int) and isinstance(chunk, int) and block % chunk:
            message = f"block_frames ({block}) should be a multiple of chunk_frames ({chunk})"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _frames_to_view(self) -> OutputConfig:
        if self.ome_zarr and not self.aligned:
            raise ValueError("ome_zarr is of aligned frames, and aligned is false")
        return self

    @model_validator(mode="after")
    def _sound_place(self) -> OutputConfig:
        _check_place(self.path, self.options)
        return self

    def __hash__(self) -> int:
        """Hash of a value whose options are a mapping."""
        return hash(self.model_dump_json())

    @property
    def place(self) -> Location:
        """Where it is written."""
        return located(self.path, self.options)


def _check_place(path: str, options: Mapping[str, Any]) -> None:
    fault = place_fault(path, options)
    if fault:
        raise ValueError(fault)
