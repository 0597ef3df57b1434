"""Bins of a raw frame that respect valid pixels, held to plain numpy, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from arrays import TYPES, Valid, counts, flags, frozen, tiles
from stillstack.kernels import binning, columns
from stillstack.kernels.binning import Bins, bin_frame
from stillstack.kernels.columns import lost_bins, static_bins, usable_bins

COMPILED = [
    (module, name)
    for module in (binning, columns)
    for name in vars(module)
    if hasattr(getattr(module, name), "py_func")
]


@pytest.fixture(params=["compiled", "python"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The loops as numba compiles them, and as Python runs them."""
    if request.param == "python":
        for module, name in COMPILED:
            monkeypatch.setattr(module, name, getattr(module, name).py_func)
    # Sums that do not fit are meant, and made again: numpy warns, machine code does not.
    with np.errstate(over="ignore"):
        yield str(request.param)


def everywhere(shape: tuple[int, int]) -> Valid:
    return frozen(np.ones(shape, bool))


def filled_by_hand(
    frame: NDArray[Any], valid: Valid, factor: int
) -> tuple[NDArray[np.float64], Valid]:
    """The frame with lone pixels filled in, and the pixels that then count: pixel by pixel."""
    filled, good = np.where(valid, frame, 0).astype(np.float64), valid.copy()
    whole = frame.dtype.kind in "iu"
    for y, x in zip(*np.nonzero(~valid), strict=True):
        inside = 0 < x < frame.shape[1] - 1
        if factor > 1 and inside and valid[y, x - 1] and valid[y, x + 1]:
            pair = [float(frame[y, x - 1]), float(frame[y, x + 1])]
            filled[y, x] = sum(v // 2 for v in pair) if whole else sum(pair) / 2
            good[y, x] = True
    return filled, good


def bins_by_hand(
    frame: NDArray[Any], valid: Valid, factor: int, pedestal: float
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    filled, good = filled_by_hand(frame, valid, factor)
    usable = tiles(good, factor).all(axis=-1)
    return np.where(usable, tiles(filled, factor).mean(axis=-1) - pedestal, 0.0), usable.astype(
        "u1"
    )


def are_the_same(one: Bins, other: Bins) -> bool:
    """Bit by bit, as far as registration looks."""
    return (
        one.mean.tobytes() == other.mean.tobytes()
        and np.array_equal(one.usable, other.usable)
        and (one.highest is None) == (other.highest is None)
        and (one.highest is None or bool(np.all(one.highest == other.highest)))
    )


# ------------------------------------------------------------------ what a bin holds


@pytest.mark.parametrize("shape", [(12, 16), (13, 11), (3, 5), (8, 1), (16, 140)])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_bins_hold_the_mean_of_their_pixels(
    either_way: str, shape: tuple[int, int], factor: int, dtype: str
) -> None:
    frame, valid = counts(shape, 0, dtype), flags(shape, 0, 0.9)
    found = bin_frame(frame, static_bins(valid, factor), None, 5.0)
    expected, counted = bins_by_hand(frame, valid, factor, 5.0)
    assert found.mean.dtype == np.float32
    np.testing.assert_array_equal(found.usable, counted)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 40), (13, 11)])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("dtype", TYPES)
def test_it_does_not_matter_who_says_that_a_pixel_is_invalid(
    either_way: str, shape: tuple[int, int], factor: int, dtype: str
) -> None:
    """All frames or this one, or each a part: the bins are the same bits."""
    frame, static, own = counts(shape, 1, dtype), flags(shape, 1, 0.97), flags(shape, 2, 0.97)
    both = frozen(static & own)
    expected, counted = bins_by_hand(frame, both, factor, 7.0)
    one = bin_frame(frame, static_bins(both, factor), None, 7.0)
    np.testing.assert_array_equal(one.usable, counted)
    np.testing.assert_allclose(one.mean, expected, rtol=1e-6, atol=1e-5)
    for always, mine in ((static, own), (own, static), (everywhere(shape), both), (both, both)):
        found = bin_frame(frame, static_bins(always, factor), mine, 7.0)
        assert are_the_same(found, one)
        before = usable_bins(always, factor)
        np.testing.assert_array_equal(found.lost, np.flatnonzero(before & ~counted & 1))
    white = frozen((255 * own.view("u1")).view(bool))
    assert are_the_same(bin_frame(frame, static_bins(static, factor), white, 7.0), one)


@pytest.mark.parametrize("shape", [(13, 12), (9, 11), (16, 132)])
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_frame_without_gaps_is_binned_the_same_either_way(
    either_way: str, shape: tuple[int, int], factor: int, dtype: str
) -> None:
    frame, static = counts(shape, 1, dtype), static_bins(everywhere(shape), factor)
    assert static.usable.all()
    plain = bin_frame(frame, static, None, 3.0)
    said = bin_frame(frame, static, everywhere(shape), 3.0)
    assert are_the_same(plain, said)
    assert said.usable is static.usable
    assert not said.lost.size
    np.testing.assert_allclose(
        plain.mean, tiles(frame, factor).astype(float).mean(axis=-1) - 3.0, rtol=1e-6, atol=1e-5
    )


