"""Trajectories of 72 h runs whose truth is known: ``python tests/benchmarks/trajectory.py``.

Tables of shifts are simulated, not frames: true positions and the errors that registration makes at
a dose. What is made of them is held against the truth, beside the simple way on the same numbers:
the shifts as they are, a running median and a running mean, each of the width that suits the truth
best. In the first table the drift is a random walk with white jitter, so that the best there can be
is known: the smoother that is given the true strengths, solved by SciPy's banded solver. In the
others a run has thermal settling, a day's cycle, a random walk, jitter, jumps, gaps, a dose that
falls and is topped up, beam losses and wild shifts. ``--short`` takes fewer frames, ``--out FILE``
writes the tables as Markdown, ``--strict`` exits with 1 if a figure is missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded
from scipy.ndimage import median_filter, uniform_filter1d
from scorecard import Row, finish, header, options, table

from stillstack.config.trajectory import TrajectoryConfig
from stillstack.drift.grouping import SumQuality, choose_sum, sum_ranges
from stillstack.drift.sums import interpolate_sums
from stillstack.drift.trajectory import Trajectory, follow
from stillstack.model import Status, empty_table, is_good

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
HOURS = 72.0
BOTH = TrajectoryConfig(smooth=True, repair=True)
WIDTHS = (3, 5, 9, 21, 51, 101, 301, 1001)


@dataclass(frozen=True, eq=False)
class Run:
    """A simulated run.

    Parameters
    ----------
    seconds, truth, rows
        (n,), (n, 2), (n,): when, real positions, the table.
    jumps, gaps
        First frames after them.
    wild, lost
        Frames with a shift that is nonsense, and frames that could not be registered.
    jitter
        Its standard deviation, px.
    """

    seconds: Floats
    truth: Floats
    rows: NDArray[np.void]
    jumps: tuple[int, ...] = ()
    gaps: tuple[int, ...] = ()
    wild: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    jitter: float = 0.0


def table_of(truth: Floats, std: Floats, rng: np.random.Generator, corr: float) -> NDArray[np.void]:
    """Rows of frames whose errors along y and x correlate."""
    noise = rng.normal(size=truth.shape)
    noise[:, 1] = corr * noise[:, 0] + np.sqrt(1 - corr**2) * noise[:, 1]
    rows = empty_table(len(truth), Status(0))
    rows["shift"], rows["shift_std"], rows["shift_corr"] = truth + noise * std, std, corr
    return rows


def walk(n: int, step: float, jitter: float, std: float, seed: int) -> Run:
    """A random walk of so many px a frame, white jitter, error bars that differ by 20 %."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, step, (n, 2)).cumsum(axis=0) + rng.normal(0, jitter, (n, 2))
    stds = std * np.exp(rng.normal(0, 0.2, (n, 2)))
    return Run(np.arange(0.0, 2.0 * n, 2.0), truth, table_of(truth, stds, rng, 0.0))


