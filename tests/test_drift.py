"""Trajectories of simulated tables of shifts: against the truth, and dense linear algebra."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from arrays import frozen
from stillstack.config import RunConfig
from stillstack.config.settings_file import SettingsFile, validated
from stillstack.config.trajectory import TrajectoryConfig
from stillstack.drift.clock import find_gaps, read_clock
from stillstack.drift.evidence import read_evidence
from stillstack.drift.jumps import find_jumps, step_weights
from stillstack.drift.motion import Motion, Positions, drift_states, real_positions
from stillstack.drift.outliers import excess_variance, find_outliers, local_scale
from stillstack.drift.repair import repairable, within_reach
from stillstack.drift.trajectory import Trajectory, follow
from stillstack.errors import InputError
from stillstack.model import Status, empty_table, is_good

Floats = NDArray[np.float64]
Rows = NDArray[np.void]

SMOOTH = TrajectoryConfig(smooth=True)
REPAIR = TrajectoryConfig(repair=True)
BOTH = TrajectoryConfig(smooth=True, repair=True)


@dataclass(frozen=True)
class Simulated:
    """A table of shifts and the truth: real positions, (n, 2)."""

    time: Floats
    truth: Floats
    rows: Rows

    @property
    def raw_error(self) -> Floats:
        return np.asarray(self.rows["shift"] - self.truth)


def table_of(shift: Floats, std: float | Floats, corr: float = 0.0) -> Rows:
    rows = empty_table(len(shift), Status(0))
    rows["shift"], rows["shift_std"], rows["shift_corr"] = shift, std, corr
    return rows


def simulated(
    n: int,
    *,
    step: float = 0.01,
    jitter: float = 0.05,
    std: float = 0.3,
    corr: float = 0.0,
    seed: int = 0,
) -> Simulated:
    """A random walk of so many px a frame, jitter, and errors of frames that differ by 20 %."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.0, step, (n, 2)).cumsum(axis=0) + rng.normal(0.0, jitter, (n, 2))
    stds = std * np.exp(rng.normal(0.0, 0.2, (n, 2)))
    noise = rng.normal(size=(n, 2))
    noise[:, 1] = corr * noise[:, 0] + np.sqrt(1 - corr**2) * noise[:, 1]
    rows = table_of(truth + noise * stds, stds, corr)
    return Simulated(frozen(np.arange(n) * 2.0), frozen(truth), frozen(rows))


def rms(error: Floats) -> float:
    return float(np.sqrt(np.mean(error**2)))


def bits(found: Trajectory, status: Status) -> list[int]:
    return np.flatnonzero(found.status & int(status)).tolist()


def with_outliers(rows: Rows, places: dict[int, tuple[float, float]]) -> Rows:
    changed = rows.copy()
    for frame, off in places.items():
        changed["shift"][frame] += off
    return changed


def without(rows: Rows, frames: list[int], status: Status) -> Rows:
    """Return the table with frames that could not be registered."""
    changed = rows.copy()
    changed["shift"][frames] = np.nan
    changed["shift_std"][frames] = np.nan
    changed["status"][frames] = int(status)
    return changed


# ------------------------------------------------------------------ smoothing


def dense_smoother(run: Simulated, axis: int, step: float, jitter: float) -> tuple[Floats, Floats]:
    """Mean and variance of real positions given all frames and the true parameters."""
    n = len(run.truth)
    place = np.arange(n)
    prior = step**2 * np.minimum.outer(place, place) + 1e6 + jitter**2 * np.eye(n)
    noise = np.diag(run.rows["shift_std"][:, axis].astype(float) ** 2)
    gain = np.linalg.solve(prior + noise, prior).T
    return gain @ run.rows["shift"][:, axis], np.diag(prior - gain @ prior)


@pytest.mark.parametrize(("step", "jitter"), [(0.01, 0.1), (0.03, 0.05), (0.002, 0.08)])
def test_at_low_dose_smoothing_comes_near_what_the_true_parameters_allow(
    step: float, jitter: float
) -> None:
    n, ours, best, variance = 600, [], [], []
    for seed in range(5):
        run = simulated(n, step=step, jitter=jitter, seed=seed)
        found = follow(run.time, run.rows, SMOOTH)
        ours.append(found.shift - run.truth)
        for axis in range(2):
            mean, var = dense_smoother(run, axis, step, jitter)
            best.append(mean - run.truth[:, axis])
            variance.append(var)
    # Both on the same 6,000 frames, of which about ten share an error: an rms is known to 3 %.
    assert rms(np.array(best)) == pytest.approx(np.sqrt(np.mean(variance)), rel=0.08)
    assert rms(np.array(ours)) <= 1.10 * np.sqrt(np.mean(variance))


