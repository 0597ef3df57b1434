"""References that do not wander: ``python tests/benchmarks/references.py``.

Simulated runs of 72 hours behind a beam-block: slow drift, day and night, jitter, jumps, gaps and
lost beam, while every ring or spot fades and others grow. The same frames are registered in simple
ways and by groups that are tied together. Errors are against the simulated truth, less their mean
in the first quarter of the run; *first* and *last* are the rms of the first and the last quarter,
over the good frames. What wanders, or takes content for drift, shows in their ratio, and the latter
in the slope of the errors with the content.
``--short`` takes fewer frames, ``--out FILE`` writes the tables as Markdown, ``--strict`` exits
with 1 if a figure is missed.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from dask.base import compute
from numpy.typing import NDArray
from scorecard import Row, finish, header, options, table

from stillstack.config import ReferenceConfig
from stillstack.config.network import NetworkConfig
from stillstack.kernels.registration import Reference, prepare_reference, register_frame
from stillstack.network.edges import TEMPLATE, Edge, measure_edges, neighbour_pairs
from stillstack.network.groups import Groups, groups_of
from stillstack.network.solve import solve_offsets
from stillstack.network.tying import tie_groups
from stillstack.reference import ReferenceMaker
from stillstack.reference_image import ReferenceImage
from stillstack.sampling import SpreadSource
from stillstack.simulation import (
    LongRun,
    Motion,
    beam_block_valid,
    powder_scene,
    simulate_long_run,
)

Floats = NDArray[np.float64]
SIDE, MAX_SHIFT_PX = 256, 24
SETTINGS: dict[str, Any] = {"max_shift_px": MAX_SHIFT_PX}
DOSE = 60.0
KEYFRAME = 20
PAIRED = 16
SYNCHRONOUS = functools.partial(compute, scheduler="synchronous")


@dataclass(frozen=True, eq=False)
class Found:
    """Shifts that a way of registering gives: (n, 2), NaN where it gives none."""

    shift: Floats
    seconds: float


class Held:
    """A run whose frames are made once and kept."""

    chunk_frames = 1
    name = "long run"

    def __init__(self, run: LongRun) -> None:
        self.run, self.frames = run, run.read(0, len(run))
        self.shape, self.dtype = run.shape, run.dtype
        self.coords, self.attrs, self.valid = run.coords, run.attrs, run.valid

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``."""
        return self.frames[start:stop]

    def fingerprint(self) -> str:
        """Of the run."""
        return self.run.fingerprint()


def maker(source: Any, valid: NDArray[np.bool_]) -> ReferenceMaker:
    config = ReferenceConfig(kind="mean", frames=32, refine=1)
    return ReferenceMaker(source, config, valid, None, SETTINGS, SYNCHRONOUS)


def registered(frames: NDArray[Any], reference: Reference) -> tuple[Floats, Floats]:
    """Shifts of frames and their error bars."""
    found = [register_frame(frame, reference) for frame in frames]
    return np.array([one.shift for one in found]), np.array([one.shift_std for one in found])


# ------------------------------------------------------------------ ways


def fixed_first(held: Held) -> Floats:
    reference = prepare_reference(held.frames[0], held.valid, max_shift_px=MAX_SHIFT_PX)
    return registered(held.frames, reference)[0]


def one_template(held: Held) -> Floats:
    one = maker(held, held.valid)
    return registered(held.frames, one.prepared(one.make()))[0]


def chained(held: Held) -> Floats:
    """Each frame to the last one before it that was good, and the sum of all that."""
    shift = np.full((len(held.frames), 2), np.nan)
    shift[0], before = 0.0, 0
    reference = prepare_reference(held.frames[0], held.valid, max_shift_px=MAX_SHIFT_PX)
    for number in range(1, len(held.frames)):
        found = register_frame(held.frames[number], reference)
        if not found.good:
            continue
        shift[number], before = shift[before] + found.shift, number
        reference = prepare_reference(held.frames[number], held.valid, max_shift_px=MAX_SHIFT_PX)
    return shift


