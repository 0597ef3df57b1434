"""Shifts of frames from sums of neighbours, against simulated truth and the plain mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillstack.config.trajectory import TrajectoryConfig
from stillstack.drift.grouping import SumQuality, choose_sum, sum_ranges
from stillstack.drift.sums import interpolate_sums
from stillstack.drift.trajectory import Trajectory
from stillstack.errors import InputError
from stillstack.model import Status, empty_table, is_good

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def walk(n: int, *, step: float, jitter: float, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(0, step, (n, 2)).cumsum(axis=0) + rng.normal(0, jitter, (n, 2)))


def sums_of(truth: Floats, ranges: Indices, std: float, seed: int = 1) -> NDArray[np.void]:
    """Rows as registering each sum would give: the mean of its frames' places, and their noise."""
    seen = truth + np.random.default_rng(seed).normal(0.0, std, truth.shape)
    rows = empty_table(len(ranges), Status(0))
    rows["shift"] = [seen[first:last].mean(axis=0) for first, last in ranges]
    rows["shift_std"] = std / np.sqrt(np.diff(ranges, axis=1))
    rows["shift_corr"] = 0.0
    return rows


def no_status(n: int) -> NDArray[np.uint16]:
    return np.zeros(n, np.uint16)


def pull(found: Trajectory, truth: Floats) -> float:
    return float(np.nanstd((found.shift - truth) / found.shift_std))


# ------------------------------------------------------------------ groups


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 200),
    k=st.integers(1, 40),
    stride=st.integers(1, 40),
    pause=st.integers(1, 199),
)
def test_every_frame_is_in_a_group_and_no_group_crosses_a_gap(
    n: int, k: int, stride: int, pause: int
) -> None:
    stride = min(stride, k)
    time = np.arange(n) + 1000.0 * (np.arange(n) >= pause)
    told = n > 3  # of two intervals nobody can say which is the pause
    ranges = sum_ranges(time if told else None, n, k, stride)
    held = np.zeros(n, int)
    for first, last in ranges:
        held[first:last] += 1
        assert 0 <= first < last <= n
        assert last - first <= k
        if told:
            assert not first < pause < last
    assert held.min() >= 1
    assert np.all(np.diff(ranges[:, 0]) > 0)
    assert np.all(np.diff(ranges[:, 0]) <= max(stride, k))


def test_a_stretch_shorter_than_a_group_is_one() -> None:
    assert sum_ranges(None, 3, 10).tolist() == [[0, 3]]
    assert sum_ranges(None, 0, 10).shape == (0, 2)
    assert sum_ranges(None, 11, 5, 5).tolist() == [[0, 5], [5, 10], [6, 11]]


@pytest.mark.parametrize("stride", [0, 6])
def test_a_stride_that_leaves_frames_out_is_refused(stride: int) -> None:
    with pytest.raises(InputError, match="Groups of 5 frames"):
        sum_ranges(None, 20, 5, stride)


def measured(needed: int) -> tuple[Callable[[int], SumQuality], list[int]]:
    asked: list[int] = []

    def measure(k: int) -> SumQuality:
        asked.append(k)
        return SumQuality(1.0 if k >= needed else 0.5, 0.1)

    return measure, asked


@given(needed=st.integers(1, 256))
def test_the_smallest_sum_that_is_enough_is_found_to_a_tenth(needed: int) -> None:
    measure, asked = measured(needed)
    k = choose_sum(measure)
    assert needed <= k <= max(needed, 1.1 * needed + 1)
    assert len(set(asked)) == len(asked) <= 13


def test_both_share_and_error_have_to_be_enough() -> None:
    assert SumQuality(0.99, 0.2).enough
    assert not SumQuality(0.98, 0.1).enough
    assert not SumQuality(1.0, 0.21).enough
    assert not SumQuality(1.0, float("nan")).enough


def test_a_dose_too_low_for_any_sum_is_an_error_with_the_figures() -> None:
    with pytest.raises(InputError, match="sums of 64 frames 50 % are good"):
        choose_sum(measured(100)[0], most=64)


# ------------------------------------------------------------------ drawn through to frames


@pytest.mark.parametrize("stride", [20, 10, 1])
@pytest.mark.parametrize(("step", "jitter"), [(0.01, 0.1), (0.05, 0.05)])
def test_frames_get_honest_error_bars_whatever_the_overlap(
    step: float, jitter: float, stride: int
) -> None:
    n, k, std = 8000, 20, 1.0
    truth = walk(n, step=step, jitter=jitter)
    ranges = sum_ranges(None, n, k, stride)
    known = (jitter, jitter)
    found = interpolate_sums(
        None, no_status(n), ranges, sums_of(truth, ranges, std), jitter_std=known
    )
    assert is_good(found.status).all()
    # 8000 frames along two axes, about fifty of which share an error of the drift: 4 %.
    assert 0.9 < pull(found, truth) < 1.1


def test_jitter_that_sums_share_counts_once() -> None:
    n, jitter, rng = 12_000, 0.8, np.random.default_rng(4)
    drift = rng.normal(0, 0.01, (n, 2)).cumsum(axis=0)
    ranges = sum_ranges(None, n, 10, 1)
    rows = sums_of(drift + rng.normal(0, jitter, (n, 2)), ranges, 0.3)
    found = interpolate_sums(None, no_status(n), ranges, rows, jitter_std=(0.0, 0.0))
    # Ten frames share each jitter: left at one tenth, error bars of the drift would be a half.
    assert 0.8 < pull(found, drift) < 1.25


