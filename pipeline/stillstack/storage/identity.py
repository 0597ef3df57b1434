"""Whose store is it: new, ours and unfinished, ours and complete, or not to be touched."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from stillstack.address import Address, Location, located
from stillstack.errors import InputError
from stillstack.storage.arrays import plain_json
from stillstack.storage.objects import LOG, METADATA, RUN_FOLDER
from stillstack.storage.places import objects_at
from stillstack.storage.remote import PROBE, TRIAL
from stillstack.storage.template import FORMAT

OutputState = Literal["new", "unfinished", "complete"]
_ABSENT: Final = "absent"
_BEFORE_MARKER: Final = frozenset(
    {"lock", "lock.json", "holder.json", "tmp", LOG, f"{LOG}.1", METADATA}
)


def inspect_output(
    path: str | Location,
    *,
    config_digest: str,
    source_fingerprint: str,
    config: Mapping[str, Any] | None = None,
    kind: str = "run",
) -> OutputState:
    """State of an output for a given config and source; changes nothing.

    Parameters
    ----------
    path
        The output.
    config_digest, source_fingerprint
        What it has to belong to.
    config
        The config itself, to say which of its values differ.
    kind
        ``"run"`` or ``"stack"``.

    Raises
    ------
    InputError
        It exists and belongs to something else; the message says what differs.
    """
    path = located(path)
    refuse_foreign(path)
    attributes = read_attributes(path)
    if attributes is None:
        return "new"
    layout = attributes.get("layout")
    if not isinstance(layout, Mapping) or layout.get("kind") != kind:
        raise _belongs_elsewhere(path, f"it does not hold a stillstack {kind}")
    if layout.get("format") != FORMAT:
        raise _belongs_elsewhere(
            path, f"its format is {layout.get('format')}, and this version writes {FORMAT}"
        )
    if attributes.get("config_digest") != config_digest:
        stored = attributes.get("config")
        differences = list(_differences(stored, config)) if stored and config else []
        listed = "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")
        raise _belongs_elsewhere(
            path, f"it was made with another config ({listed or 'its digest differs'})"
        )
    if attributes.get("source_fingerprint") != source_fingerprint:
        raise _belongs_elsewhere(
            path,
            f"its source was another, or has changed since (fingerprint "
            f"{attributes.get('source_fingerprint')} there, {source_fingerprint} now)",
        )
    return "complete" if attributes.get("complete") is True else "unfinished"


def read_attributes(path: Location) -> dict[str, Any] | None:
    """Attributes of the group at a place; None where there is no group yet."""
    try:
        text = objects_at(path).read(METADATA)
        group = json.loads(text) if text is not None else None
    except ValueError as error:
        raise InputError(
            f"{path}/{METADATA} is damaged: {error}.",
            consequence="Nothing was changed.",
            cure="Restore it from a copy, or choose another output.",
        ) from error
    return None if group is None else dict(group.get("attributes", {}))


def refuse_foreign(path: Location) -> None:
    """Raise where a place holds something that is neither empty nor an output of ours.

    A folder is ours when its ``run/`` or its metadata say so, or when it holds nothing but what
    is made before they are.
    """
    objects = objects_at(path)
    names = set(objects.names())
    if not names and (isinstance(path, Address) or path.is_dir() or not path.exists()):
        return
    if names == {RUN_FOLDER} and _is_before_marker(set(objects.names(RUN_FOLDER)), path):
        return
    if _is_marked(path) or "layout" in (read_attributes(path) or {}):
        return
    raise InputError(
        f"{path} exists and was not made by stillstack.",
        consequence="It was left as it is.",
        cure="Choose another output.",
    )


def _is_before_marker(inside: set[str], path: Location) -> bool:
    """Whether ``run/`` holds only what is made before the file that marks it as ours."""
    if isinstance(path, Path) and not (path / RUN_FOLDER).is_dir():
        return False
    return all(name in _BEFORE_MARKER or name.startswith((PROBE, TRIAL)) for name in inside)


def marker() -> bytes:
    """Metadata of the group ``run``; says that the folder around it is ours."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"stillstack": "run folder"}}
    return json.dumps(group, indent=2).encode()


def _is_marked(path: Location) -> bool:
    try:
        return objects_at(path).read(f"{RUN_FOLDER}/{METADATA}") == marker()
    except OSError:
        return False


def _belongs_elsewhere(path: Location, why: str) -> InputError:
    return InputError(
        f"{path} belongs to something else: {why}.",
        consequence="It was left as it is, and nothing was started.",
        cure="Choose another output, or go back to the config and source that it was made with.",
    )


def _differences(stored: Any, given: Any, name: str = "") -> Iterator[str]:
    """Each value that differs: ``registration.max_shift_px: 32 there, 16 now``."""
    stored, given = plain_json(stored), plain_json(given)
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in sorted({*stored, *given}):
            inner = f"{name}.{key}" if name else key
            yield from _differences(stored.get(key, _ABSENT), given.get(key, _ABSENT), inner)
    elif stored != given:
        yield f"{name}: {_short(stored)} there, {_short(given)} now"


def _short(value: Any) -> str:
    text = value if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