@given(seed=st.integers(0, 10_000), factor=st.sampled_from([1, 2, 4]), share=st.floats(0.5, 1.0))
@settings(max_examples=40, deadline=None)
def test_a_lone_pixel_is_filled_in_and_two_beside_each_other_are_not(
    seed: int, factor: int, share: float
) -> None:
    frame, valid = counts((16, 24), seed), flags((16, 24), seed, share)
    found = bin_frame(frame, static_bins(everywhere(frame.shape), factor), valid, 10.0)
    expected, counted = bins_by_hand(frame, valid, factor, 10.0)
    np.testing.assert_array_equal(found.usable, counted)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-6, atol=1e-5)


def test_nothing_is_filled_in_at_the_edges_of_a_row() -> None:
    valid = np.ones((4, 8), bool)
    valid[1, 0] = valid[2, 5] = False
    np.testing.assert_array_equal(usable_bins(valid, 4), [[0, 1]])
    np.testing.assert_array_equal(usable_bins(valid, 1), valid)


def test_rows_of_bins_without_a_gap_of_their_own_keep_those_of_all_frames(either_way: str) -> None:
    """A lone pixel is out in all frames, two bins further down one in this frame alone."""
    frame, static, own = counts((16, 16), 5), np.ones((16, 16), bool), np.ones((16, 16), bool)
    static[1, 5], own[9, 6], own[14, 2:4] = False, False, False
    for factor in (2, 4):
        found = bin_frame(frame, static_bins(static, factor), own, 1.0)
        expected, counted = bins_by_hand(frame, static & own, factor, 1.0)
        np.testing.assert_array_equal(found.usable, counted)
        np.testing.assert_allclose(found.mean, expected, atol=1e-5)


# ------------------------------------------------------------------ values


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(13, 14), (12, 136)])
def test_values_of_invalid_pixels_change_no_bit(
    dtype: str, factor: int, shape: tuple[int, int]
) -> None:
    frame = counts(shape, 3, dtype)
    static, own = flags(shape, 3, 0.95), flags(shape, 4, 0.95)
    whole = frame.dtype.kind in "iu"
    for value in (0, np.iinfo(dtype).max) if whole else (np.nan, np.inf, -np.inf, 1e30):
        broken = frozen(np.where(static & own, frame, np.array(value, dtype)))
        for always, mine in ((static, own), (everywhere(shape), static & own)):
            prepared = static_bins(always, factor)
            one = bin_frame(frame, prepared, mine, 2.0)
            other = bin_frame(broken, prepared, mine, 2.0)
            assert one.mean.tobytes() == other.mean.tobytes()
            np.testing.assert_array_equal(one.usable, other.usable)
        prepared = static_bins(static & own, factor)
        one, other = (bin_frame(f, prepared, None, 2.0) for f in (frame, broken))
        assert one.mean.tobytes() == other.mean.tobytes()


@pytest.mark.parametrize(
    ("dtype", "pedestal"), [("float64", 1e9), ("uint32", 1e9), ("uint16", 6e4)]
)
def test_a_pedestal_does_not_cost_precision(dtype: str, pedestal: float) -> None:
    """Single precision holds seven digits: a pedestal of 1e9 is taken off before."""
    frame, static = counts((16, 16), 3), static_bins(everywhere((16, 16)), 4)
    raised = (frame.astype(np.float64) + pedestal).astype(dtype)
    exact = tiles(frame, 4).mean(axis=-1)
    for own in (None, everywhere(frame.shape)):
        found = bin_frame(raised, static, own, pedestal)
        np.testing.assert_allclose(found.mean, exact, atol=1e-4)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("share", [1.0, 0.97])
@pytest.mark.parametrize("top", [16_383, 16_384, 32_767, 32_768, 65_535])
def test_sums_of_large_integers_do_not_overflow(
    either_way: str, factor: int, share: float, top: int
) -> None:
    """Bright rows of bins beside dark ones: each is summed as it needs."""
    frame = np.full((24, 72), top, np.uint16)
    frame[8:16] = 5
    valid = flags(frame.shape, 6, share)
    found = bin_frame(frozen(frame), static_bins(everywhere(frame.shape), factor), valid, 0.0)
    expected, counted = bins_by_hand(frame, valid, factor, 0.0)
    np.testing.assert_array_equal(found.usable, counted)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-6)


@given(seed=st.integers(0, 10_000), factor=st.sampled_from([2, 4]), top=st.integers(0, 65_535))
@settings(max_examples=30, deadline=None)
def test_no_valid_pixel_is_above_the_bound_that_comes_with_the_bins(
    seed: int, factor: int, top: int
) -> None:
    frame = np.random.default_rng(seed).integers(0, top + 1, (8, 16)).astype(np.uint16)
    shape = frame.shape
    for own in (None, everywhere(shape), flags(shape, seed, 0.9)):
        found = bin_frame(frame, static_bins(everywhere(shape), factor), own, 0.0)
        seen = np.where(True if own is None else own, frame, 0)
        highest = seen.reshape(8 // factor, -1).max(axis=1).astype(np.int64)
        assert found.highest is not None
        assert np.all(highest <= found.highest)
        if own is None or own.all():
            assert np.all(found.highest < 2 * np.maximum(highest, 1))


# ------------------------------------------------------------------ lost bins


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 8), (64, 65)])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.0])
def test_lost_bins_are_those_that_count_elsewhere(
    either_way: str, shape: tuple[int, int], share: float
) -> None:
    static, usable = flags(shape, 8, 0.8).view("u1"), flags(shape, 9, share).view("u1")
    expected = np.flatnonzero((static == 1) & (usable == 0))
    np.testing.assert_array_equal(lost_bins(static, usable), expected)
