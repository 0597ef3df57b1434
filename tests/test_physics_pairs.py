"""Pump-on and pump-off frames in pairs: each in one, bad ones with their partner, and counted."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from stillstack.errors import InputError
from stillstack.physics.differences import difference
from stillstack.physics.pairs import Pairs, pump_pairs

BOTH = ["alternating", "nearest"]


def assert_sound(pairs: Pairs, on: Any, good: Any) -> None:
    for number in range(pairs.n_pairs):
        members = np.flatnonzero(pairs.pair == number)
        assert members.size == 2
        assert on[members].sum() == 1
        assert pairs.used[members].all() == good[members].all()
        assert pairs.used[members].any() == good[members].all()
    assert not pairs.used[pairs.pair < 0].any()
    assert pairs.n_used + pairs.n_left_out == pairs.n_pairs
    assert 2 * pairs.n_pairs + pairs.n_single == on.size
    assert (pairs.labels == "on").sum() == (pairs.labels == "off").sum() == pairs.n_used


@given(
    states=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40),
    scheme=st.sampled_from(BOTH),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_every_pair_has_one_of_each_and_is_used_only_if_both_are_good(
    states: list[tuple[bool, bool]], scheme: str, seed: int
) -> None:
    on, good = (np.array(values) for values in zip(*states, strict=True))
    if on.all() or not on.any():
        on[0] = not on[0]
    time = np.random.default_rng(seed).permutation(on.size).astype(float)
    assert_sound(pump_pairs(on, good=good, time=time, scheme=scheme), on, good)


@given(on=st.lists(st.booleans(), min_size=2, max_size=8), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_nearest_pairs_are_as_many_and_as_near_as_any_assignment(on: list[bool], seed: int) -> None:
    states = np.array(on)
    if states.all() or not states.any():
        states[0] = not states[0]
    time = np.random.default_rng(seed).uniform(0, 10, states.size)
    pairs = pump_pairs(states, good=np.ones(states.size, bool), time=time, scheme="nearest")
    ones, others = time[states], time[~states]
    few, many = sorted((ones, others), key=len)
    # Three candidates on either side are all there are of the eight frames, or nearly.
    best = min(
        np.abs(few - np.array(chosen)).sum() for chosen in itertools.permutations(many, len(few))
    )
    if len(many) <= 3:
        assert pairs.n_pairs == len(few)
        members = [np.flatnonzero(pairs.pair == k) for k in range(pairs.n_pairs)]
        assert sum(np.ptp(time[m]) for m in members) == pytest.approx(best)


@pytest.mark.parametrize("scheme", BOTH)
def test_alternating_frames_all_find_a_partner_however_their_times_jitter(scheme: str) -> None:
    n_frames = 2000
    on = np.arange(n_frames) % 2 == 0
    time = np.arange(n_frames) + np.random.default_rng(0).uniform(-0.4, 0.4, n_frames)
    pairs = pump_pairs(on, good=np.ones(n_frames, bool), time=time, scheme=scheme)
    assert pairs.n_pairs == n_frames // 2
    np.testing.assert_array_equal(pairs.pair, np.arange(n_frames) // 2)


def test_a_bad_frame_takes_its_partner_with_it_and_no_other() -> None:
    on = np.arange(12) % 2 == 0
    good = np.ones(12, bool)
    good[5] = False
    pairs = pump_pairs(on, good=good)
    np.testing.assert_array_equal(np.flatnonzero(~pairs.used), [4, 5])
    assert (pairs.n_pairs, pairs.n_used, pairs.n_left_out, pairs.n_single) == (6, 5, 1, 0)


def test_partners_have_the_same_delay_whatever_comes_between() -> None:
    on = np.array([True, True, False, False, True, False])
    delay = np.array([0.0, 5.0, 0.0, 5.0, np.nan, 5.0])
    pairs = pump_pairs(on, good=np.ones(6, bool), delay=delay)
    np.testing.assert_array_equal(pairs.pair, [0, 1, 0, 1, -1, -1])


def test_states_in_blocks_are_paired_by_nearness() -> None:
    on = np.array([True] * 3 + [False] * 3)
    nearest = pump_pairs(on, good=np.ones(6, bool), scheme="nearest")
    assert nearest.n_pairs == 3
    assert pump_pairs(on, good=np.ones(6, bool)).n_pairs == 1


@pytest.mark.parametrize("scheme", BOTH)
def test_frames_too_far_apart_or_without_a_time_stay_single(scheme: str) -> None:
    on = np.array([True, False, True, False, True, False])
    clocks = ("00:00:00", "00:00:01", "01:00:00", "02:00:00", None, "02:00:01")
    time = np.array([clock and f"2026-01-01T{clock}" for clock in clocks], "datetime64[s]")
    pairs = pump_pairs(on, good=np.ones(6, bool), time=time, scheme=scheme, max_gap=10.0)
    np.testing.assert_array_equal(pairs.pair, [0, 0, -1, -1, -1, -1])


def test_slow_drift_of_the_source_cancels_in_pairs() -> None:
    """A source that fades by a half, with bad frames among the late pumped ones."""
    n_frames = 400
    on, rng = np.arange(n_frames) % 2 == 0, np.random.default_rng(1)
    fading = np.linspace(100.0, 50.0, n_frames)
    counts = fading + 2.0 * on
    good = ~(on & (rng.random(n_frames) < np.linspace(0, 0.9, n_frames)))
    pairs = pump_pairs(on, good=good)
    table = xr.DataArray(counts, dims="frame").assign_coords(pump_pair=("frame", pairs.labels))
    means = table.groupby("pump_pair").mean().expand_dims(y=1, x=1).to_dataset(name="mean")
    reduced = means.assign(
        standard_error=xr.zeros_like(means["mean"]), coverage=xr.ones_like(means["mean"])
    )
    found = difference(reduced, "pump_pair", reference="off").sel(pump_pair="on")
    # Frames of a pair are one step of the fading apart.
    assert found["difference"].item() == pytest.approx(2.0 + 50 / 399, abs=1e-9)
    assert counts[good & on].mean() - counts[good & ~on].mean() > 5.0


@pytest.mark.parametrize(
    ("on", "options", "message"),
    [
        (np.ones(4, bool), {}, "no two make a pair"),
        (np.array([1, 0, 1, 0]), {}, "`on` is an array of int64"),
        (np.ones((2, 2), bool), {}, "with 2 dimensions"),
        (np.array([True, False, True, False]), {"time": np.zeros(3)}, "`time` has 3 values for 4"),
        (np.array([True, False, True, False]), {"delay": np.zeros(5)}, "`delay` has 5 values"),
        (np.array([True, False, True, False]), {"good": np.ones(3, bool)}, "`good` has 3"),
        (np.array([True, False, True, False]), {"scheme": "random"}, "scheme is 'random'"),
        (np.array([True, False, True, False]), {"max_gap": 0.5}, "no two make a pair"),
    ],
)
def test_what_cannot_be_paired_is_refused(on: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pump_pairs(on, **({"good": np.ones(4, bool)} | options))
