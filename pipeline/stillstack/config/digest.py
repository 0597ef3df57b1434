"""What of a config decides on what is stored, and one digest of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from stillstack.config.run_config import RunConfig

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
    # as `_LATER_SECTIONS`
    if not config.output.ome_zarr:
        del settings["output"]["ome_zarr"]
    if config.input.engine is None:
        del settings["input"]["engine"]
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
    >>> from stillstack.config import make_config
    >>> here = make_config({"input": {"path": "/a"}, "output": {"path": "/b"}})
    >>> there = make_config({"output": {"path": "/c"}, "input": {"path": "/a"}})
    >>> config_digest(here) == config_digest(there)
    True
    """
    text = json.dumps(result_settings(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
