"""Coarser levels, and which pixels of a frame are valid, held to plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from arrays import TYPES, Valid, counts, flags, frozen, tiles
from stillstack.kernels import pyramid
from stillstack.kernels.pyramid import (
    exceeds,
    halve,
    inverse_counts,
    is_flat,
    n_outside,
    scale_again,
    typical_level,
)
from stillstack.kernels.validity import FrameValidity, ValueRules, value_validity

COMPILED = [name for name in vars(pyramid) if hasattr(getattr(pyramid, name), "py_func")]


@pytest.fixture(params=["compiled", "python"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The loops as numba compiles them, and as Python runs them."""
    if request.param == "python":
        for name in COMPILED:
            monkeypatch.setattr(pyramid, name, getattr(pyramid, name).py_func)
    return str(request.param)


# ------------------------------------------------------------------ values in order


@pytest.mark.parametrize("dtype", TYPES)
def test_values_out_of_limits_are_counted_where_they_would_count(
    either_way: str, dtype: str
) -> None:
    frame = counts((12, 10), 4, dtype).copy()
    static, valid = flags((12, 10), 4), flags((12, 10), 5)
    limits = (20.0, 100.0)
    expected = np.count_nonzero(static & valid & ((frame < 20) | (frame > 100)))
    assert n_outside(frozen(frame), static, valid, limits) == expected


def test_what_is_no_finite_number_is_never_within_limits() -> None:
    frame = np.array([[1.0, np.nan, np.inf, -np.inf]])
    everywhere = np.ones(frame.shape, bool)
    assert n_outside(frame, everywhere, everywhere, (-np.inf, np.inf)) == 3


def test_a_flat_level_is_told_by_its_usable_bins(either_way: str) -> None:
    mean = np.full((4, 5), 3.0, np.float32)
    usable = np.ones((4, 5), np.uint8)
    assert is_flat(mean, usable)
    mean[2, 2] = 4.0
    assert not is_flat(mean, usable)
    usable[2, 2] = 0
    assert is_flat(mean, usable)


def test_a_bin_above_the_ceiling_is_seen(either_way: str) -> None:
    mean = counts((9, 7), 6).astype(np.float32)
    assert exceeds(mean, float(mean.max()) - 0.5)
    assert not exceeds(mean, float(mean.max()))


# ------------------------------------------------------------------ coarser levels


@pytest.mark.parametrize("shape", [(16, 24), (20, 12), (13, 15)])
def test_coarser_levels_are_means_over_usable_bins(either_way: str, shape: tuple[int, int]) -> None:
    usable = flags(shape, 7).view(np.uint8)
    total = frozen((counts(shape, 7) * usable).astype(np.float32))
    for steps, inverse in enumerate(inverse_counts(usable, 2), 1):
        total, mean = halve(total, inverse)
        number = tiles(usable, 2**steps).sum(axis=-1)[: mean.shape[0], : mean.shape[1]]
        enough = number >= 0.5 * 4**steps
        summed = tiles(counts(shape, 7) * usable, 2**steps).sum(axis=-1)
        summed = summed[: mean.shape[0], : mean.shape[1]]
        expected = np.where(enough, summed / np.maximum(number, 1), 0.0)
        np.testing.assert_allclose(mean, expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(24, 32), (26, 37)])
def test_means_without_lost_bins_are_those_of_the_rest(
    either_way: str, seed: int, shape: tuple[int, int]
) -> None:
    """One bin in a hundred, and one in two, so that some coarse bins have too few left."""
    static = flags(shape, seed, 0.8)
    usable = frozen(static & flags(shape, seed + 7, 0.99 if seed % 2 else 0.5))
    lost = np.flatnonzero(static & ~usable)
    total = frozen((counts(shape, seed) * usable).astype(np.float32))
    again = total
    before, after = inverse_counts(static.view("u1"), 3), inverse_counts(usable.view("u1"), 3)
    for steps, (always, now) in enumerate(zip(before, after, strict=True), 1):
        total, mean = halve(total, always)
        again, expected = halve(again, now)
        known = frozen((always > 0).view("u1"))
        gone = scale_again(total, mean, usable.view("u1"), known, lost, steps)
        np.testing.assert_array_equal(mean, expected)
        np.testing.assert_array_equal(gone, np.flatnonzero((always > 0) & (now == 0)))


# ------------------------------------------------------------------ the typical level


@pytest.mark.parametrize("shape", [(8, 8), (64, 30), (500, 9)])
def test_the_typical_level_lies_among_the_valid_values(
    either_way: str, shape: tuple[int, int]
) -> None:
    valid = flags(shape, 7)
    frame = np.where(valid, counts(shape, 7), np.nan)
    level = typical_level(frame, valid, np.ones(shape, bool))
    assert frame[valid].min() <= level <= frame[valid].max()
    assert level == pytest.approx(frame[valid].mean(), rel=0.3)


def test_the_typical_level_of_one_valid_pixel_in_the_first_row_is_that_pixel() -> None:
    valid = np.zeros((50, 10), bool)
    valid[0, 3] = True
    everywhere = np.ones(valid.shape, bool)
    assert typical_level(counts((50, 10), 8), valid, everywhere) == counts((50, 10), 8)[0, 3]
    assert typical_level(counts((50, 10), 8), everywhere, ~everywhere) == 0.0


