"""The demo: simulate a drifting stack, run it, and hold the result against the truth."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr

from stillstack.config import load_config
from stillstack.errors import InputError
from stillstack.ingest import OnFrames, simulated_config, write_simulation
from stillstack.model import is_good
from stillstack.run import run
from stillstack.simulation import SimulatedStack, simulate_stack

if TYPE_CHECKING:
    from stillstack.watch.progress import OnProgress, Progress

MARKER: Final = "demo.json"
CONFIG: Final = "demo.yaml"
FRAMES: Final = "frames.zarr"
ALIGNED: Final = "aligned.zarr"
_CALIBRATED: Final = (0.8, 1.25)


@dataclass(frozen=True)
class DemoSize:
    """What the demo simulates.

    Parameters
    ----------
    n_frames, height, width
        The stack.
    dose
        Mean counts a pixel.
    seed
        Of everything.
    """

    n_frames: int = 240
    height: int = 512
    width: int = 512
    dose: float = 60.0
    seed: int = 1

    def simulated(self) -> SimulatedStack:
        """Make the stack, with planted bad frames; nothing is computed yet."""
        return simulate_stack(
            self.n_frames, (self.height, self.width), dose=self.dose, seed=self.seed
        )


@dataclass(frozen=True)
class DemoResult:
    """How the run compares with what was simulated.

    Attributes
    ----------
    folder, frames, aligned
        Where the outputs are.
    n_frames, n_good
        Frames in all, and those called good.
    missed
        Planted bad frames that were called good, with their kind.
    wronged
        Good frames that were rejected.
    rms_px, predicted_px
        Root mean square error of a good frame's shift along one axis, after the common origin
        has been taken out, and what the error bars predict.
    run_seconds
        Time of the run alone, without the simulation; None where it was complete already.
    """

    folder: Path
    frames: Path
    aligned: Path
    n_frames: int
    n_good: int
    missed: dict[int, str]
    wronged: tuple[int, ...]
    rms_px: float
    predicted_px: float
    run_seconds: float | None

    @property
    def ratio(self) -> float:
        """Error over predicted error: 1 where the error bars are right."""
        return self.rms_px / self.predicted_px

    @property
    def faults(self) -> list[str]:
        """What is not as it should be; empty where the demo succeeded."""
        found = [
            f"Frame {index} was planted as {kind} and was called good."
            for index, kind in self.missed.items()
        ]
        found += [f"Frame {index} is good and was rejected." for index in self.wronged]
        low, high = _CALIBRATED
        if not low <= self.ratio <= high:
            found.append(
                f"The error is {self.ratio:.2f} of the predicted one; {low} to {high} is allowed."
            )
        return found


def run_demo(
    folder: str | Path,
    size: DemoSize | None = None,
    *,
    on_frames: OnFrames | None = None,
    on_progress: OnProgress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> DemoResult:
    """Simulate, run and compare; what an interrupted demo has done is not done again.

    Parameters
    ----------
    folder
        Where everything is written: new, empty, or that of an earlier demo.
    size
        What is simulated.
    on_frames, on_progress
        Called when frames have been simulated, and when a block of the run has finished.
    say
        Called with a sentence at each step.

    Raises
    ------
    InputError
        The folder holds something else.
    """
    size = size or DemoSize()
    folder = Path(folder)
    claim_folder(folder, size)
    stack = size.simulated()
    say(f"Simulating {size.n_frames} frames of {size.height} x {size.width} pixels.")
    write_simulation(stack, folder / FRAMES, on_frames=on_frames)
    config = folder / CONFIG
    if not config.exists():
        config.write_text(simulated_config(stack, FRAMES, ALIGNED), encoding="utf-8")
    say("Registering and aligning them on a local Dask cluster.")
    seen: list[str] = []

    def note(progress: Progress) -> None:
        seen.append(progress.stage)
        if on_progress is not None:
            on_progress(progress)

    began = time.monotonic()
    result = run(load_config(config), progress=note)
    seconds = time.monotonic() - began if seen else None
    return compare_with_truth(result, stack, folder, seconds)


def claim_folder(folder: Path, size: DemoSize) -> None:
    """Make the folder and mark it; refuse one that is not an earlier demo's of the same size."""
    marker = folder / MARKER
    wanted = {"stillstack": "demo", **asdict(size)}
    if folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not marker.is_file()):
            raise InputError(
                f"{folder} exists and was not made by stillstack demo.",
                consequence="It was left as it is.",
                cure="Name a folder that does not exist: stillstack demo FOLDER.",
            )
        if marker.is_file() and (found := _read_marker(marker)) != wanted:
            raise InputError(
                f"{folder} holds a demo of another kind: {found}, not {wanted}.",
                consequence="It was left as it is.",
                cure="Name another folder, or delete this one.",
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}.",
            cure="Name a folder in a place that you may write to: stillstack demo FOLDER.",
        ) from error


def _read_marker(marker: Path) -> Any:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        return None


def compare_with_truth(
    result: xr.Dataset, stack: SimulatedStack, folder: Path, seconds: float | None
) -> DemoResult:
    """Hold a run against the truth of the stack that it was made from.

    The origin of shifts is a convention (the reference is made of the frames), so the mean
    difference is taken out.
    """
    good = np.asarray(is_good(result["status"].values), bool)
    bad = set(stack.rejects)
    kept = np.array([index for index in np.flatnonzero(good) if index not in bad], int)
    error = result["shift"].values[kept] - stack.shift[kept]
    if kept.size:
        error = error - error.mean(axis=0)
    deviation = result["shift_std"].values[kept].astype(float)
    return DemoResult(
        folder=folder,
        frames=folder / FRAMES,
        aligned=folder / ALIGNED,
        n_frames=len(stack),
        n_good=int(good.sum()),
        missed={index: stack.kind(index) or "" for index in stack.rejects if good[index]},
        wronged=tuple(int(i) for i in np.flatnonzero(~good) if int(i) not in bad),
        rms_px=_rms(error),
        predicted_px=_rms(deviation),
        run_seconds=seconds,
    )


def _rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if np.size(values) else float("nan")
