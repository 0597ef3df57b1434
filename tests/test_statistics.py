"""Sums per pixel: the same as NumPy's on all values at once, however they are split and merged."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from arrays import frozen
from stillstack.kernels import pixel_sums, statistics
from stillstack.kernels.statistics import (
    Moments,
    add_images,
    merge_moments,
    shared_sums,
    without_outside,
)

SHAPE = (5, 7)
# A mean of n values is off by no more than n roundings; a variance by that many of the mean's
# square over it, which two passes about the mean of a block avoid.
RELATIVE = 1e-12


def images(seed: int, n_images: int = 6, level: float = 60.0, dtype: str = "float32") -> Any:
    """Return noisy images with a third of their pixels absent, and some absent from all."""
    rng = np.random.default_rng(seed)
    values = rng.normal(level, 5.0, (n_images, *SHAPE)).astype(dtype)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:, 0, :2] = np.nan
    if n_images:
        values[1:, 1, :2] = np.nan
    return frozen(values)


def expected(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Number, mean and variance of each pixel by NumPy, in extended precision."""
    n = np.isfinite(values).sum(axis=0)
    whole = np.where(np.isfinite(values), values, 0).astype(np.longdouble)
    mean = np.where(n > 0, whole.sum(axis=0) / np.maximum(n, 1), np.nan)
    square = np.where(np.isfinite(values), (values.astype(np.longdouble) - mean) ** 2, 0)
    variance = np.where(n > 1, square.sum(axis=0) / np.maximum(n - 1, 1), np.nan)
    return n, mean.astype(float), variance.astype(float)


def agrees(found: Moments, values: NDArray[Any]) -> None:
    n, mean, variance = expected(values)
    np.testing.assert_array_equal(found.coverage, n)
    np.testing.assert_allclose(found.covered_mean, mean, rtol=RELATIVE)
    # what is left of rounding, where all values are equal
    np.testing.assert_allclose(found.variance, variance, rtol=1e-9, atol=1e-20 * 60**2)
    error = np.sqrt(variance / np.maximum(n, 1))
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-9, atol=1e-9)


def summed(values: NDArray[Any], parts: Sequence[int]) -> Moments:
    """Moments of consecutive parts of these lengths, each added to the ones before."""
    found, first = Moments.empty(SHAPE), 0
    for length in parts:
        found = add_images(found, values[first : first + length])
        first += length
    return found


def copies(moments: Moments) -> list[Any]:
    return [array.copy() for array in (moments.n, moments.mean, moments.m2)]


def test_sums_of_a_block_are_those_of_numpy() -> None:
    values = images(1)
    agrees(add_images(Moments.empty(SHAPE), values), values)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(sum),
    seed=st.integers(0, 999),
    level=st.sampled_from([0.0, 60.0, 1e6]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_any_split_gives_the_same(parts: list[int], seed: int, level: float, dtype: str) -> None:
    values = images(seed, sum(parts), level, dtype)
    agrees(summed(values, parts), values)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=7).filter(sum),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_parts_merge_in_any_order_and_in_any_tree(
    lengths: list[int], seed: int, data: st.DataObject
) -> None:
    values = images(seed, sum(lengths))
    edges = np.cumsum([0, *lengths])
    parts = [add_images(Moments.empty(SHAPE), values[a:b]) for a, b in itertools.pairwise(edges)]
    while len(parts) > 1:
        one = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        other = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(merge_moments(one, other))
    agrees(parts[0], values)


def test_a_small_variance_on_a_large_mean_keeps_its_digits() -> None:
    rng = np.random.default_rng(3)
    values = 1e9 + rng.normal(0, 1e-3, (40, *SHAPE))
    found = summed(values, [7] * 5 + [5])
    # the mean is stored to 1e-7, a ten-thousandth of the deviations; a sum of squares less the
    # square of the sum has no digit left, for 1e18 is stored to a hundred
    np.testing.assert_allclose(found.variance, values.var(axis=0, ddof=1), rtol=1e-3)


@pytest.mark.parametrize("n_images", [1, 2, 17])
@pytest.mark.parametrize("width", [1, 2047, 2048, 2049, 5000])
def test_pixels_do_not_know_their_neighbours(width: int, n_images: int) -> None:
    values = np.random.default_rng(width).normal(5, 1, (n_images, 1, width))
    found = add_images(Moments.empty((1, width)), values)
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.m2, ((values - values.mean(axis=0)) ** 2).sum(0), atol=1e-12)