def test_hits_do_not_raise_the_typical_level() -> None:
    frame = counts((64, 64), 9).astype(np.float64)
    everywhere = np.ones(frame.shape, bool)
    plain = typical_level(frame, everywhere, everywhere)
    frame[2] = 1e6
    assert typical_level(frame, everywhere, everywhere) == pytest.approx(plain, rel=0.1)


# ------------------------------------------------------------------ valid pixels of one frame


def rules_by_hand(frame: NDArray[Any], static: Valid, rules: ValueRules) -> Valid:
    """Pixel by pixel, in words."""
    valid = static.copy()
    for index in np.ndindex(*frame.shape):
        value = float(frame[index])
        too_low = rules.below is not None and value < rules.below
        too_high = rules.above is not None and value > rules.above
        full = (
            rules.above is None
            and np.issubdtype(frame.dtype, np.integer)
            and value == np.iinfo(frame.dtype).max
        )
        if not np.isfinite(value) or too_low or too_high or full or value in rules.equal:
            valid[index] = False
    return valid


@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(["uint8", "int16", "float32", "float64", ">f4"]),
    limits=st.tuples(st.sampled_from([None, 10.0]), st.sampled_from([None, 100.0])),
    equal=st.sampled_from([(), (50.0,), (0.0, 119.0)]),
    broken=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_values_that_break_a_rule_do_not_count(
    seed: int,
    dtype: str,
    limits: tuple[float | None, float | None],
    equal: tuple[float, ...],
    broken: bool,
) -> None:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 120, (9, 11)).astype(dtype)
    if broken:
        worst = np.iinfo(dtype).max if np.issubdtype(frame.dtype, np.integer) else np.nan
        frame[rng.random(frame.shape) < 0.1] = worst
    static, rules = flags(frame.shape, seed), ValueRules(*limits, equal)
    found = value_validity(frozen(frame), static, rules)
    np.testing.assert_array_equal(found.valid, rules_by_hand(frame, static, rules))
    assert found.is_static == np.array_equal(found.valid, static)


def test_a_frame_that_breaks_no_rule_gets_the_static_array_itself() -> None:
    frame, static = counts((9, 9), 1), flags((9, 9), 1)
    for rules in (ValueRules(), ValueRules(below=0.0, above=500.0, equal=(777.0,))):
        found = value_validity(frame, static, rules)
        assert found.valid is static
        assert found.is_static
        assert (found.n_saturated, found.n_non_finite) == (0, 0)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_stuck_pixels_that_do_not_count_leave_the_static_array_as_it_is(dtype: str) -> None:
    static, frame = flags((9, 9), 1), counts((9, 9), 1, dtype).copy()
    frame[~static] = worst = np.nan if frame.dtype.kind == "f" else np.iinfo(dtype).max
    assert not static.all()
    found = value_validity(frame, static, ValueRules())
    assert found.valid is static
    assert found.is_static
    frame[np.unravel_index(np.argmax(static), static.shape)] = worst
    found = value_validity(frame, static, ValueRules())
    assert found.n_saturated + found.n_non_finite == 1
    assert np.count_nonzero(static & ~found.valid) == 1


def test_offences_are_counted_where_pixels_could_count() -> None:
    frame = counts((10, 10), 2, "float32").copy()
    static = np.ones((10, 10), bool)
    static[0] = False
    frame[0, :5], frame[1, :4] = np.nan, (np.nan, np.inf, -np.inf, 7e4)
    found = value_validity(frame, static, ValueRules(above=1e4))
    assert (found.n_saturated, found.n_non_finite) == (1, 3)
    assert not found.is_static


def test_pixels_near_a_saturated_one_are_left_out_when_that_is_asked_for() -> None:
    frame, static = counts((20, 20), 3).copy(), np.ones((20, 20), bool)
    frame[7, 9], frame[0, 0] = 65_535, 65_535
    grown: FrameValidity = value_validity(frame, static, ValueRules(), grow_px=2)
    expected = static.copy()
    expected[5:10, 7:12], expected[:3, :3] = False, False
    np.testing.assert_array_equal(grown.valid, expected)
    assert grown.n_saturated == 2
    alone = value_validity(frame, static, ValueRules(), grow_px=0).valid
    assert np.count_nonzero(~alone) == 2


def test_pixels_near_one_that_is_no_number_are_kept() -> None:
    frame, static = counts((20, 20), 3, "float64").copy(), np.ones((20, 20), bool)
    frame[7, 9] = np.inf
    found = value_validity(frame, static, ValueRules(above=1e4), grow_px=2)
    assert np.count_nonzero(~found.valid) == 1


@pytest.mark.parametrize(
    ("dtype", "highest"), [("uint8", 254), ("int16", 32_766), ("uint16", 65_534), ("f4", np.inf)]
)
def test_without_a_rule_only_the_largest_value_of_an_integer_is_saturated(
    dtype: str, highest: float
) -> None:
    assert ValueRules().limits(np.dtype(dtype)) == (-np.inf, highest)
    assert ValueRules(-5.0, 90.0).limits(np.dtype(dtype)) == (-5.0, 90.0)
