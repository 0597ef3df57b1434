"""From what the passes of a run found out to its table, one row for every frame.

A pass may go through the frames in another order, group by group, and its shifts are then onto the
reference of each group. What is made of them here follows from the store alone, so that a run that
is taken up again, or verified, comes to the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.config import ExcludeConfig, TrajectoryConfig
from stillstack.drift import Trajectory, follow, interpolate_sums
from stillstack.errors import RunFaultError
from stillstack.exclusion import excluded
from stillstack.layout import APPLY, ESTIMATE, ONE_PASS, Stage
from stillstack.model import LEFT_OUT, Rows, Status, empty_table
from stillstack.storage import RunStore, open_run
from stillstack.storage.notes import SET_ASIDE_NOTE

SUM_RANGE: Final = "sum_range"
"""Name of the variable that says which frames each sum has, where sums are registered."""


@dataclass(frozen=True, eq=False)
class Settled:
    """The table of a run before its frames are aligned.

    Parameters
    ----------
    rows
        One for each frame.
    columns
        Variables beside the table, by name.
    attrs
        What the run's attributes say of it.
    """

    rows: Rows
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


def rows_before(store: RunStore, stage: Stage, left_out: NDArray[np.bool_]) -> Rows:
    """Rows of a stage before it begins: what the stages before came to, or which frames it skips.

    Parameters
    ----------
    store
        Of the run.
    stage
        The stage.
    left_out
        (frame,), True for frames that the config leaves out.
    """
    if not stage.estimates:
        return settle(store).rows
    rows = empty_table(store.stage_frames(stage.name))
    if store.has(SUM_RANGE):
        ranges = store.read(SUM_RANGE)
        empty = [bool(left_out[start:stop].all()) for start, stop in ranges]
        rows["status"][empty] = int(LEFT_OUT)
        return rows
    order = frame_order(store)
    rows["status"][left_out if order is None else left_out[order]] = int(LEFT_OUT)
    return rows


def publish(store: RunStore, stage: Stage, rows: Rows) -> None:
    """Write the table for readers, as far as a stage has come."""
    if stage == ESTIMATE and store.has(SUM_RANGE):
        return  # what sums show of frames is known when all of them are
    store.write_table(frame_rows(store, rows) if stage == ESTIMATE else rows)


def finish(store: RunStore) -> None:
    """Write what is known only when all frames are done, and declare the store complete.

    Raises
    ------
    RunFaultError
        If a frame is still pending.
    """
    settled = settle(store)
    if APPLY.name not in store.stages():
        store.write_table(settled.rows)
    pending = int(((store.read("status") & int(Status.PENDING)) != 0).sum())
    if pending:
        raise RunFaultError(
            f"{pending} frames of {store.path} are pending though every block is done.",
            cure="This is a fault of the program: please report it.",
        )
    _drop_reasons(store, settled)
    store.write_columns(settled.columns)
    store.finish(**settled.attrs)


def _drop_reasons(store: RunStore, settled: Settled) -> None:
    """Forget why frames were set aside that a later attempt could read after all."""
    reasons = store.set_aside()
    if not reasons or store.has(SUM_RANGE):  # of which a frame's status does not say enough
        return
    estimated = settled.columns.get("status_raw", settled.rows["status"])
    failed = ((estimated | store.read("status")) & int(Status.UNREADABLE)) != 0
    left = {str(number): why for number, why in reasons.items() if failed[number]}
    if len(left) < len(reasons):
        store.write_note(SET_ASIDE_NOTE, left)


def settle(store: RunStore) -> Settled:
    """Table that follows from what has been estimated so far, or was given."""
    stages = store.stages()
    if ONE_PASS[0].name in stages:
        return Settled(store.fold_rows(ONE_PASS[0].name))
    given = store.given_rows()
    settings = store.attributes["config"].get("trajectory")
    following = None if settings is None else TrajectoryConfig.model_validate(settings)
    if following is not None and store.has(SUM_RANGE):
        return _drawn_through(store, following)
    rows = frame_rows(store, store.fold_rows(ESTIMATE.name)) if given is None else given
    return Settled(rows) if following is None else _followed(store, rows, following)


def _followed(store: RunStore, rows: Rows, settings: TrajectoryConfig) -> Settled:
    """Table with the trajectory's shifts; what was estimated is kept beside it."""
    return _settled(rows, follow(_times(store, settings), rows, settings))


def _drawn_through(store: RunStore, settings: TrajectoryConfig) -> Settled:
    """Table of frames of which only sums were registered."""
    rows = empty_table(store.n_frames, Status(0))
    config = store.attributes["config"]
    if "exclude" in config:
        exclude = ExcludeConfig.model_validate(config["exclude"])
        coords = {str(name): c.values for name, c in open_run(store.path).coords.items()}
        rows["status"][excluded(exclude, coords, store.n_frames)] = int(LEFT_OUT)
    times, ranges = _times(store, settings), store.read(SUM_RANGE)
    sums = store.fold_rows(ESTIMATE.name)
    return _settled(rows, interpolate_sums(times, rows["status"], ranges, sums, settings))


def _times(store: RunStore, settings: TrajectoryConfig) -> NDArray[Any] | None:
    coords = open_run(store.path).coords
    name = settings.coordinate
    return np.asarray(coords[name].values) if name in coords else None


def _settled(rows: Rows, found: Trajectory) -> Settled:
    columns = {
        "shift_raw": rows["shift"].copy(),
        "shift_raw_std": rows["shift_std"].copy(),
        "status_raw": rows["status"].copy(),
        "segment": found.segment,
    }
    followed = rows.copy()
    for column in ("shift", "shift_std", "shift_corr", "status"):
        followed[column] = getattr(found, column)
    return Settled(followed, columns, {"trajectory": _account(found)})


def _account(found: Trajectory) -> dict[str, Any]:
    """What a run says of its motion: plain values."""
    figures = ("walk_strength", "jitter_std", "speed_strength", "drift_rms")
    return {
        **{name: getattr(found, name).tolist() for name in figures},
        "jumps": [vars(jump) for jump in found.jumps],
        "gaps": [vars(gap) for gap in found.gaps],
        "notes": list(found.notes),
    }


def table_of(store: RunStore) -> Rows:
    """Table as it stands: settled, and for frames that are aligned what came of that."""
    rows = settle(store).rows
    if APPLY.name in store.stages():
        aligned = store.fold_rows(APPLY.name)
        known = (aligned["status"] & int(Status.PENDING)) == 0
        rows[known] = aligned[known]
    return rows


def frame_rows(store: RunStore, rows: Rows) -> Rows:
    """Rows of an estimating pass in the order of the frames, with shifts onto the one reference."""
    order = frame_order(store)
    if order is None:
        return rows
    in_order = np.empty_like(rows)
    in_order[order] = rows
    group = store.read("group_index")
    in_order["shift"] += store.read("group_shift")[group]
    # registered to its group's reference, of which nobody knows where it lies
    registered = np.isfinite(in_order["shift_std"]).all(axis=1)
    lost = registered & ~np.isfinite(in_order["shift"]).all(axis=1)
    in_order["shift_std"][lost] = np.nan
    in_order["status"][lost] |= int(Status.NOT_CONVERGED)
    return in_order


def frame_order(store: RunStore) -> NDArray[np.int64] | None:
    """Frames in the order in which they are estimated, group by group; None for their own."""
    if not store.has("group_index"):
        return None
    return np.argsort(store.read("group_index"), kind="stable")