def all_pairs(held: Held, n: int) -> Floats:
    """Every pair of a few frames, and least squares."""
    spread = np.linspace(0, len(held.frames) - 1, n).astype(int)
    chosen = [i for i in spread if held.frames[i].any()]
    edges: list[Edge] = []
    pictures = [
        (k, ReferenceImage(held.frames[i].astype(np.float32), held.valid, 1))
        for k, i in enumerate(chosen)
    ]
    for k, picture in pictures:
        edges += measure_edges(k, picture, pictures[k + 1 :], SETTINGS)
    shift = np.full((len(held.frames), 2), np.nan)
    shift[chosen] = solve_offsets(len(chosen), edges, origin=None).offset
    return shift


def grouped(held: Held, groups: Groups, patterns: int) -> tuple[Floats, Floats]:
    """Each frame to the reference of its group, and these tied together, with their errors."""
    pictures, shifts = group_references(held, groups)
    config = NetworkConfig(keyframe_frames=KEYFRAME, patterns=patterns)
    tied = tie_groups(pictures, config, SETTINGS)
    return np.asarray(shifts + tied.offsets.offset[groups.index]), tied.offsets.std


@functools.lru_cache(maxsize=4)
def group_references(held: Held, groups: Groups) -> tuple[list[ReferenceImage], Floats]:
    """Reference of each group, and the shifts of its frames onto it."""
    shifts = np.full((len(held.frames), 2), np.nan)
    pictures = []
    for number in range(len(groups)):
        frames = groups.frames(number)
        one = maker(SpreadSource(held, tuple(frames.tolist())), held.valid)
        pictures.append(one.make())
        shifts[frames], _ = registered(held.frames[frames], one.prepared(pictures[-1]))
    return pictures, shifts


# ------------------------------------------------------------------ rows


def timed(way: Callable[[], Floats]) -> Found:
    start = time.perf_counter()
    shift = way()
    return Found(shift, time.perf_counter() - start)


def wander_row(label: str, held: Held, found: Found, *, must: bool) -> Row:
    """How far shifts are from the truth, at the beginning and at the end."""
    truth = held.run.shift
    good = np.isfinite(found.shift).all(axis=1)
    false = good & ~np.isfinite(truth).all(axis=1)
    good &= ~false
    errors = (found.shift - truth)[good]
    quarter = np.searchsorted(np.flatnonzero(good), np.array([1, 3]) * len(truth) / 4)
    errors -= errors[: quarter[0]].mean(axis=0)
    first, last = (rms(part) for part in (errors[: quarter[0]], errors[quarter[1] :]))
    n_quarter = max(min(quarter[0], len(errors) - quarter[1]), 1)
    spread = 1.0 / np.sqrt(2.0 * n_quarter)  # of the ratio of two rms of 2 n numbers each
    slope = content_slope(errors, held.run.content[good])
    reached = None
    if must:
        share = good.sum() / np.isfinite(truth).all(axis=1).sum()
        reached = bool(last / first <= 1.2 * (1 + spread) and not false.any() and share > 0.98)
    return Row(
        (
            label,
            f"{good.sum()} of {len(truth)}",
            f"{rms(errors):.4f}",
            f"{first:.4f}",
            f"{last:.4f}",
            f"{last / first:.2f} +- {last / first * spread:.2f}",
            f"{slope:.3f}",
            f"{found.seconds:.0f}",
        ),
        "ratio at most 1.2" if must else "",
        reached,
    )


def rms(errors: Floats) -> float:
    return float(np.sqrt(np.mean(errors**2))) if errors.size else float("nan")


def content_slope(errors: Floats, content: Floats) -> float:
    """Largest change of the error from the one pattern to the other, px."""
    centred = content - content.mean()
    return float(np.abs(centred @ errors / max(float(centred @ centred), 1e-12)).max())