def three_days(n: int, jitter: float, std: float, seed: int) -> Run:
    """Everything that happens in 72 h."""
    rng = np.random.default_rng(seed)
    seconds = np.linspace(0.0, HOURS * 3600.0, n)
    gaps = tuple(int(n * share) for share in (0.21, 0.55, 0.83))
    for gap in gaps:
        seconds[gap:] += 1800.0
    hours = seconds[:, None] / 3600.0
    day = 2.0 * np.concatenate([np.sin(hours * np.pi / 12), np.cos(hours * np.pi / 12 + 1)], axis=1)
    pause = seconds[1]
    truth = 6.0 * np.exp(-hours / 3.0) * [1.0, -0.5] + day
    truth = truth + rng.normal(0, 2e-4 * np.sqrt(pause), (n, 2)).cumsum(axis=0)
    truth = truth + rng.normal(0, jitter, (n, 2))
    jumps = tuple(int(n * share) for share in (0.13, 0.34, 0.47, 0.62, 0.62 + 60 / n, 0.91))
    for jump in jumps:
        towards = rng.uniform(0, 2 * np.pi)
        step = np.array([np.sin(towards), np.cos(towards)])
        truth[jump:] += max(8 * jitter, 5 * std) * step
    # Between two top-ups the dose falls to a half.
    stds = std * np.sqrt(2.0 ** (np.arange(n) % (n // 7) / (n // 7)))[:, None] * np.ones(2)
    rows = table_of(truth, stds, rng, 0.3)
    wild = rng.choice(n, n // 200, replace=False)
    far = 10.0 * np.hypot(stds[wild, :1], jitter) * np.exp(rng.exponential(1.0, (len(wild), 1)))
    angle = rng.uniform(0, 2 * np.pi, (len(wild), 1))
    rows["shift"][wild] += far * np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    first = rng.choice(n - 10, n // 500, replace=False)
    lost = np.unique(first[:, None] + np.arange(5))
    rows["shift"][lost], rows["shift_std"][lost] = np.nan, np.nan
    rows["status"][lost] = int(Status.LOW_NCC)
    known = tuple(np.setdiff1d(wild, lost).tolist())
    return Run(seconds, truth, rows, jumps, gaps, known, tuple(lost.tolist()), jitter)


# ------------------------------------------------------------------ the simple ways, and the best


def best_running(run: Run, method: Callable[[Floats, int], Floats]) -> tuple[float, int]:
    """Least rms error over widths, and its width; bad frames hold the last good shift."""
    good = np.asarray(is_good(run.rows["status"]))
    last = np.maximum.accumulate(np.where(good, np.arange(len(good)), 0))
    shift = run.rows["shift"][last]
    errors = {w: rms((method(shift, w) - run.truth)[good]) for w in WIDTHS}
    width = min(errors, key=lambda w: errors[w])
    return errors[width], width


def running_median(shift: Floats, width: int) -> Floats:
    return np.asarray(median_filter(shift, size=(width, 1), mode="nearest"))


def running_mean(shift: Floats, width: int) -> Floats:
    return np.asarray(uniform_filter1d(shift, width, axis=0, mode="nearest"))


def with_true_strengths(run: Run, step: float, jitter: float) -> Floats:
    """Real positions by the smoother that knows how the run was made, y and x apart."""
    n, answers = len(run.truth), []
    for axis in range(2):
        variance = run.rows["shift_std"][:, axis].astype(float) ** 2
        shift = run.rows["shift"][:, axis]
        bands = np.zeros((2, n))
        bands[1] = 1.0 / (variance + jitter**2)
        right = shift * bands[1]
        bands[1, :-1] += 1.0 / step**2
        bands[1, 1:] += 1.0 / step**2
        bands[0, 1:] = -1.0 / step**2
        drift = solveh_banded(bands, right)
        answers.append(drift + jitter**2 / (variance + jitter**2) * (shift - drift))
    return np.stack(answers, axis=1)


def rms(error: Floats) -> float:
    return float(np.sqrt(np.mean(error**2)))


def pull_of(found: Trajectory, run: Run, which: Any) -> float:
    return float(np.std((found.shift - run.truth)[which] / found.shift_std[which]))


# ------------------------------------------------------------------ the tables


def rows_of_walks(n: int) -> list[Row]:
    """Return rows of errors beside the best there can be, where that is known."""
    rows = []
    low = ((0.3, 0.01, 0.1), (0.3, 0.01, 0.03), (0.3, 0.05, 0.05), (0.1, 0.003, 0.05))
    high = ((0.004, 0.002, 0.02), (0.004, 0.03, 0.001))
    for seed, (std, step, jitter) in enumerate((*low, *high)):
        run = walk(n, step, jitter, std, seed)
        found = follow(run.seconds, run.rows, BOTH)
        raw, ours = rms(run.rows["shift"] - run.truth), rms(found.shift - run.truth)
        best = rms(with_true_strengths(run, step, jitter) - run.truth)
        pull = pull_of(found, run, slice(None))
        cells = (
            f"{std:g}, {step:g}, {jitter:g}",
            f"{raw:.4f}",
            *(running_cell(run, method) for method in (running_median, running_mean)),
            f"{best:.4f}",
            f"{ours:.4f}",
            f"{pull:.2f}",
        )
        if std < 0.01:
            rows.append(Row(cells, "1.02 of raw", ours <= 1.02 * raw))
        else:
            reached = ours <= 1.10 * best and 0.9 <= pull <= 1.1
            rows.append(Row(cells, "1.10 of best, pull 0.9 to 1.1", reached))
    return rows


def running_cell(run: Run, method: Callable[[Floats, int], Floats]) -> str:
    least, width = best_running(run, method)
    return f"{least:.4f} ({width})"


def rows_of_days(n: int) -> tuple[list[Row], list[Row]]:
    """Return rows of errors of whole runs, and rows of what was found in them."""
    errors, facts = [], []
    for k, (std, jitter) in enumerate(((0.005, 0.02), (0.05, 0.05), (0.3, 0.1))):
        run = three_days(n, jitter, std, k)
        found = follow(run.seconds, run.rows, BOTH)
        good = np.asarray(is_good(run.rows["status"]))
        kept = good & np.asarray(is_good(found.status)) & ~flagged(found, Status.REPAIRED)
        raw = rms((run.rows["shift"] - run.truth)[good])
        simple = [best_running(run, method) for method in (running_median, running_mean)]
        ours, pull = rms((found.shift - run.truth)[kept]), pull_of(found, run, kept)
        label = f"{std:g}, jitter {jitter:g}"
        cells = (
            label,
            f"{raw:.4f}",
            *(f"{least:.4f} ({width})" for least, width in simple),
            f"{ours:.4f}",
            f"{pull:.2f}",
        )
        reached = ours < min(raw, *(least for least, _ in simple)) and 0.9 <= pull <= 1.1
        errors.append(Row(cells, "least, pull 0.9 to 1.1", reached))
        facts += rows_of_events(label, run, found)
    return errors, facts


def flagged(found: Trajectory, bit: Status) -> Flags:
    return np.asarray((found.status & int(bit)) != 0)


def rows_of_events(label: str, run: Run, found: Trajectory) -> list[Row]:
    """Return rows of what was found in a run beside what happened."""
    jumps = [jump.frame for jump in found.jumps]
    # A step is placed to about the square of noise over its size; lost frames may lie beside it.
    near = [any(abs(jump - true) <= 8 for jump in jumps) for true in run.jumps]
    outlier = flagged(found, Status.OUTLIER)
    told, wild = np.flatnonzero(outlier), np.array(run.wild)
    hit = np.isin(wild, told).mean()
    false = np.setdiff1d(told, wild).size
    simple_hit, simple_false = simple_outliers(run)
    repaired = np.flatnonzero(flagged(found, Status.REPAIRED))
    pull, spread = pull_of(found, run, repaired), 1.0 / np.sqrt(4 * repaired.size)
    bad = wild.size + len(run.lost)
    jitter = np.sqrt(np.mean(found.jitter_std**2))
    return [
        Row(
            (f"{label}: jumps", f"{sum(near)} of {len(near)}, {len(jumps) - sum(near)} others"),
            "all, no others",
            all(near) and len(jumps) == len(near),
        ),
        Row(
            (f"{label}: gaps", f"{[gap.frame for gap in found.gaps] == list(run.gaps)}"),
            "True",
            tuple(gap.frame for gap in found.gaps) == run.gaps,
        ),
        Row(
            (
                f"{label}: wild shifts",
                f"{100 * hit:.1f} % found, {false} others; 5 MAD of a running median: "
                f"{100 * simple_hit:.1f} %, {simple_false} others",
            ),
            "99 %, others 0.01 %",
            bool(hit >= 0.99 and false <= 1e-4 * len(run.truth)),
        ),
        Row(
            (
                f"{label}: repaired",
                f"{repaired.size} of {bad}, pull {pull:.2f} +- {2 * spread:.2f}",
            ),
            "95 %, pull 0.9 to 1.1",
            bool(repaired.size >= 0.95 * bad and 0.9 - 2 * spread < pull < 1.1 + 2 * spread),
        ),
        Row(
            (f"{label}: jitter", f"{jitter:.4f} px; drift {pair(found.drift_rms)} px rms"),
            f"{run.jitter:g} to 10 %",
            bool(abs(jitter / run.jitter - 1) <= 0.1),
        ),
    ]


def pair(values: Floats) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def simple_outliers(run: Run) -> tuple[float, int]:
    """Wild shifts found by 5 MAD about a running median of 21, and how many others."""
    good = np.flatnonzero(is_good(run.rows["status"]))
    off = run.rows["shift"][good] - running_median(run.rows["shift"][good], 21)
    scale = 1.4826 * np.median(np.abs(off), axis=0)
    told = good[(np.abs(off) > 5 * scale).any(axis=1)]
    wild = np.array(run.wild)
    return float(np.isin(wild, told).mean()), int(np.setdiff1d(told, wild).size)


def rows_of_sums(n: int) -> list[Row]:
    """Return rows of frames of which only sums can be registered: 1 px a frame."""
    rng = np.random.default_rng(5)
    std, jitter = 1.0, 0.1
    truth = rng.normal(0, 0.01, (n, 2)).cumsum(axis=0) + rng.normal(0, jitter, (n, 2))
    seen = truth + rng.normal(0, std, truth.shape)
    # Sums of which a fifth of a pixel is good are those of 25.
    k = choose_sum(lambda k: SumQuality(1.0 if k > 4 else 0.5, std / np.sqrt(k)))
    found_rows = []
    for stride, known in ((k, True), ((k + 1) // 2, True), ((k + 1) // 2, False)):
        ranges = sum_ranges(None, n, k, stride)
        rows = empty_table(len(ranges), Status(0))
        rows["shift"] = [seen[first:last].mean(axis=0) for first, last in ranges]
        rows["shift_std"], rows["shift_corr"] = std / np.sqrt(np.diff(ranges, axis=1)), 0.0
        found = interpolate_sums(
            None,
            np.zeros(n, np.uint16),
            ranges,
            rows,
            jitter_std=(jitter, jitter) if known else None,
        )
        centre = ranges.mean(axis=1) - 0.5
        nearest = np.abs(np.arange(n)[:, None] - centre[None, :]).argmin(axis=1)
        simple = rms(rows["shift"][nearest] - truth)
        error = found.shift - truth
        ours, pull = rms(error), float(np.std(error / found.shift_std))
        words = "jitter known" if known else "jitter not known"
        label = f"sums of {k} every {stride} frames, {words}"
        text = f"{ours:.3f} px, pull {pull:.2f}; nearest sum {simple:.3f} px"
        must = "less, pull 0.9 to 1.1" if known else "less, pull at most 1.1"
        honest = pull <= 1.1 and (pull >= 0.9 or not known)
        found_rows.append(Row((label, text), must, ours < simple and honest))
    return found_rows


def row_of_time(n: int) -> Row:
    run = walk(n, 0.01, 0.1, 0.3, 20)
    started = time.process_time()
    follow(run.seconds, run.rows, BOTH)
    took = time.process_time() - started
    return Row((f"CPU time, {n:,} frames", f"{took:.1f} s"))


def main() -> None:
    """Print the tables."""
    chosen = options(__doc__)
    n = 20_000 if chosen.short else 100_000
    simple = ("raw, px", "running median (width)", "running mean (width)")
    walks = rows_of_walks(n)
    errors, facts = rows_of_days(n)
    facts += rows_of_sums(4000 if chosen.short else 20_000)
    facts.append(row_of_time(100_000 if chosen.short else 1_000_000))
    lines = [
        f"{header('trajectory.py', chosen)} {n:,} frames a run. Errors are rms of real positions.",
        "",
        *table(("error bar, walk a frame, jitter, px", *simple, "best", "smoothed", "pull"), walks),
        "",
        *table(("72 h, error bar, px", *simple, "smoothed", "pull"), errors),
        "",
        *table(("", "found"), facts),
    ]
    finish(lines, [*walks, *errors, *facts], chosen)


if __name__ == "__main__":
    main()