def test_images_are_scaled_in_double_precision() -> None:
    values, scale = images(5), np.array([1.0, 0.5, 2.0, 1 / 3, 1.1, 7.0])
    found = add_images(Moments.empty(SHAPE), values, scale)
    agrees(found, values.astype(np.float64) * scale[:, None, None])


def test_what_is_stored_merges_again() -> None:
    values = images(7, 9)
    parts = [add_images(Moments.empty(SHAPE), part) for part in (values[:1], values[1:5])]
    again = [Moments.of_summary(p.coverage, p.covered_mean, p.variance) for p in parts]
    agrees(merge_moments(*again), values[:5])


def test_arguments_are_left_as_they_are_unless_they_are_written_to() -> None:
    values = images(8)
    before = summed(values, [3])
    held = Moments(*(frozen(a) for a in copies(before)))
    agrees(add_images(held, values[3:]), values)
    other = add_images(Moments.empty(SHAPE), values[3:])
    agrees(merge_moments(held, other), values)
    into = Moments(*copies(held))
    assert add_images(into, values[3:], out=into) is into
    agrees(into, values)
    assert merge_moments(held, other, out=other) is other
    agrees(other, values)


def test_nothing_added_changes_nothing() -> None:
    values = images(9)
    found = add_images(Moments.empty(SHAPE), values)
    same = merge_moments(found, Moments.empty(SHAPE))
    also = merge_moments(Moments.empty(SHAPE), found)
    for name in ("n", "mean", "m2"):
        np.testing.assert_array_equal(getattr(same, name), getattr(found, name))
        np.testing.assert_array_equal(getattr(also, name), getattr(found, name))


def test_values_outside_the_limits_are_taken_out_once_scaled() -> None:
    values, scale = images(10), np.linspace(0.5, 2, 6)
    lower, upper = np.full(SHAPE, 40.0), np.full(SHAPE, 90.0)
    upper[2, 2] = np.nan
    found = without_outside(values, lower, upper, scale)
    scaled = values.astype(np.float64) * scale[:, None, None]
    kept = (scaled >= 40) & (scaled <= 90)
    kept[:, 2, 2] = False
    np.testing.assert_array_equal(found, np.where(kept, values, np.nan))
    assert 0 < kept.sum() < np.isfinite(values).sum()


def test_shared_sums_leave_out_what_either_lacks() -> None:
    rng = np.random.default_rng(11)
    one, other = rng.random(SHAPE).astype("f4"), rng.random(SHAPE).astype("f4")
    one[0, 0], other[1, 1] = np.nan, np.nan
    area = rng.random(SHAPE) < 0.7
    area[0, 0] = area[1, 1] = area[2, 2] = True
    both = area & np.isfinite(one) & np.isfinite(other)
    found = shared_sums(frozen(one), frozen(other), frozen(area))
    assert found == pytest.approx((one[both].sum(dtype=float), other[both].sum(dtype=float)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"images": np.zeros((2, 5, 8))},
        {"images": np.zeros(SHAPE)},
        {"images": np.zeros((2, *SHAPE)), "scale": np.ones(3)},
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"images|scale"):
        add_images(Moments.empty(SHAPE), **arguments)


def test_moments_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(5, 7\) and of \(7, 5\)"):
        merge_moments(Moments.empty(SHAPE), Moments.empty(SHAPE[::-1]))


def test_compiled_and_python_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    values, scale = images(12), np.linspace(0.5, 2, 6)
    limits = np.full(SHAPE, 40.0), np.full(SHAPE, 90.0)

    def everything() -> list[NDArray[Any]]:
        one = add_images(Moments.empty(SHAPE), values, scale)
        both = merge_moments(one, add_images(Moments.empty(SHAPE), values[:2]))
        cut = without_outside(values, *limits, scale)
        sums = shared_sums(values[0], values[1], np.ones(SHAPE, bool))
        return [both.n, both.mean, both.m2, cut, np.array(sums)]

    compiled = everything()
    loops = {name: f.py_func for name, f in vars(pixel_sums).items() if hasattr(f, "py_func")}
    assert len(loops) == 9
    for name, loop in loops.items():
        monkeypatch.setattr(pixel_sums, name, loop)
        monkeypatch.setattr(statistics, name, loop, raising=False)
    for fast, plain in zip(compiled, everything(), strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-13)