def delay_row(
    label: str, held: Held, shift: Floats, std: Floats | None = None, *, must: bool = False
) -> Row:
    """Largest mean error of a delay: what a signal that changes with it is taken for."""
    delay = held.coords["delay"]
    errors = shift - held.run.shift
    good = np.isfinite(errors).all(axis=1)
    errors = errors - errors[good].mean(axis=0)
    here = [errors[good & (delay == value)] for value in np.unique(delay)]
    means = np.array([part.mean(axis=0) for part in here])
    noise = np.array([part.std(axis=0) / np.sqrt(len(part)) for part in here])
    sigma = noise if std is None else std
    sigmas = float(np.abs(means / sigma).max())
    cells = (label, f"{rms(errors[good]):.4f}", f"{np.abs(means).max():.4f}")
    return Row(
        (*cells, f"{rms(sigma):.4f}", f"{sigmas:.1f}"),
        "at most 4 sigmas" if must else "",
        sigmas <= 4.0 if must else None,
    )


def wandering(kind: str, n: int, *, chain: bool) -> list[Row]:
    """Rows of one run whose content changes from the first frame to the last."""
    run = simulate_long_run(n, (SIDE, SIDE), dose=DOSE, seed=5, scenes=kind)
    held = Held(run)
    groups = groups_of(NetworkConfig(keyframe_frames=KEYFRAME), run.coords, n)
    ways: dict[str, Callable[[], Floats]] = {
        "fixed first frame": lambda: fixed_first(held),
        "one template": lambda: one_template(held),
        "chained neighbours": lambda: chained(held),
        f"all pairs of {PAIRED} frames, least squares": lambda: all_pairs(held, PAIRED),
        f"groups of {KEYFRAME}, tied": lambda: grouped(held, groups, 1)[0],
        f"groups of {KEYFRAME}, tied, patterns": lambda: grouped(held, groups, 4)[0],
    }
    return [
        wander_row(f"{kind}: {label}", held, timed(way), must=label.endswith("patterns"))
        for label, way in ways.items()
        if chain or not label.startswith("chained")
    ]


