"""A run that reductions are made of, and what NumPy makes of the same frames, all in memory.

The oracle moves frames by whole pixels with slices, and shares no code with the resampler. Where
shifts are fractions, the truth is the simulation's formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.model import REJECTING, is_good
from stillstack.simulation import SimulatedStack, beam_block_figure
from wrapped import WrappedSource

Values = NDArray[np.float64]


@dataclass(frozen=True)
class LoggedSource(WrappedSource):
    """Frames of another source as if it had other chunks; notes what is read, by any process."""

    chunk_frames: int = 1

    name: ClassVar[str] = "logged"

    def read(self, start: int, stop: int) -> NDArray[Any]:
        with Path(self.log).open("a") as log:
            log.write(f"{start} {stop}\n")
        return self.inner.read(start, stop)

    def ranges(self) -> list[tuple[int, int]]:
        lines = Path(self.log).read_text().split("\n") if Path(self.log).exists() else []
        return [(int(a), int(b)) for a, b in (line.split() for line in lines if line)]

    def frames_read(self) -> list[int]:
        return sorted(n for start, stop in self.ranges() for n in range(start, stop))


def config_of(simulated: SimulatedStack, frames: Path, output: Path) -> dict[str, Any]:
    """Sections of a config that registers a simulated stack without writing aligned frames."""
    block = beam_block_figure(simulated.scene.shape, margin_px=3.0)
    return {
        "input": {"path": str(frames)},
        "output": {"path": str(output), "aligned": False, "durable": False},
        "valid": {"frames": {"exclude": [{"rectangle": block.rod}, {"circle": block.disc}]}},
        "registration": {"max_shift_px": 16},
    }


def with_labels(run: xr.Dataset, n_delays: int = 3) -> xr.Dataset:
    """Return the run with a delay that changes from frame to frame, in one scan after the other."""
    number = np.arange(run.sizes["frame"])
    scan = np.array(["first", "second"])[(number >= len(number) // 2).astype(int)]
    return run.assign_coords(
        delay=("frame", (number % n_delays) * 0.5 - 0.5, {"units": "ps"}),
        scan=("frame", scan),
        number=("frame", number),
    )


def whole(run: xr.Dataset, shift: NDArray[Any] | None = None) -> xr.Dataset:
    """Return the run with whole-pixel shifts, and no pixels of single frames to leave out."""
    shift = np.rint(run["shift"].values) if shift is None else shift
    status = (run["status"].values & REJECTING).astype(np.uint16)
    return run.assign(shift=(("frame", "axis"), shift), status=("frame", status))


def moved(frame: NDArray[Any], valid: NDArray[np.bool_], shift: Any) -> Values:
    """Frame moved by whole pixels; NaN where nothing valid comes to lie."""
    image = np.where(valid, frame.astype(np.float64), np.nan)
    out = np.full(image.shape, np.nan)
    height, width = image.shape
    dy, dx = (int(s) for s in shift)
    to = (slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0)))
    take = (slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0)))
    out[to] = image[take]
    return out


def all_moved(run: xr.Dataset, frames: NDArray[Any]) -> Values:
    """All frames moved by the run's whole-pixel shifts; NaN for those that are not good."""
    valid, good = run["valid"].values, is_good(run["status"].values)
    out = np.full(frames.shape, np.nan)
    for i in np.flatnonzero(good):
        out[i] = moved(frames[i], valid, run["shift"].values[i])
    return out


@dataclass(frozen=True)
class Averages:
    """What NumPy makes of a group's aligned frames, all of them in memory."""

    values: Values

    @property
    def coverage(self) -> NDArray[np.int64]:
        return np.asarray(np.isfinite(self.values).sum(axis=0))

    @property
    def mean(self) -> Values:
        total = np.nansum(self.values, axis=0)
        return np.where(self.coverage > 0, total / np.maximum(self.coverage, 1), np.nan)

    @property
    def variance(self) -> Values:
        squares = np.nansum((self.values - self.mean) ** 2, axis=0)
        return np.where(self.coverage > 1, squares / np.maximum(self.coverage - 1, 1), np.nan)

    @property
    def standard_error(self) -> Values:
        return np.sqrt(self.variance / np.maximum(self.coverage, 1))


def groups(run: xr.Dataset, *by: str) -> Iterator[tuple[dict[str, Any], NDArray[np.bool_]]]:
    """Labels of each group and which of the run's frames it has, good or not."""
    if not by:
        yield {}, np.ones(run.sizes["frame"], bool)
        return
    for label in np.unique(run[by[0]].values):
        for more, chosen in groups(run, *by[1:]):
            yield {by[0]: label, **more}, chosen & (run[by[0]].values == label)


def agree(found: xr.Dataset, run: xr.Dataset, values: Values, *by: str) -> None:
    """Hold a reduction to NumPy's on the full array, to rounding."""
    for labels, chosen in groups(run, *by):
        group, truth = found.sel(labels), Averages(values[chosen])
        np.testing.assert_array_equal(group["coverage"], truth.coverage)
        np.testing.assert_allclose(group["mean"], truth.mean, rtol=1e-12)
        # sums of up to sixty squares, each with a few roundings
        np.testing.assert_allclose(group["variance"], truth.variance, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            group["standard_error"], truth.standard_error, rtol=1e-10, atol=1e-12
        )
