"""What a run found out about its motion as a whole, in sentences for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr

from stillstack.model import GROUP

_SHOWN: Final = 5


def motion_sentences(run: xr.Dataset) -> list[str]:
    """Sentences on drift, jitter, gaps and jumps, and on the groups' references; none without."""
    return [*_trajectory(run.attrs.get("trajectory") or {}), *_groups(run)]


def _trajectory(account: Mapping[str, Any]) -> list[str]:
    if not account:
        return []
    said = []
    drift, jitter = (_pair(account.get(name)) for name in ("drift_rms", "jitter_std"))
    if drift and jitter:
        said.append(
            f"Of the motion {drift} px rms is drift, about the mean of each stretch, and {jitter} "
            "px rms is jitter from frame to frame (y, x)."
        )
    for name, kind in (("gaps", "pauses"), ("jumps", "jumps of the sample")):
        found = account.get(name) or []
        if found:
            said.append(
                f"{len(found)} {kind}, before frame {_numbers([one['frame'] for one in found])}: "
                "nothing is smoothed or repaired across them."
            )
    return [*said, *(str(note) for note in account.get("notes") or ())]


def _groups(run: xr.Dataset) -> list[str]:
    if "group_shift" not in run:
        return []
    labels = run[GROUP].values[1:]
    shift = np.asarray(run["group_shift"].values, float)[1:]
    lost = np.flatnonzero(~np.isfinite(shift).all(axis=1))
    said = [
        (
            f"{len(labels)} groups of frames have references of their own "
            f"({run[GROUP].attrs.get('long_name', 'group')}); they lie up to "
            f"{np.nanmax(np.abs(shift), initial=0.0):.3g} px from their common template, known to "
            f"{np.nanmedian(run['group_shift_std'].values[1:]):.2g} px."
        )
    ]
    closure = np.asarray(run["loop_closure"].values, float)[1:]
    if np.isfinite(closure).any():
        worst = int(np.nanargmax(closure))
        said.append(
            f"Loops through them close to {np.nanmedian(closure):.2g} px, at worst to "
            f"{closure[worst]:.2g} px (group {labels[worst]})."
        )
    if lost.size:
        n_frames = int(np.isin(run["group_index"].values - 1, lost).sum())
        said.append(
            f"{lost.size} groups could not be tied to the others: their {n_frames} frames have no "
            f"shift ({', '.join(str(labels[i]) for i in lost[:_SHOWN])})."
        )
    return said


def _pair(values: Sequence[float | None] | None) -> str:
    if values is None or any(value is None or not np.isfinite(value) for value in values):
        return ""
    return ", ".join(f"{value:.3g}" for value in values)


def _numbers(frames: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in frames[:_SHOWN])
    return shown + (" ..." if len(frames) > _SHOWN else "")
