"""The config of a run as a value: its sections together, from YAML and back.

Every section is frozen and refuses keys that it does not know. What a person wrote wrong is
reported all at once, as an :class:`~stillstack.errors.InputError` that can be read aloud.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import Field, model_validator

from stillstack.address import is_address
from stillstack.config.cluster import ClusterConfig
from stillstack.config.correction import CorrectionConfig
from stillstack.config.exclude import ExcludeConfig
from stillstack.config.network import NetworkConfig
from stillstack.config.places import InputConfig, OutputConfig
from stillstack.config.registration import (
    AlignmentConfig,
    ReferenceConfig,
    RegistrationConfig,
    ShiftsConfig,
)
from stillstack.config.section import Section
from stillstack.config.settings_file import SettingsFile, parse_override, read_settings, validated
from stillstack.config.trajectory import TrajectoryConfig
from stillstack.config.valid import ValidSections


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


def as_config(config: RunConfig | Mapping[str, Any] | str | Path) -> RunConfig:
    """Config of whatever a caller has: itself, its sections as a mapping, or its path.

    Examples
    --------
    >>> as_config({"input": {"path": "a.zarr"}, "output": {"path": "b.zarr"}}).cluster.kind
    'local'
    """
    if isinstance(config, RunConfig):
        return config
    return make_config(config) if isinstance(config, Mapping) else load_config(config)


def to_yaml(config: RunConfig) -> str:
    """YAML of a config with every default written out; it loads to an equal config."""
    settings = config.model_dump(mode="json", exclude_none=True, by_alias=True)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


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