def delays(n: int) -> list[Row]:
    """Rows of a run of scans in which rings change with the delay."""
    n_delays = 8
    number = np.arange(n) % n_delays
    run = simulate_long_run(
        n,
        (SIDE, SIDE),
        dose=DOSE,
        seed=6,
        motion=Motion(losses=0),
        content=0.5 * number / (n_delays - 1) + 0.1 * (number % 2),
        coords={"delay": 0.5 * number, "scan": np.arange(n) // n_delays},
    )
    held = Held(run)
    groups = groups_of(NetworkConfig(by="delay"), run.coords, n)
    return [
        delay_row("one template", held, one_template(held)),
        delay_row("a group a delay, tied", held, *grouped(held, groups, 1)),
        delay_row("a group a delay, tied, patterns", held, *grouped(held, groups, 4), must=True),
    ]


def solving(sizes: Sequence[int]) -> list[Row]:
    """Rows of the time to solve, with a twentieth of the measurements plainly wrong."""
    rows = []
    for n in sizes:
        rng = np.random.default_rng(n)
        truth = np.cumsum(rng.normal(0, 0.3, (n, 2)), axis=0)
        seen = truth + rng.normal(0, 0.02, (n, 2))
        pairs = [(TEMPLATE, j) for j in range(n)]
        pairs += [(i, j) for i, others in neighbour_pairs(n).items() for j in others]
        edges = []
        for i, j in pairs:
            shift = seen[j] - (seen[i] if i >= 0 else 0.0) + rng.normal(0, 0.005, 2)
            shift += (rng.random() < 0.05) * rng.normal(0, 4, 2)
            variance = 0.0206**2 * (1 if i < 0 else 2)
            edges.append(Edge(i, j, shift, np.eye(2) * variance, 0, 1.0 if i < 0 else 0.5))
        start = time.perf_counter()
        found = solve_offsets(n, edges)
        seconds = time.perf_counter() - start
        errors = (found.offset - truth)[found.known]
        pull = np.std(errors / found.std[found.known])
        rows.append(
            Row(
                (
                    f"{n}",
                    f"{len(edges) / n:.1f}",
                    f"{seconds:.2f}",
                    f"{1e3 * seconds / n:.2f}",
                    f"{rms(errors):.4f}",
                    f"{pull:.2f}",
                    f"{n - int(found.known.sum())}",
                )
            )
        )
    return rows


def measured_twice(n: int) -> list[Row]:
    """Rows of frames measured against their keyframe and against the template as well.

    A fifth of the signal is in the keyframe, 64 frames, and not in the template, 640. Both answers
    carry the noise of the same photons.
    """
    rows = []
    scene, valid = powder_scene((SIDE, SIDE), ring_width_px=4.0), beam_block_valid((SIDE, SIDE))
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2

    def expected(shift: NDArray[np.float64], dose: float, content: float) -> Floats:
        image = scene.expected(shift)
        down, across = y + shift[0], x + shift[1]
        ring = np.exp(-(((np.hypot(down, across) - SIDE / 4) / 15) ** 2))
        changed = 1 + content * ring * np.cos(2 * np.arctan2(down, across))
        return np.asarray(image / image.mean() * dose * changed)

    for dose in (1.0, 10.0):
        rng = np.random.default_rng(int(dose))
        keyframe, template = (
            prepare_reference(
                rng.poisson(expected(np.zeros(2), dose, content) * m) / m,
                valid,
                n_frames=m,
                max_shift_px=MAX_SHIFT_PX,
            )
            for m, content in ((64, 0.2), (640, 0.0))
        )
        errors = np.empty((n, 2, 2))
        for i, shift in enumerate(rng.uniform(-5, 5, (n, 2))):
            frame = rng.poisson(expected(shift, dose, 0.2)).astype(np.uint16)
            for k, reference in enumerate((keyframe, template)):
                errors[i, k] = register_frame(frame, reference).shift - shift
        errors -= errors.mean(axis=0)
        own, other = errors[:, 0].ravel(), errors[:, 1].ravel()
        covariance = np.cov(own, other)
        weights = np.linalg.solve(covariance, np.ones(2))
        best = float(np.sqrt(1 / weights.sum()))
        correlation = float(np.corrcoef(own, other)[0, 1])
        gain = 1 - best / float(own.std())
        rows.append(
            Row(
                (
                    f"{dose:g}",
                    f"{own.std():.4f}",
                    f"{other.std():.4f}",
                    f"{correlation:.3f}",
                    f"{best:.4f}",
                    f"{100 * gain:.1f} %",
                )
            )
        )
    return rows


def main() -> None:
    """Print the tables."""
    chosen = options(__doc__)
    n = 200 if chosen.short else 1920
    # A chain prepares a reference for every frame.
    wander = wandering("powder", n, chain=True)
    wander += wandering("crystal", n, chain=not chosen.short)
    by_delay = delays(n)
    twice = measured_twice(300 if chosen.short else 1250)
    solved = solving((10, 100, 1000) if chosen.short else (10, 100, 1000, 10000))
    lines = [
        f"{header('references.py', chosen)} {n} frames of {SIDE}x{SIDE}, {DOSE:g} counts a pixel.",
        "",
        *table(
            ("72 h, changing", "good", "rms, px", "first", "last", "ratio", "slope, px", "s"),
            wander,
        ),
        "",
        *table(
            ("scans of 8 delays", "rms, px", "largest mean of a delay", "error bar", "sigmas"),
            by_delay,
        ),
        "",
        *table(
            (
                "counts a pixel",
                "to its keyframe, px",
                "to the template",
                "correlation",
                "best of both",
                "gain",
            ),
            twice,
        ),
        "",
        *table(
            ("groups", "edges a group", "s", "ms a group", "rms, px", "pull", "without offset"),
            solved,
        ),
    ]
    finish(lines, [*wander, *by_delay, *solved], chosen)


if __name__ == "__main__":
    main()