@pytest.mark.parametrize("corr", [0.0, 0.6])
def test_error_bars_of_smoothed_shifts_are_as_long_as_the_errors(corr: float) -> None:
    run = simulated(20_000, jitter=0.1, corr=corr)
    found = follow(run.time, run.rows, SMOOTH)
    error = found.shift - run.truth
    # Jitter is independent from frame to frame: 20,000 frames tell a spread to 0.5 %, but the
    # variance of the jitter itself only to 10 %.
    pull = (error / found.shift_std).std(axis=0)
    assert np.all((pull > 0.9) & (pull < 1.1))
    inside = np.mean(np.abs(error) < found.shift_std)
    assert inside == pytest.approx(0.683, abs=0.05)
    told = np.mean(error[:, 0] * error[:, 1]) / (error[:, 0].std() * error[:, 1].std())
    assert told == pytest.approx(np.median(found.shift_corr), abs=0.05)


def test_real_positions_are_those_of_one_large_normal_distribution() -> None:
    rng = np.random.default_rng(2)
    n, walk, jitter = 25, np.array([0.2, 0.05]), np.array([0.3, 0.6])
    root = rng.normal(size=(n, 2, 2))
    noise = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(2)
    shift, seen = rng.normal(0, 2.0, (n, 2)), np.arange(n) % 4 != 2
    positions = Positions(
        np.ones(n),
        np.arange(n) == 0,
        seen,
        shift,
        np.stack([noise[:, 0, 0], noise[:, 0, 1], noise[:, 1, 1]], axis=1),
    )
    none = np.zeros(2)
    motion = Motion(walk, none, none, jitter, none)
    mean, cov = real_positions(positions, motion, drift_states(positions, motion))
    # Frame by frame y, x; of where the walk began next to nothing is known.
    early = np.minimum.outer(np.arange(n), np.arange(n))
    prior = np.kron(early, np.diag(walk)) + np.kron(np.ones((n, n)), 1e4 * np.eye(2))
    prior += np.kron(np.eye(n), np.diag(jitter))
    shown = np.repeat(seen, 2)
    noises = np.zeros((2 * n, 2 * n))
    for i in range(n):
        noises[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = noise[i]
    gain = prior[:, shown] @ np.linalg.inv((prior + noises)[np.ix_(shown, shown)])
    left = prior - gain @ prior[shown]
    assert mean.ravel() == pytest.approx(gain @ shift.ravel()[shown], abs=1e-3)
    places = 2 * np.arange(n)
    expected = [left[places, places], left[places, places + 1], left[places + 1, places + 1]]
    assert np.abs(cov.T - np.array(expected)).max() < 1e-4


def test_of_jitter_too_small_to_be_told_error_bars_are_rather_long_than_short() -> None:
    pulls = []
    for seed in range(4):
        run = simulated(4000, step=0.001, jitter=0.03, seed=seed)
        found = follow(run.time, run.rows, SMOOTH)
        pulls.append((found.shift - run.truth) / found.shift_std)
        assert any("cannot be told" in note for note in found.notes)
    # Without an allowance these would be 2.5 and more.
    assert 0.6 < np.std(pulls) < 1.25


def test_at_high_dose_smoothing_changes_next_to_nothing() -> None:
    for step, jitter in ((0.002, 0.02), (0.03, 0.0), (0.0, 0.05)):
        run = simulated(5000, step=step, jitter=jitter, std=0.004)
        found = follow(run.time, run.rows, SMOOTH)
        assert rms(found.shift - run.truth) <= 1.02 * rms(run.raw_error)


def test_drift_and_jitter_are_told_apart() -> None:
    run = simulated(20_000, step=0.02, jitter=0.1, std=0.2)
    found = follow(run.time, run.rows)
    # The variance of one frame against another is known to a percent, and is 4 to 5 times the
    # jitter's; a strength to sqrt(4 * 12 / 20,000) of itself, as 12 frames are one.
    assert found.jitter_std == pytest.approx([0.1, 0.1], rel=0.06)
    assert found.walk_strength == pytest.approx([2e-4, 2e-4], rel=0.2)
    drift = run.truth - run.truth.mean(axis=0)
    assert found.drift_rms == pytest.approx(np.sqrt(np.mean(drift**2, axis=0)), rel=0.02)


def test_smooth_drift_is_followed_better_than_by_any_running_mean() -> None:
    rng = np.random.default_rng(1)
    n = 6000
    phase = np.arange(n) * 2 * np.pi / 3000
    truth = 4.0 * np.stack([np.sin(phase), np.cos(phase)], axis=1)
    rows = table_of(truth + rng.normal(0.0, 0.3, (n, 2)), 0.3)
    found = follow(None, rows, SMOOTH)
    running = []
    for width in (11, 31, 101, 201, 301):
        kernel = np.full(width, 1.0 / width)
        mean = np.array([np.convolve(rows["shift"][:, a], kernel, mode="valid") for a in range(2)])
        inner = slice(width // 2, n - width // 2)
        running.append(rms(mean.T - truth[inner]))
    assert rms(found.shift - truth) < min(running)


def test_without_smoothing_good_frames_keep_their_shift_to_the_last_bit() -> None:
    run = simulated(500)
    found = follow(run.time, run.rows)
    assert np.array_equal(found.shift, run.rows["shift"])
    assert found.shift_std == pytest.approx(run.rows["shift_std"], rel=1e-6)
    assert np.array_equal(found.status, run.rows["status"])


def test_the_table_that_was_given_is_not_changed() -> None:
    run = simulated(300)
    rows = frozen(with_outliers(run.rows, {100: (5.0, 5.0)}))
    before = rows.copy()
    follow(run.time, rows, BOTH)
    assert rows.tobytes() == before.tobytes()


# ------------------------------------------------------------------ what does not matter


@settings(max_examples=15, deadline=None)
@given(
    offset=st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)),
    since=st.floats(-1e6, 1e9),
    seed=st.integers(0, 99),
)
def test_where_the_origin_lies_and_when_the_clock_began_does_not_matter(
    offset: tuple[float, float], since: float, seed: int
) -> None:
    run = simulated(120, seed=seed)
    rows = without(with_outliers(run.rows, {40: (6.0, 1.0)}), [80, 81], Status.LOW_NCC)
    moved = rows.copy()
    moved["shift"] += offset
    found, other = follow(run.time, rows, BOTH), follow(run.time + since, moved, BOTH)
    assert other.shift - offset == pytest.approx(found.shift, abs=1e-4)
    assert np.array_equal(other.status, found.status)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), slower=st.sampled_from([0.01, 0.5, 60.0, 3600.0]))
