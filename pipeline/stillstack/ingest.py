"""Frames from anywhere into a chunked Zarr stack: ingest and simulate, restartable as runs are."""

from __future__ import annotations

import hashlib
from math import isfinite
from typing import Any, Final

import numpy as np
import yaml

from stillstack.address import Location
from stillstack.simulation import SimulatedStack, beam_block_figure
from stillstack.sources import Source
from stillstack.stack_writer import OnFrames, StackOptions, Written, write_stack

__all__ = ["OnFrames", "StackOptions", "Written", "ingest", "simulated_config", "write_simulation"]

BLOCK_MARGIN_PX: Final = 2.0


def ingest(
    source: Source,
    destination: str | Location,
    options: StackOptions | None = None,
    *,
    on_frames: OnFrames | None = None,
) -> Written:
    """Copy any source into a Zarr stack, or finish a copy that was interrupted.

    Parameters
    ----------
    source
        What `stillstack.sources.open_source` opens.
    destination
        Zarr group to write: variable ``frames`` and the source's per-frame coordinates.
    options
        How it is stored.
    on_frames
        Called whenever a block has been written.

    Raises
    ------
    InputError
        The destination belongs to something else, or has no room.
    InterruptedRunError
        Stopped by Ctrl-C or SIGTERM; the same call finishes it.
    """
    attrs = {
        "title": source.name,
        "source_attributes": {str(name): _storable(v) for name, v in source.attrs.items()},
    }
    return write_stack(
        source,
        destination,
        source.shape,
        np.dtype(source.dtype),
        fingerprint=source.fingerprint(),
        coords=source.coords,
        attrs=attrs,
        options=options,
        on_frames=on_frames,
    )


def _storable(value: Any) -> Any:
    """Return numbers, short lists of them and text as JSON has them; anything else as text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_storable(each) for each in value]
    plain = isinstance(value, bool | int | str) or (isinstance(value, float) and isfinite(value))
    return value if plain else str(value)


def write_simulation(
    stack: SimulatedStack,
    destination: str | Location,
    options: StackOptions | None = None,
    *,
    on_frames: OnFrames | None = None,
) -> Written:
    """Write a simulated stack with its truth as coordinates; see `ingest`."""
    kinds = [stack.kind(index) or "" for index in range(len(stack))]
    identity = repr(
        (stack.shape, stack.seed, stack.saturation, stack.dark, sorted(stack.planted.items()))
    )
    arrays = (stack.shift, stack.intensity, stack.scene.expected())
    digest = hashlib.sha256(identity.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return write_stack(
        stack,
        destination,
        stack.shape,
        stack.dtype,
        fingerprint=f"simulated-{digest.hexdigest()[:16]}",
        coords={
            "true_shift_y": stack.shift[:, 0],
            "true_shift_x": stack.shift[:, 1],
            "planted": np.array(kinds),
        },
        attrs={"title": "simulated by stillstack", "seed": stack.seed},
        options=options,
        on_frames=on_frames,
    )


def simulated_config(stack: SimulatedStack, frames: str, aligned: str) -> str:
    """Config of a simulated stack, commented, with its beam-block excluded."""
    block = beam_block_figure(stack.scene.shape, BLOCK_MARGIN_PX)
    settings = {
        "input": {"path": frames},
        "output": {"path": aligned},
        "valid": {
            "frames": {
                "exclude": block.figures,
                "above": stack.saturation - 1,
            }
        },
        "registration": {"max_shift_px": 32},
    }
    return (
        "# A simulated stack behind a beam-block. Paths are relative to this file.\n"
        "# Excluded: rectangle [y0, y1, x0, x1] and circle [y, x, radius] of the beam-block;\n"
        "# values above: saturated pixels.\n"
        + yaml.safe_dump(settings, sort_keys=False, default_flow_style=None)
    )
