"""The config of a run as a value: pydantic models, YAML in, one digest out.

Every section is frozen and refuses keys that it does not know. What a person wrote wrong is
reported all at once, as an :class:`~stillstack.errors.InputError` that can be read aloud.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from stillstack.address import Location, is_address, located, place_fault
from stillstack.config.cluster import ClusterConfig
from stillstack.config.correction import CorrectionConfig
from stillstack.config.exclude import ExcludeConfig
from stillstack.config.network import NetworkConfig
from stillstack.config.section import Section, unsigned_zero
from stillstack.config.settings_file import SettingsFile, parse_override, read_settings, validated
from stillstack.config.trajectory import TrajectoryConfig
from stillstack.config.valid import ValidSections

Share = Annotated[float, Field(gt=0, le=1)]
Amount = Annotated[float, Field(ge=0), AfterValidator(unsigned_zero)]


class InputConfig(Section):
    """Where the frames are."""

    path: str = Field(
        min_length=1,
        description="Zarr, TIFF, npy or HDF5 file, a folder, or a pattern such as 'run/*.tif'. "
        "Relative to this file.",
    )
    variable: str | None = Field(
        None, description="Array inside the file (a Zarr group or HDF5 file with several)."
    )
    pattern: str | None = Field(
        None,
        description="What the file names say, as coordinates: 'scan{scan:d}_delay{delay:f}.tif'.",
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


MOST_ROUNDS: Final = 10
# Of refinement that ends by itself: what simulated runs took, and one more.
_USUAL_ROUNDS: Final = 3


class ReferenceConfig(Section):
    """The image that frames are registered to."""

    kind: Literal["first", "index", "mean", "median", "image"] = Field(
        "mean",
        description="first frame, frame number index, mean or median of spread frames, "
        "or an image file.",
    )
    index: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Frame number, from 0 (kind: index)."
    )
    frames: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        32,
        description="How many frames, evenly spread from start to stop, are averaged "
        "and refined with.",
    )
    start: int = Field(0, ge=0, description="First frame of the range to take from.")
    stop: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Frame after the last of the range. Default: the end."
    )
    path: str | None = Field(None, description="Image file (kind: image). Relative to this file.")
    refine: Annotated[int, Field(ge=0, le=MOST_ROUNDS)] | Literal["auto"] = Field(
        1,
        description="Rounds of: register, average what is aligned and good. auto: until that "
        "changes the frames' shifts by less than a tenth of their errors. "
        "Default: 1 for mean and median, 0 for first, index and image.",
    )

    @property
    def most_rounds(self) -> int:
        """Rounds of refinement that are never exceeded."""
        return MOST_ROUNDS if self.refine == "auto" else self.refine

    @property
    def usual_rounds(self) -> int:
        """Rounds of refinement to reckon with."""
        return _USUAL_ROUNDS if self.refine == "auto" else self.refine

    @model_validator(mode="before")
    @classmethod
    def _refine_by_kind(cls, data: Any) -> Any:
        # Who names one particular image gets it; an average of drifted frames is blurred.
        if isinstance(data, Mapping) and data.get("kind") in ("first", "index", "image"):
            return {"refine": 0, **data}
        return data

    @model_validator(mode="after")
    def _complete(self) -> ReferenceConfig:
        for key, kind in (("index", "index"), ("path", "image")):
            given = getattr(self, key) is not None
            if given != (self.kind == kind):
                message = (
                    f"{key} belongs to kind: {kind}, but kind is {self.kind}"
                    if given
                    else f"kind: {kind} needs {key}"
                )
                raise ValueError(message)
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop ({self.stop}) should be greater than start ({self.start})")
        return self


class RegistrationConfig(Section):
    """How shifts are estimated and when an estimate is rejected."""

    max_shift_px: int = Field(
        32, ge=1, description="Largest shift along y or x that is searched, px."
    )
    min_overlap: Share = Field(
        0.3, description="Smallest share of the reference's valid pixels that must overlap, 0 to 1."
    )
    min_ncc: Annotated[float, Field(ge=-1, le=1), AfterValidator(unsigned_zero)] | None = Field(
        None,
        description="Smallest correlation coefficient of a good frame, -1 to 1. "
        "Default: what the noise allows.",
    )
    max_peak_ratio: Share = Field(
        0.95,
        description="Largest second correlation peak over the first, 0 to 1; "
        "above it a frame is ambiguous.",
    )
    gain: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="Counts per detected electron or photon; auto: from the data."
    )
    read_noise: Amount = Field(0.0, description="Noise of a dark pixel, counts rms.")


class ShiftsConfig(Section):
    """Shifts from elsewhere."""

    path: str = Field(
        min_length=1,
        description="CSV file as stillstack shifts writes it, or a finished run. "
        "Relative to this file.",
    )


class AlignmentConfig(Section):
    """How shifts are applied."""

    interpolation: Literal["auto", "bspline", "catmull-rom", "lanczos", "linear"] = Field(
        "auto", description="Interpolation of sub-pixel shifts; whole pixels are copied exactly."
    )
    dtype: Literal["auto", "float32", "input"] = Field(
        "auto",
        description="Type of aligned frames; auto: the input's integer type "
        "where counts are high enough, else float32.",
    )
    canvas: Literal["input", "common"] = Field(
        "input", description="Area written: the input's, or what every good frame covers."
    )


class RunConfig(Section):
    """A stillstack run: frames in, aligned frames and a table of shifts out."""

    input: InputConfig = Field(description="Where the frames are.")
    output: OutputConfig = Field(description="What is written, and how.")
    correction: CorrectionConfig = Field(
        default_factory=CorrectionConfig, description="What the detector does to the counts."
    )
    exclude: ExcludeConfig = Field(
        default_factory=ExcludeConfig, description="Which frames are left out."
    )
    valid: ValidSections = Field(default_factory=ValidSections, description="Which pixels count.")
    reference: ReferenceConfig = Field(
        default_factory=ReferenceConfig, description="What frames are registered to."
    )
    groups: NetworkConfig | None = Field(
        None,
        description="References of their own for groups of frames, registered to one another. "
        "Frames are then read twice. Default: one reference for all.",
    )
    registration: RegistrationConfig = Field(
        default_factory=RegistrationConfig, description="How shifts are estimated."
    )
    shifts: ShiftsConfig | None = Field(
        None, description="Shifts that are applied as they are given; nothing is registered."
    )
    trajectory: TrajectoryConfig | None = Field(
        None,
        description="What is made of the shifts of all frames together, before they are applied. "
        "Frames are then read twice. Default: each frame's own shift is applied.",
    )
    alignment: AlignmentConfig = Field(
        default_factory=AlignmentConfig, description="How shifts are applied."
    )
    cluster: ClusterConfig = Field(
        default_factory=ClusterConfig, description="Where the work is done."
    )

    @model_validator(mode="after")
    def _one_origin_of_shifts(self) -> RunConfig:
        if self.shifts is not None and self.groups is not None:
            raise ValueError("shifts are given, so no frame is registered: leave out groups")
        in_sums = self.trajectory is not None and self.trajectory.sum_frames != 1
        if in_sums and (self.groups is not None or self.shifts is not None):
            other = "groups" if self.shifts is None else "shifts"
            raise ValueError(f"trajectory.sum_frames and {other} do not go together: choose one")
        return self


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Config read from a YAML file, checked and with absolute paths.

    Parameters
    ----------
    path
        YAML file. Relative paths in it are relative to its folder.
    overrides
        Single settings that replace the file's, such as ``"registration.max_shift_px=48"``; the
        value is YAML. Paths in them are relative to the current folder, where they were typed.

    Raises
    ------
    InputError
        The file cannot be read or is not YAML, or settings are wrong: all findings at once.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "run.yaml")
    ...     _ = path.write_text("{input: {path: a.zarr}, output: {path: b.zarr}}")
    ...     load_config(path, ["registration.max_shift_px=48"]).registration.max_shift_px
    48
    """
    path = Path(path)
    file = read_settings(path)
    _make_absolute(file.settings, path.absolute().parent)
    for text in overrides:
        location, value = parse_override(text)
        if location in _PATHS and isinstance(value, str):
            value = _absolute(value, Path.cwd())
        file.override(location, value)
    return validated(RunConfig, file)