def test_y_and_x_and_the_unit_of_time_do_not_matter(seed: int, slower: float) -> None:
    run = simulated(120, seed=seed, corr=0.3)
    swapped = run.rows.copy()
    for name in ("shift", "shift_std"):
        swapped[name] = run.rows[name][:, ::-1]
    found, other = follow(run.time, run.rows, BOTH), follow(run.time * slower, swapped, BOTH)
    assert other.shift[:, ::-1] == pytest.approx(found.shift, abs=1e-6)
    assert other.shift_std[:, ::-1] == pytest.approx(found.shift_std, rel=1e-4)
    assert other.walk_strength[::-1] * slower == pytest.approx(found.walk_strength, rel=1e-3)


def test_frames_numbered_by_something_else_than_time_come_out_as_in_order_of_time() -> None:
    run = simulated(400)
    rows = without(with_outliers(run.rows, {100: (9.0, 9.0)}), [200], Status.LOW_NCC)
    rows["shift"][300:] += 5.0
    mixed = np.random.default_rng(0).permutation(400)
    choice = BOTH.model_copy(update={"order": "time"})
    found, other = follow(run.time, rows, BOTH), follow(run.time[mixed], rows[mixed], choice)
    for name in ("shift", "shift_std", "shift_corr", "status", "segment"):
        assert np.array_equal(getattr(other, name), getattr(found, name)[mixed], equal_nan=True)
    assert mixed[other.jumps[0].frame] == found.jumps[0].frame


# ------------------------------------------------------------------ outliers


