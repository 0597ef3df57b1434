"""The verdict of an assessment against the truth: ``python tests/benchmarks/assessment.py``.

Stacks of every scene drift behind a beam-block. ``stillstack assess`` sees one of them, as it would
a user's, and says what its frames and less dose support. Beside it stands what registration does
to other stacks of those doses, whose shifts are known. ``--short`` takes fewer frames and trials,
``--out FILE`` writes the table as Markdown, ``--strict`` exits with 1 if a figure is missed.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from dask.base import compute
from numpy.typing import NDArray
from scorecard import Row, finish, header, options, table

from stillstack.assess import Assessment, assess
from stillstack.assess.result import DoseRow
from stillstack.config import make_config
from stillstack.kernels.registration import prepare_reference, register_frame
from stillstack.plan import Plan, plan
from stillstack.reference import ReferenceMaker
from stillstack.simulation import SCENES, SimulatedStack, beam_block_figure, simulate_stack

SHAPE = (256, 256)
DOSES = (60.0, 4.0)
FACTORS = (1.0, 0.25, 1 / 16)
N_FRAMES = 200
SEEN_SEED, TRUE_SEED = 11, 12
# Half a period of the crystal: frames that may be further away are ambiguous.
MAX_SHIFT_PX = 12
ALLOWED = 0.20
# At so few counts a pixel a run finds no frame to begin its reference with.
LEAST_DOSE = 0.2


@dataclass(frozen=True, eq=False)
class Truth:
    """Errors of registration about their mean, px, and the part of frames that landed."""

    error: NDArray[np.float64]
    landed: float

    @property
    def rms(self) -> NDArray[np.float64]:
        return np.asarray(self.error.std(axis=0, ddof=1))


def drawn(scene: str, dose: float, n_frames: int, seed: int) -> SimulatedStack:
    """A simulated stack: the same scene and path for any seed, and other noise."""
    stack = simulate_stack(
        n_frames, SHAPE, dose=dose, scene=scene, seed=SEEN_SEED, planted=False, drift_px=8.0
    )
    return replace(stack, seed=seed)


def planned(
    scene: str, dose: float, n_frames: int, seed: int, folder: Path
) -> tuple[Plan, NDArray[np.float64]]:
    """Plan of a simulated stack, and its true shifts."""
    stack = drawn(scene, dose, n_frames, seed)
    path = folder / f"{scene}-{dose:g}-{seed}.npy"
    np.save(path, stack.read(0, n_frames))
    block = beam_block_figure(SHAPE, margin_px=3.0)
    config = {
        "input": {"path": str(path)},
        "output": {"path": str(folder / "out.zarr")},
        "valid": {"frames": {"exclude": [{"rectangle": block.rod}, {"circle": block.disc}]}},
        "registration": {"max_shift_px": MAX_SHIFT_PX},
        "cluster": {"workers": 1},
    }
    return plan(make_config(config)).refuse(), stack.shift


def true_errors(scene: str, dose: float, n_frames: int, folder: Path) -> Truth:
    """What happens to frames whose shifts are known."""
    made, shifts = planned(scene, dose, n_frames, TRUE_SEED, folder)
    maker = ReferenceMaker(
        made.source,
        made.config.reference,
        made.valid,
        made.reference_valid,
        made.settings,
        functools.partial(compute, scheduler="synchronous"),
    )
    reference = maker.prepared(maker.make())
    found = [register_frame(made.source.read(i, i + 1)[0], reference) for i in range(n_frames)]
    good = [i for i, one in enumerate(found) if one.good]
    error = np.array([found[i].shift for i in good]) - shifts[good]
    error -= np.median(error, axis=0)
    landed = int((np.abs(error) < 1.0).all(axis=1).sum()) / n_frames
    return Truth(error, landed)


def row_of(scene: str, found: DoseRow, truth: Truth) -> Row:
    ratio = np.array(found.rms) / truth.rms
    pooled = float(np.sqrt(np.mean(np.square(found.rms)) / np.mean(np.square(truth.rms))))
    spread = np.hypot(found.rms_std, 1.0 / np.sqrt(2 * len(truth.error)))
    return Row(
        (
            f"{scene}, {found.dose:.3g}",
            f"{found.rms[0]:.4f}, {found.rms[1]:.4f}",
            f"{truth.rms[0]:.4f}, {truth.rms[1]:.4f}",
            f"{ratio[0]:.2f}, {ratio[1]:.2f} +- {spread:.2f}",
            f"{100 * found.landed:.1f} %, {100 * truth.landed:.1f} %",
        ),
        f"within {100 * ALLOWED:.0f} %",
        abs(pooled - 1.0) <= ALLOWED,
    )


def smallest_row(scene: str, found: Assessment, n_frames: int) -> Row:
    """How many frames really land at the smallest dose that was named."""
    smallest = next((row for row in found.doses if row.dose == found.smallest_dose), None)
    if smallest is None:
        return Row((f"{scene}, smallest dose", "", "", "", "none"), "one", reached=False)
    stack = drawn(scene, smallest.dose, n_frames, TRUE_SEED)
    n_reference = round(found.n_reference)
    total = np.random.default_rng(TRUE_SEED).poisson(stack.scene.expected() * n_reference)
    reference = prepare_reference(
        total / n_reference, stack.valid, max_shift_px=MAX_SHIFT_PX, n_frames=n_reference
    )
    shifts = [register_frame(stack.frame(i), reference).shift for i in range(n_frames)]
    # a shift that is not a number has not landed
    landed = float((np.abs(shifts - stack.shift) < 1.0).all(axis=1).mean())
    cells = (f"{scene}, smallest dose {smallest.dose:.2g}", "", "", "")
    return Row(
        (*cells, f"{100 * smallest.landed:.1f} %, {100 * landed:.1f} %"), "97 %", landed >= 0.97
    )


def main() -> None:
    """Print the table."""
    chosen = options(__doc__)
    trials, n_truth = (100, 150) if chosen.short else (400, 800)
    doses = DOSES[:1] if chosen.short else DOSES
    rows, seconds = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for scene in SCENES:
            for dose in doses:
                made, _ = planned(scene, dose, N_FRAMES, SEEN_SEED, folder)
                began = time.perf_counter()
                found = assess(made, trials=trials)
                seconds.append(time.perf_counter() - began)
                for row in found.doses:
                    if row.factor in FACTORS and row.dose > LEAST_DOSE:
                        truth = true_errors(scene, row.dose, n_truth, folder)
                        rows.append(row_of(scene, row, truth))
                rows.append(smallest_row(scene, found, n_truth))
    titles = ("scene, mean counts a pixel", "assessed rms, px", "true rms, px", "ratio", "landed")
    facts = (
        f"{trials} trials a dose, {n_truth} frames of {SHAPE[0]}x{SHAPE[1]} for the truth; y, x. "
        f"An assessment took {min(seconds):.0f} to {max(seconds):.0f} s."
    )
    lines = [f"{header('assessment.py', chosen)} {facts}", "", *table(titles, rows)]
    finish(lines, rows, chosen)


if __name__ == "__main__":
    main()