def make_config(settings: Mapping[str, Any]) -> RunConfig:
    """Config made from nested mappings, checked; relative paths are relative to the current folder.

    Examples
    --------
    >>> config = make_config({"input": {"path": "/data/run.zarr"}, "output": {"path": "/data/out"}})
    >>> config.registration.max_shift_px
    32
    """
    raw = json.loads(json.dumps(dict(settings), default=str))
    _make_absolute(raw, Path.cwd())
    return validated(RunConfig, SettingsFile("The config", raw))


def to_yaml(config: RunConfig) -> str:
    """YAML of a config with every default written out; it loads to an equal config."""
    settings = config.model_dump(mode="json", exclude_none=True, by_alias=True)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


_LATER_SECTIONS: Final = ("correction", "exclude", "groups", "shifts", "trajectory")
"""Sections that versions before did not have: where nothing is set there, nothing is said of them,
so that runs which an older version began can be finished."""


def result_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that change what is stored: what the digest is made of.

    Left out are the cluster, where the output lies, how addresses are reached, how durably it is
    written, and how many frames one task takes: none of them changes a stored byte. Where a task's
    frames may be one object, their number does.
    """
    settings: dict[str, Any] = config.model_dump(mode="json")
    del settings["cluster"]
    sharded = config.output.shards is not False
    for key in ("path", "options", "durable", *(() if sharded else ("block_frames", "shards"))):
        del settings["output"][key]
    del settings["input"]["options"]
    for name in _LATER_SECTIONS:
        if getattr(config, name) == RunConfig.model_fields[name].get_default(
            call_default_factory=True
        ):
            del settings[name]
    if settings["valid"]["reference"] is None:
        settings["valid"]["reference"] = settings["valid"]["frames"]
    return settings


def config_digest(config: RunConfig) -> str:
    """16 hex digits (SHA-256) that are equal for configs with equal results.

    The order of keys, defaults written out or not, ``5`` or ``5.0`` and the settings that
    :func:`result_settings` leaves out make no difference.

    Examples
    --------
    >>> here = make_config({"input": {"path": "/a"}, "output": {"path": "/b"}})
    >>> there = make_config({"output": {"path": "/c"}, "input": {"path": "/a"}})
    >>> config_digest(here) == config_digest(there)
    True
    """
    text = json.dumps(result_settings(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def json_schema() -> dict[str, Any]:
    """JSON Schema of the config file, for editors that complete and check."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **RunConfig.model_json_schema(),
    }


_PATHS: Final = (
    ("input", "path"),
    ("output", "path"),
    ("reference", "path"),
    ("shifts", "path"),
    ("correction", "dark"),
    ("correction", "gain"),
    ("correction", "defects"),
    ("valid", "frames", "image"),
    ("valid", "reference", "image"),
)


def _make_absolute(raw: dict[str, Any], folder: Path) -> None:
    for *sections, key in _PATHS:
        section: Any = raw
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(section.get(key), str) and section[key]:
            section[key] = _absolute(section[key], folder)


def _absolute(path: str, folder: Path) -> str:
    if is_address(path):
        return path
    joined = folder / Path(path).expanduser()
    # ".." is folded by text, so that patterns and files yet to be written can be named.
    parts: list[str] = []
    for part in joined.parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        else:
            parts.append(part)
    return str(Path(*parts))