@pytest.mark.parametrize("std", [0.005, 0.3])
def test_outliers_lose_their_shift_and_no_other_frame_does(std: float) -> None:
    places: dict[int, tuple[float, float]] = {0: (6.0, 0.0), 999: (0.0, 6.0), 500: (-5.0, 5.0)}
    in_a_row = 6 if std < 0.1 else 4
    places |= {700 + k: (8.0, 1.0) for k in range(in_a_row)}
    run = simulated(1000, std=std)
    found = follow(run.time, with_outliers(run.rows, places))
    assert bits(found, Status.OUTLIER) == sorted(places)
    assert bits(found, Status.NOT_CONVERGED) == sorted(places)
    assert np.isnan(found.shift[sorted(places)]).all()
    assert np.isnan(found.shift_std[sorted(places)]).all()
    assert not is_good(found.status)[sorted(places)].any()


def test_one_frame_in_ten_may_be_an_outlier() -> None:
    run = simulated(3000, std=0.1)
    rng = np.random.default_rng(1)
    chosen = rng.choice(3000, 300, replace=False)
    angle = rng.uniform(0, 2 * np.pi, 300)
    off = rng.uniform(3.0, 20.0, 300)
    places = {
        int(frame): (float(r * np.sin(a)), float(r * np.cos(a)))
        for frame, r, a in zip(chosen, off, angle, strict=True)
    }
    found = follow(run.time, with_outliers(run.rows, places))
    told = set(bits(found, Status.OUTLIER))
    assert told <= set(places)
    assert len(told) >= 297


@pytest.mark.parametrize("std", [0.005, 0.3])
def test_fast_drift_is_neither_an_outlier_nor_a_jump(std: float) -> None:
    rng = np.random.default_rng(2)
    frame = np.arange(3000.0)[:, None]
    motions = {
        "steady": 0.1 * frame * [1.0, -0.3],
        "settling": 20.0 * np.exp(-frame / 300) * [1.0, 0.5],
        "settling fast": 20.0 * np.exp(-frame / 20) * [1.0, 0.5],
        "swinging": np.sin(frame / 8) * [1.0, 0.5],
    }
    for name, motion in motions.items():
        truth = motion + rng.normal(0.0, 0.01, (3000, 2))
        found = follow(None, table_of(truth + rng.normal(0.0, std, (3000, 2)), std))
        assert not bits(found, Status.OUTLIER), name
        assert not found.jumps, name


def test_a_spell_of_strong_jitter_is_not_an_outlier() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(0.0, 0.02, (3000, 2))
    truth[1000:1600] += rng.normal(0.0, 0.4, (600, 2))
    found = follow(None, table_of(truth, 0.005))
    assert not bits(found, Status.OUTLIER)
    assert not found.jumps


def test_an_outlier_is_judged_by_its_own_error_bar() -> None:
    run = simulated(500, std=0.05, jitter=0.01)
    rows = with_outliers(run.rows, {200: (2.0, 0.0), 300: (2.0, 0.0)})
    rows["shift_std"][200] = 1.0
    assert bits(follow(run.time, rows), Status.OUTLIER) == [300]


def test_pure_noise_has_no_outliers_whatever_its_length() -> None:
    for n in (8, 9, 15, 30, 100):
        for seed in range(12):
            run = simulated(n, seed=seed, std=0.02)
            found = follow(run.time, run.rows)
            assert not bits(found, Status.OUTLIER), (n, seed)
            assert not found.jumps


def test_outliers_stay_where_none_are_looked_for() -> None:
    run = simulated(300)
    rows = with_outliers(run.rows, {100: (9.0, 9.0)})
    found = follow(run.time, rows, TrajectoryConfig(outlier_sigma=None))
    assert np.array_equal(found.shift, rows["shift"])


# ------------------------------------------------------------------ jumps and gaps