def test_drawing_through_is_better_than_taking_each_sums_shift_for_its_frames() -> None:
    n, k = 6000, 20
    truth = walk(n, step=0.02, jitter=0.02)
    ranges = sum_ranges(None, n, k, k)
    rows = sums_of(truth, ranges, 1.0)
    found = interpolate_sums(None, no_status(n), ranges, rows)
    stepped = np.repeat(rows["shift"], k, axis=0)
    assert np.std(found.shift - truth) < 0.8 * np.std(stepped - truth)


def test_jitter_that_sums_do_not_show_is_allowed_for_and_told() -> None:
    n = 4000
    truth = walk(n, step=0.001, jitter=0.3)
    ranges = sum_ranges(None, n, 20)
    found = interpolate_sums(None, no_status(n), ranges, sums_of(truth, ranges, 1.0))
    assert any("Jitter of frames" in note for note in found.notes)
    assert 0.5 < pull(found, truth) < 1.3


def test_frames_at_a_jump_are_of_neither_side() -> None:
    n, k = 3000, 10
    truth = walk(n, step=0.001, jitter=0.02)
    truth[1500:] += [3.0, -2.0]
    ranges = sum_ranges(None, n, k)
    found = interpolate_sums(None, no_status(n), ranges, sums_of(truth, ranges, 0.3))
    (jump,) = found.jumps
    assert abs(jump.frame - 1500) <= k
    assert np.abs((np.array(jump.size) - [3.0, -2.0]) / jump.std).max() < 4
    lost = np.flatnonzero(~is_good(found.status))
    assert 0 < lost.size <= 2 * k
    assert np.all(np.abs(lost - 1500) <= k)
    assert (found.segment[lost] == -1).all()
    error = found.shift - truth
    good = np.setdiff1d(np.arange(n), lost)
    # What a sum holds of both sides of the jump reaches no further than the sum.
    assert np.abs(error[good]).max() < 0.5
    assert found.segment[good].tolist() == [0] * (good < 1500).sum() + [1] * (good >= 1500).sum()


def test_nothing_is_drawn_across_a_gap() -> None:
    n = 400
    truth = walk(n, step=0.001, jitter=0.01)
    truth[203:] += 5.0
    time = np.arange(n) + 1e4 * (np.arange(n) >= 203)
    ranges = sum_ranges(time, n, 8)
    found = interpolate_sums(time, no_status(n), ranges, sums_of(truth, ranges, 0.2))
    assert [gap.frame for gap in found.gaps] == [203]
    assert np.abs(found.shift - truth).max() < 0.5
    assert found.segment.tolist() == [0] * 203 + [1] * (n - 203)


def test_frames_without_usable_pixels_stay_so_and_the_others_are_drawn_through() -> None:
    n = 600
    truth = walk(n, step=0.01, jitter=0.02)
    status = no_status(n)
    status[100], status[200], status[300] = Status.BLANK, Status.UNREADABLE, Status.STRUCK
    ranges = sum_ranges(None, n, 10)
    found = interpolate_sums(None, status, ranges, sums_of(truth, ranges, 0.3))
    assert found.status[100] & Status.BLANK
    assert np.isnan(found.shift[[100, 200]]).all()
    assert found.status[300] == Status.STRUCK
    assert is_good(found.status).sum() == n - 2


def test_frames_that_only_bad_sums_hold_are_repaired_if_asked_and_not_too_many() -> None:
    n, k = 600, 10
    truth = walk(n, step=0.01, jitter=0.02)
    ranges = sum_ranges(None, n, k, k)
    rows = sums_of(truth, ranges, 0.3)
    rows["status"][20] = Status.LOW_NCC
    rows["shift"][20] = np.nan
    held = np.arange(200, 210)
    found = interpolate_sums(None, no_status(n), ranges, rows)
    assert np.flatnonzero(found.status == Status.NOT_CONVERGED).tolist() == held.tolist()
    repair = TrajectoryConfig(repair=True, max_repair_frames=10)
    found = interpolate_sums(None, no_status(n), ranges, rows, repair)
    assert np.flatnonzero(found.status == Status.REPAIRED).tolist() == held.tolist()
    assert np.abs(found.shift[held] - truth[held]).max() < 0.5
    few = TrajectoryConfig(repair=True, max_repair_frames=9)
    found = interpolate_sums(None, no_status(n), ranges, rows, few)
    assert np.isnan(found.shift[held]).all()


def test_where_all_sums_are_bad_no_frame_gets_a_shift() -> None:
    ranges = sum_ranges(None, 200, 10)
    rows = empty_table(len(ranges), Status.LOW_NCC)
    found = interpolate_sums(None, no_status(200), ranges, rows, TrajectoryConfig(repair=True))
    assert np.isnan(found.shift).all()
    assert (found.status == Status.NOT_CONVERGED).all()
    assert any("too few" in note for note in found.notes)


@pytest.mark.parametrize(
    "ranges",
    [
        np.array([[0, 5]]),
        np.array([[0, 5], [5, 12]]),
        np.array([[5, 10], [0, 5]]),
        np.array([[0, 5], [7, 7]]),
        np.zeros((2, 3), np.int64),
    ],
)
def test_ranges_of_other_sums_are_refused(ranges: Indices) -> None:
    with pytest.raises(InputError, match="do not fit 2 sums of 10 frames"):
        interpolate_sums(None, no_status(10), ranges, empty_table(2, Status(0)))
