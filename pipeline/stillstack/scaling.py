"""What a run of another size would need: the plan's own arithmetic, with other numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.utils import parse_bytes

from stillstack import cluster
from stillstack.calibration import Calibration
from stillstack.errors import InputError
from stillstack.forecast import Forecast, forecast, steps_of_workers
from stillstack.layout import MOST_OBJECTS, Layout, lay_out
from stillstack.memory import coordinator_floor, needed_limit, worker_bytes
from stillstack.plan import Plan


@dataclass(frozen=True)
class _Stack:
    """As much of a source as its layout depends on."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    chunk_frames: int


@dataclass(frozen=True)
class Scale:
    """Needs of a run of some size, on a cluster whose workers have a core each.

    Parameters
    ----------
    layout
        How it would be cut up.
    source_bytes
        Raw frames.
    output_bytes
        Aligned frames; as large as pixels where nothing was calibrated.
    worker_limit
        Memory limit that each worker needs, bytes.
    coordinator_bytes
        Memory of the coordinator while blocks are done.
    steps
        Forecasts for more and more workers; none where nothing was calibrated.
    chosen
        Forecast for the workers that were asked for.
    """

    layout: Layout
    source_bytes: int
    output_bytes: int
    worker_limit: int
    coordinator_bytes: int
    steps: tuple[Forecast, ...]
    chosen: Forecast | None

    @property
    def many_objects(self) -> bool:
        """Whether the output would be more objects than file systems like."""
        return self.layout.n_objects > MOST_OBJECTS

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "frames": self.layout.n_frames,
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "blocks": self.layout.n_blocks,
            "block_frames": self.layout.block_frames,
            "sharded": self.layout.sharded,
            "objects": self.layout.n_objects,
            "worker_limit_bytes": self.worker_limit,
            "coordinator_bytes": self.coordinator_bytes,
            "workers": [step.to_json() for step in self.steps],
            "chosen": None if self.chosen is None else self.chosen.to_json(),
        }


def bytes_of(text: str) -> int:
    """Bytes that a size means.

    Examples
    --------
    >>> bytes_of("10TB"), bytes_of("1.5 GiB")
    (10000000000000, 1610612736)
    """
    try:
        return int(parse_bytes(text))
    except ValueError as error:
        raise InputError(f"{text} is not a size.", cure="Write it like 10TB or 300GB.") from error


def at_scale(
    plan: Plan, *, frames: int | None = None, n_bytes: int | None = None, workers: int | None = None
) -> Scale:
    """Needs of the same run with another number of frames.

    Parameters
    ----------
    plan
        Of the frames that there are; with a calibration, if times are wanted.
    frames, n_bytes
        How many frames, or bytes of raw frames; as many as there are, if neither is given.
    workers
        How many workers; else forecasts for more and more of them.

    Raises
    ------
    InputError
        If not even one frame is left.
    """
    layout, source = plan.layout, plan.source
    if n_bytes is not None:
        frames = n_bytes // max(1, layout.recorded_bytes)
        if frames < 1:
            raise InputError(
                f"A frame has {layout.recorded_bytes} bytes, and the run should have {n_bytes}.",
                cure="Give a larger size, such as --bytes 10TB.",
            )
    n_frames = layout.n_frames if frames is None else frames
    stack = _Stack((n_frames, *layout.frame_shape), plan.source.dtype, source.chunk_frames)
    large = lay_out(plan.config, stack, np.dtype(layout.aligned_dtype or "f4"))
    grouped = plan.config.groups is not None
    worker = worker_bytes(large, source.chunk_frames, grouped=grouped)
    steps, chosen = _forecasts(plan, large, plan.calibration, workers)
    stored = n_frames * layout.aligned_bytes
    if plan.calibration is not None:
        stored = plan.calibration.written * n_frames // plan.calibration.frames
    return Scale(
        layout=large,
        source_bytes=n_frames * layout.recorded_bytes,
        output_bytes=stored,
        worker_limit=needed_limit(worker, cluster.PAUSE_FRACTION),
        coordinator_bytes=coordinator_floor(large),
        steps=steps,
        chosen=chosen,
    )


def _forecasts(
    plan: Plan, layout: Layout, measured: Calibration | None, workers: int | None
) -> tuple[tuple[Forecast, ...], Forecast | None]:
    if measured is None:
        return (), None
    reference, chunk = plan.config.reference, plan.source.chunk_frames
    if workers is not None:
        one = forecast(layout, measured, reference, workers, source_chunk=chunk)
        return (), one
    return tuple(steps_of_workers(layout, measured, reference, chunk)), None