@pytest.mark.parametrize(("std", "size"), [(0.005, 0.3), (0.3, 1.5)])
def test_jumps_are_found_where_they_are_and_kept(std: float, size: float) -> None:
    run = simulated(2000, std=std, step=0.002, jitter=0.02)
    truth, rows = run.truth.copy(), run.rows.copy()
    for first, sign in ((600, 1.0), (1500, -1.0)):
        truth[first:] += sign * size
        rows["shift"][first:] += sign * size
    found = follow(run.time, rows, SMOOTH)
    # A step of size s among errors of sigma is placed to about (sigma / s)^2 frames.
    assert [jump.frame for jump in found.jumps] == pytest.approx([600, 1500], abs=1)
    for jump, sign in zip(found.jumps, (1.0, -1.0), strict=True):
        off = (np.array(jump.size) - sign * size) / np.array(jump.std)
        assert np.abs(off).max() < 4.0
    assert np.unique(found.segment).tolist() == [0, 1, 2]
    near = np.r_[590:599, 602:611, 1490:1499, 1502:1511]
    pull = (found.shift - truth)[near] / found.shift_std[near]
    assert np.abs(pull).max() < 5.0


def test_jumps_close_to_each_other_and_outliers_beside_them_are_told_apart() -> None:
    run = simulated(1000, std=0.01, step=0.001, jitter=0.01)
    rows = with_outliers(run.rows, {499: (3.0, 0.0), 520: (0.0, -4.0)})
    rows["shift"][500:] += [2.0, 0.0]
    rows["shift"][521:] += [-1.0, 3.0]
    found = follow(run.time, rows)
    assert [jump.frame for jump in found.jumps] == [500, 521]
    assert bits(found, Status.OUTLIER) == [499, 520]


def test_a_gap_parts_segments_and_nothing_is_smoothed_across() -> None:
    run = simulated(400, step=0.001, jitter=0.0, std=0.2)
    time, rows = run.time.copy(), run.rows.copy()
    time[200:] += 500.0
    rows["shift"][200:] += 0.5
    found = follow(time, rows, SMOOTH)
    assert [(gap.frame, gap.seconds) for gap in found.gaps] == [(200, 502.0)]
    assert found.segment.tolist() == [0] * 200 + [1] * 200
    assert not found.jumps
    # What is after the gap leaves what is before it alone; the search for strengths, which are
    # shared, ends a little elsewhere.
    moved = rows.copy()
    moved["shift"][200:] += [30.0, -20.0]
    other = follow(time, moved, SMOOTH)
    assert other.shift[:200] == pytest.approx(found.shift[:200], abs=1e-4)
    assert other.shift[200:] - [30.0, -20.0] == pytest.approx(found.shift[200:], abs=1e-4)


