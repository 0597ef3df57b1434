"""Binning that respects valid pixels, and which pixels those are, held to plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillstack.kernels import pyramid
from stillstack.kernels.pyramid import bin_frame, count_valid, halve, rough_mean
from stillstack.kernels.validity import FrameValidity, ValueRules, value_validity

Valid = NDArray[np.bool_]
TYPES = ["uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
COMPILED = ("_bin_static", "_mend_partial", "_bin_valid", "_halve", "_count_valid")


@pytest.fixture(params=["compiled", "python"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The loops as numba compiles them, and as Python runs them."""
    if request.param == "python":
        for name in COMPILED:
            monkeypatch.setattr(pyramid, name, getattr(pyramid, name).py_func)
    return str(request.param)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def counts(shape: tuple[int, int], seed: int, dtype: str = "uint16") -> NDArray[Any]:
    return frozen(np.random.default_rng(seed).integers(0, 120, shape).astype(dtype))


def flags(shape: tuple[int, int], seed: int, share: float = 0.7) -> Valid:
    return frozen(np.random.default_rng(seed + 1).random(shape) < share)


def tiles(array: NDArray[Any], factor: int) -> NDArray[Any]:
    """Whole bins, their pixels along the last axis."""
    n_y, n_x = (n // factor for n in array.shape)
    cut = array[: n_y * factor, : n_x * factor].reshape(n_y, factor, n_x, factor)
    return cut.swapaxes(1, 2).reshape(n_y, n_x, factor**2)


def means_by_hand(
    frame: NDArray[Any], valid: Valid, factor: int, offset: float
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    inside = tiles(valid, factor)
    number = inside.sum(axis=-1)
    total = np.where(inside, tiles(frame, factor).astype(np.float64), 0.0).sum(axis=-1)
    return np.where(number > 0, total / np.maximum(number, 1) - offset, 0.0), number


# ------------------------------------------------------------------ bins


@pytest.mark.parametrize("shape", [(12, 16), (13, 11), (3, 5), (8, 1)])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_bins_hold_the_mean_of_their_valid_pixels(
    either_way: str, shape: tuple[int, int], factor: int
) -> None:
    frame, valid = counts(shape, 0), flags(shape, 0)
    mean, count = bin_frame(frame, valid, factor, 5.5)
    expected, number = means_by_hand(frame, valid, factor, 5.5)
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(count, number)
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_count_that_is_known_already_changes_nothing(
    either_way: str, share: float, factor: int
) -> None:
    frame, valid = counts((17, 22), 1), flags((17, 22), 1, share)
    plain, number = bin_frame(frame, valid, factor, 3.0)
    known = frozen(count_valid(valid, factor))
    mean, count = bin_frame(frame, valid, factor, 3.0, count=known)
    np.testing.assert_array_equal(count, number)
    np.testing.assert_allclose(mean, plain, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("static", [False, True])
def test_every_type_of_number_is_binned(dtype: str, static: bool) -> None:
    frame, valid = counts((16, 20), 2, dtype), flags((16, 20), 2)
    mean, _ = bin_frame(frame, valid, 4, 1.0, count=count_valid(valid, 4) if static else None)
    np.testing.assert_allclose(mean, means_by_hand(frame, valid, 4, 1.0)[0], rtol=1e-6, atol=1e-5)


@given(
    seed=st.integers(0, 10_000),
    value=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]),
    static=st.booleans(),
    factor=st.sampled_from([1, 2, 3, 4]),
)
@settings(max_examples=40, deadline=None)
def test_invalid_pixels_enter_no_mean(seed: int, value: float, static: bool, factor: int) -> None:
    frame, valid = counts((13, 14), seed, "float64"), flags((13, 14), seed)
    count = count_valid(valid, factor) if static else None
    plain, _ = bin_frame(frame, valid, factor, 2.0, count=count)
    changed, _ = bin_frame(np.where(valid, frame, value), valid, factor, 2.0, count=count)
    np.testing.assert_array_equal(changed, plain)


@pytest.mark.parametrize("static", [False, True])
def test_a_pedestal_does_not_cost_precision(static: bool) -> None:
    """Single precision holds seven digits: a pedestal of 1e9 is taken off before."""
    frame, valid = counts((16, 16), 3, "float64"), flags((16, 16), 3)
    count = count_valid(valid, 4) if static else None
    mean, _ = bin_frame(frame + 1e9, valid, 4, 1e9, count=count)
    np.testing.assert_allclose(mean, means_by_hand(frame, valid, 4, 0.0)[0], atol=1e-4)


@pytest.mark.parametrize("static", [False, True])
def test_sums_of_large_integers_do_not_overflow(static: bool) -> None:
    frame, valid = np.full((8, 8), 65_535, np.uint16), np.ones((8, 8), bool)
    count = count_valid(valid, 8) if static else None
    mean, _ = bin_frame(frame, valid, 8, 0.0, count=count)
    np.testing.assert_array_equal(mean, 65_535.0)


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_valid_pixels_of_whole_bins_are_counted(either_way: str, factor: int) -> None:
    valid = flags((17, 14), 4)
    np.testing.assert_array_equal(count_valid(valid, factor), tiles(valid, factor).sum(axis=-1))


# ------------------------------------------------------------------ levels


@pytest.mark.parametrize("shape", [(16, 24), (20, 12), (13, 15)])
def test_halving_is_binning_twice_as_coarse(either_way: str, shape: tuple[int, int]) -> None:
    frame, valid = counts(shape, 5), flags(shape, 5, 0.5)
    mean, count = halve(*map(frozen, bin_frame(frame, valid, 2, 7.0)))
    whole = tuple(n // 4 * 4 for n in shape)
    expected, number = means_by_hand(
        frame[: whole[0], : whole[1]], valid[: whole[0], : whole[1]], 4, 7.0
    )
    np.testing.assert_array_equal(count, number)
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-4)


def test_a_level_without_a_valid_pixel_is_zero(either_way: str) -> None:
    nowhere = np.zeros((8, 8), bool)
    mean, count = halve(*bin_frame(counts((8, 8), 6), nowhere, 2, 50.0))
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_array_equal(count, 0)


# ------------------------------------------------------------------ the pedestal


@pytest.mark.parametrize("shape", [(8, 8), (64, 30), (500, 9)])
def test_the_rough_mean_lies_among_the_valid_values(shape: tuple[int, int]) -> None:
    valid = flags(shape, 7)
    frame = np.where(valid, counts(shape, 7), np.nan)
    mean = rough_mean(frame, valid)
    assert frame[valid].min() <= mean <= frame[valid].max()
    assert mean == pytest.approx(frame[valid].mean(), rel=0.3)


def test_the_rough_mean_of_one_valid_pixel_in_the_first_row_is_that_pixel() -> None:
    valid = np.zeros((10, 10), bool)
    valid[0, 3] = True
    assert rough_mean(counts((10, 10), 8), valid) == counts((10, 10), 8)[0, 3]


def test_the_rough_mean_where_nothing_is_valid_is_zero() -> None:
    assert rough_mean(counts((40, 40), 9), np.zeros((40, 40), bool)) == 0.0


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