def test_a_pause_that_is_usual_is_no_gap() -> None:
    seconds = np.arange(100) + 5.0 * (np.arange(100) // 10)
    assert not find_gaps(read_clock(seconds, 100), 20.0)
    assert len(find_gaps(read_clock(seconds, 100), 5.0)) == 9
    assert not find_gaps(read_clock(seconds, 100), None)


def test_step_weights_tell_a_step_and_nothing_of_a_line() -> None:
    for window in (8, 32):
        frames = np.arange(2 * window, dtype=float)
        for sloping in (True, False):
            weights = step_weights(window, sloping=sloping)
            assert weights @ (frames >= window) == pytest.approx(1.0)
            assert weights @ np.ones(2 * window) == pytest.approx(0.0, abs=1e-12)
        lines = [np.polyfit(frames[part], frames[part] ** 2, 1) for part in
                 (slice(0, window), slice(window, None))]  # fmt: skip
        before, after = (np.polyval(line, window - 0.5) for line in lines)
        assert step_weights(window, sloping=True) @ frames**2 == pytest.approx(after - before)


def test_jumps_are_not_looked_for_where_none_are_wanted() -> None:
    shift = np.zeros((100, 2))
    shift[50:] = 5.0
    rows = table_of(shift + np.random.default_rng(0).normal(0, 0.1, (100, 2)), 0.1)
    assert follow(None, rows).jumps
    assert not follow(None, rows, TrajectoryConfig(jump_sigma=None)).jumps


# ------------------------------------------------------------------ repair


def test_frames_that_could_not_be_registered_are_repaired_and_say_so() -> None:
    run = simulated(4000, std=0.1, jitter=0.05)
    lost = list(range(100, 3900, 20))
    rows = without(run.rows, lost, Status.LOW_NCC | Status.AMBIGUOUS | Status.STRUCK)
    found = follow(run.time, rows, REPAIR)
    assert bits(found, Status.REPAIRED) == lost
    assert is_good(found.status).all()
    assert bits(found, Status.STRUCK) == lost
    error = (found.shift - run.truth)[lost]
    # 190 frames along two axes: a spread is known to 5 %.
    assert (error / found.shift_std[lost]).std() == pytest.approx(1.0, abs=0.15)
    kept = np.setdiff1d(np.arange(4000), lost)
    assert np.array_equal(found.shift[kept], rows["shift"][kept])


def test_an_outlier_that_is_repaired_keeps_the_word() -> None:
    run = simulated(300, std=0.05)
    found = follow(run.time, with_outliers(run.rows, {100: (5.0, 5.0)}), REPAIR)
    assert found.status[100] == Status.OUTLIER | Status.REPAIRED
    assert np.abs(found.shift[100] - run.truth[100]).max() < 5 * found.shift_std[100].max()


@pytest.mark.parametrize(
    "status",
    [
        Status.UNREADABLE,
        Status.BLANK,
        Status.PENDING,
        Status.EXCLUDED | Status.NOT_CONVERGED,
        Status.BLANK | Status.LOW_NCC,
    ],
)
def test_frames_without_usable_pixels_are_never_repaired(status: Status) -> None:
    run = simulated(300)
    found = follow(run.time, without(run.rows, [50, 51], status), BOTH)
    assert found.status[50] == status
    assert np.isnan(found.shift[[50, 51]]).all()
    assert np.isnan(found.shift_std[[50, 51]]).all()


def test_runs_of_bad_frames_that_are_too_long_are_not_repaired() -> None:
    run = simulated(300)
    rows = without(run.rows, [*range(50, 54), *range(100, 105), *range(297, 300)], Status.LOW_NCC)
    choice = TrajectoryConfig(repair=True, max_repair_frames=4)
    assert bits(follow(run.time, rows, choice), Status.REPAIRED) == [50, 51, 52, 53, 297, 298, 299]


def test_nothing_is_repaired_across_a_jump_or_a_gap() -> None:
    run = simulated(400, std=0.02, jitter=0.01, step=0.001)
    rows = run.rows.copy()
    rows["shift"][200:] += 3.0
    found = follow(run.time, without(rows, [199, 200, 201], Status.LOW_NCC), BOTH)
    assert found.segment[[198, 199, 200, 201, 202]].tolist() == [0, -1, -1, -1, 1]
    assert not is_good(found.status)[199:202].any()
    assert found.jumps[0].frame == 202
    # At a gap it is known on which side a frame is: each is repaired from its own.
    time = run.time.copy()
    time[200:] += 1e4
    found = follow(time, without(rows, [199, 200], Status.LOW_NCC), BOTH)
    assert bits(found, Status.REPAIRED) == [199, 200]
    assert np.abs(found.shift[[199, 200]] - run.truth[[199, 200]] - [[0.0], [3.0]]).max() < 0.2


def test_error_bars_of_repaired_frames_grow_with_the_distance_from_good_ones() -> None:
    run = simulated(400, step=0.05, jitter=0.02, std=0.05)
    found = follow(run.time, without(run.rows, list(range(200, 209)), Status.LOW_NCC), REPAIR)
    stds = found.shift_std[200:209, 0]
    assert np.all(np.diff(stds[:5]) > 0)
    assert np.all(np.diff(stds[4:]) < 0)
    assert stds.min() > np.median(found.shift_std[150:199, 0])


def test_what_is_in_reach_ends_where_a_segment_does() -> None:
    used = np.array([False, True, False, False, False, True, False])
    segment = np.array([0, 0, 0, 0, 1, 1, 2])
    expected = [True, False, False, False, True, False, False]
    assert within_reach(used, segment, 1).tolist() == expected
    assert within_reach(np.zeros(0, bool), np.zeros(0, np.int64), 1).size == 0


def test_each_status_bit_is_either_repairable_or_not() -> None:
    # A frame at the limit was seen, as far away as is looked: its neighbours know no better.
    fine = {Status.LOW_OVERLAP, Status.LOW_NCC, Status.AMBIGUOUS, Status.NOT_CONVERGED}
    for bit in Status:
        assert bool(repairable(np.array([int(bit)], np.uint16))[0]) == (bit in fine)


# ------------------------------------------------------------------ few frames, bad frames


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_few_frames_keep_their_shifts_and_a_note_says_why(n: int) -> None:
    run = simulated(n)
    found = follow(run.time, run.rows, BOTH)
    assert np.array_equal(found.shift, run.rows["shift"])
    assert is_good(found.status).all()
    assert np.isnan(found.walk_strength).all()
    assert np.isnan(found.jitter_std).all()
    assert any("too few" in note for note in found.notes)
    assert found.shift.shape == (n, 2)
    assert found.segment.shape == (n,)


def test_where_all_frames_are_bad_none_gets_a_shift() -> None:
    run = simulated(100)
    found = follow(run.time, without(run.rows, list(range(100)), Status.LOW_NCC), BOTH)
    assert np.isnan(found.shift).all()
    assert not is_good(found.status).any()
    assert any("too few" in note for note in found.notes)


def test_a_stretch_without_a_good_frame_stays_without_shifts() -> None:
    run = simulated(100)
    time = run.time + 1e4 * (np.arange(100) >= 40) + 1e4 * (np.arange(100) >= 45)
    found = follow(time, without(run.rows, list(range(40, 45)), Status.LOW_NCC), BOTH)
    assert np.isnan(found.shift[40:45]).all()
    assert is_good(found.status).sum() == 95


def test_a_frame_called_good_that_has_no_shift_is_not_converged() -> None:
    run = simulated(100)
    rows = run.rows.copy()
    rows["shift"][10] = np.nan
    found = follow(run.time, rows)
    assert found.status[10] == Status.NOT_CONVERGED
    assert any("no shift" in note for note in found.notes)


def test_a_shift_without_an_error_bar_is_kept_and_weighs_nothing() -> None:
    run = simulated(100, std=0.1)
    rows = run.rows.copy()
    rows["shift"][10], rows["shift_std"][10] = [50.0, 50.0], np.nan
    found = follow(run.time, rows, BOTH)
    assert found.shift[10].tolist() == [50.0, 50.0]
    assert is_good(found.status[10])
    assert np.abs(found.shift[[9, 11]]).max() < 2.0
    assert any("without an error bar" in note for note in found.notes)
    rows["shift_std"] = np.nan
    assert np.array_equal(follow(run.time, rows, BOTH).shift, rows["shift"])


def test_exact_shifts_pass_unharmed() -> None:
    shift = np.outer(np.arange(50.0), [0.5, 0.25])
    found = follow(None, table_of(shift, 0.0), BOTH)
    assert found.shift == pytest.approx(shift, abs=1e-4)
    assert np.isfinite(found.shift_std).all()


def test_rows_of_something_else_are_refused() -> None:
    with pytest.raises(InputError, match="no shift_std, shift_corr"):
        read_evidence(np.zeros(3, [("shift", "f8", (2,)), ("status", "u2")]))


# ------------------------------------------------------------------ time


def test_dates_and_seconds_are_the_same_time() -> None:
    run = simulated(200)
    dates = np.datetime64("2024-03-31T01:30", "ns") + (run.time * 1e9).astype("m8[ns]")
    since = (run.time * 1e3).astype("m8[ms]")
    found = [follow(time, run.rows, SMOOTH) for time in (run.time, dates, since)]
    for other in found[1:]:
        assert np.array_equal(other.shift, found[0].shift)


def test_without_a_time_frame_numbers_stand_for_it_and_a_note_says_so() -> None:
    run = simulated(200)
    found = follow(None, run.rows, SMOOTH)
    assert found.shift == pytest.approx(follow(run.time, run.rows, SMOOTH).shift, abs=1e-6)
    assert any("No time coordinate" in note for note in found.notes)


def test_times_that_run_backwards_are_refused_and_named() -> None:
    time = np.arange(10.0)
    time[4:] -= 2.5
    with pytest.raises(InputError, match=r"frame 4 \(-1\.5 s\)") as caught:
        follow(time, simulated(10).rows)
    assert "order: time" in caught.value.cure
    negative = follow(np.arange(-20.0, 0.0), simulated(20).rows)
    assert not negative.gaps


def test_repeated_times_are_told_and_allow_no_drift_between() -> None:
    run = simulated(200, std=0.05)
    time = np.floor(run.time / 10) * 10
    found = follow(time, run.rows, SMOOTH)
    assert any("the time of the frame before" in note for note in found.notes)
    assert not found.gaps
    assert rms(found.shift - run.truth) < rms(run.raw_error)


def test_missing_times_are_drawn_between_the_others_and_told() -> None:
    time = np.arange(10.0)
    time[[0, 3, 4, 9]] = np.nan
    clock = read_clock(time, 10)
    assert clock.seconds == pytest.approx([0, 0, 1, 2, 3, 4, 5, 6, 7, 7])
    assert clock.notes[0].startswith("4 frames have no time")
    dates = np.array(["2024-01-01", "NaT", "2024-01-03"], "M8[D]")
    assert read_clock(dates, 3).seconds.tolist() == [0.0, 86400.0, 172800.0]


@pytest.mark.parametrize(
    ("time", "match"),
    [
        (np.full(5, 3.0), "same time"),
        (np.full(5, np.nan), "None of the 5 frames has a time"),
        (np.full(5, np.datetime64("NaT", "s")), "None of the 5 frames has a time"),
        (np.array(["a", "b", "c", "d", "e"]), "type <U1"),
        (np.array([True] * 5), "type bool"),
        (np.arange(4.0), r"shape \(4,\)"),
        (np.zeros((5, 1)), r"shape \(5, 1\)"),
    ],
)
def test_times_that_tell_nothing_are_refused(time: NDArray[np.generic], match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        follow(time, simulated(5).rows)
    assert "trajectory.coordinate" in caught.value.cure


def test_a_missing_time_cannot_be_sorted() -> None:
    with pytest.raises(InputError, match="have no time: 2"):
        read_clock([1.0, 0.0, np.nan], 3, "time")


# ------------------------------------------------------------------ scatter, settings, examples


def test_excess_variance_is_what_is_missing_whatever_a_minority_does() -> None:
    rng = np.random.default_rng(0)
    variance = rng.uniform(0.5, 2.0, 100_000)
    squares = rng.normal(0.0, np.sqrt(variance + 3.0)) ** 2
    squares[::10] = 1e6
    # A median of so many is known to 1 %; one in ten far away makes it 12 % larger.
    assert excess_variance(squares, variance) == pytest.approx(3.0, rel=0.5)
    assert excess_variance(squares[1::10] * 1e-3, variance[1::10]) == 0.0
    assert excess_variance(np.zeros(0), np.zeros(0)) == 0.0


def test_the_scale_is_never_below_one_and_follows_a_spell() -> None:
    rng = np.random.default_rng(0)
    length = np.hypot(*rng.normal(size=(2, 1000)))
    length[400:600] *= 5.0
    scale = local_scale(length)
    assert scale.min() == 1.0
    assert scale[450:550].min() > 3.0
    assert local_scale(np.ones(3)).tolist() == [1.0] * 3


def test_outliers_and_jumps_of_nothing_are_none() -> None:
    nothing, cov = np.zeros((0, 2)), np.zeros((0, 3))
    piece = np.zeros(0, np.int64)
    assert find_outliers(np.zeros(0), nothing, cov, piece, 6.0).size == 0
    assert find_jumps(nothing, cov, piece, 7.0).size == 0


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"outlier_sigma": 1.0}, "outlier_sigma"),
        ({"smooth": True, "outlier_sigma": None}, "smooth needs outlier_sigma"),
        ({"max_repair_frames": 0}, "max_repair_frames"),
        ({"gap_intervals": 1.0}, "gap_intervals"),
        ({"order": "delay"}, "order"),
        ({"smoothing": True}, "smoothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(section: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        validated(TrajectoryConfig, SettingsFile("The section", section))


def test_every_setting_is_described() -> None:
    assert all(field.description for field in TrajectoryConfig.model_fields.values())
    assert RunConfig.model_fields  # the section does not get in the way of the others


def test_a_trajectory_has_one_value_a_frame_or_an_axis() -> None:
    found = follow(None, simulated(30).rows, BOTH)
    frames = {"shift": 2, "shift_std": 2, "shift_corr": 1, "status": 1, "segment": 1}
    for name, dims in frames.items():
        assert getattr(found, name).shape == (30, 2)[:dims]
    for name in ("walk_strength", "jitter_std", "speed_strength", "drift_rms"):
        assert getattr(found, name).shape == (2,)
    assert {field.name for field in fields(found)} >= {*frames, "jumps", "gaps", "notes"}
    assert found.status.dtype == np.uint16
    assert found.segment.dtype == np.int32
