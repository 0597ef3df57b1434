"""Smoothing and derivatives: polynomials come out exactly, and nothing crosses invalid pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from arrays import frozen
from stillstack.kernels import smoothing
from stillstack.kernels.smoothing import (
    PLAIN_GRADIENT,
    fill_invalid,
    gaussian_kernels,
    separable,
    smoothing_kernels,
    solid,
)

Array = NDArray[np.float64]
WIDTHS = [0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 6.0, 8.0]
widths = pytest.mark.parametrize("sigma", WIDTHS)


@pytest.fixture(params=["compiled", "python"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops as numba compiles them, and as Python runs them."""
    if request.param == "python":
        monkeypatch.setattr(smoothing, "_correlate", smoothing._correlate.py_func)


def reach(kernel: Array) -> Array:
    return np.arange(kernel.size, dtype=float) - kernel.size // 2


def rough(shape: tuple[int, int], seed: int = 0) -> Array:
    return frozen(np.random.default_rng(seed).normal(size=shape))


def moment(kernel: Array, order: int) -> float:
    """What the kernel makes of x^order at the origin."""
    return float(kernel @ reach(kernel) ** order)


# ------------------------------------------------------------------ kernels


@widths
@pytest.mark.parametrize("derivative", [0, 1, 2, 3])
def test_a_derivative_of_its_own_power_comes_out_exactly(sigma: float, derivative: int) -> None:
    factorial = (1.0, 1.0, 2.0, 6.0)[derivative]
    for kernels in (gaussian_kernels(sigma), smoothing_kernels(sigma)):
        assert moment(kernels[derivative], derivative) == pytest.approx(factorial, rel=1e-9)


@widths
@pytest.mark.parametrize("derivative", [0, 1, 2, 3])
def test_a_derivative_of_a_lower_power_is_nothing(sigma: float, derivative: int) -> None:
    for kernels in (gaussian_kernels(sigma), smoothing_kernels(sigma)):
        for order in range(derivative):
            assert moment(kernels[derivative], order) == pytest.approx(0.0, abs=1e-9)


@widths
def test_value_and_slope_of_a_cubic_come_out_exactly(sigma: float) -> None:
    value, slope, _, _ = smoothing_kernels(sigma)
    cubic = np.polynomial.Polynomial([3.0, -2.0, 0.7, 0.13])
    assert cubic(reach(value)) @ value == pytest.approx(cubic(0.0), rel=1e-9)
    assert cubic(reach(slope)) @ slope == pytest.approx(cubic.deriv()(0.0), rel=1e-9)


@widths
def test_a_plain_gaussian_flattens_a_parabola_and_the_sharper_one_does_not(sigma: float) -> None:
    plain, sharp = gaussian_kernels(sigma)[0], smoothing_kernels(sigma)[0]
    assert moment(plain, 2) == pytest.approx(sigma**2, rel=0.2)
    assert moment(sharp, 2) == pytest.approx(0.0, abs=1e-9)


@widths
def test_kernels_are_even_or_odd_and_of_odd_length(sigma: float) -> None:
    for kernels in (gaussian_kernels(sigma), smoothing_kernels(sigma)):
        for derivative, kernel in enumerate(kernels):
            assert kernel.size % 2 == 1
            np.testing.assert_allclose(kernel[::-1], (-1) ** derivative * kernel, atol=1e-12)


@pytest.mark.parametrize("order", range(7))
def test_the_plain_gradient_is_exact_up_to_the_sixth_power(order: int) -> None:
    assert moment(PLAIN_GRADIENT, order) == pytest.approx(1.0 if order == 1 else 0.0, abs=1e-12)


def test_the_plain_gradient_is_good_to_a_hundredth_up_to_a_third_of_the_nyquist_frequency() -> None:
    frequency = np.pi * np.linspace(0.01, 1 / 3, 60)
    seen = np.sin(np.outer(frequency, reach(PLAIN_GRADIENT))) @ PLAIN_GRADIENT
    np.testing.assert_allclose(seen / frequency, 1.0, atol=0.01)


# ------------------------------------------------------------------ images


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("shape", [(9, 14), (30, 5), (1, 8), (6, 1)])
@pytest.mark.parametrize("sizes", [(1, 7), (5, 3), (7, 1), (9, 9)])
def test_two_kernels_correlate_as_in_scipy(shape: tuple[int, int], sizes: tuple[int, int]) -> None:
    image = rough(shape)
    kernels = [frozen(np.random.default_rng(n).normal(size=n)) for n in sizes]
    expected = image
    for axis, kernel in enumerate(kernels):
        expected = ndimage.correlate1d(expected, kernel, axis=axis, mode="nearest")
    np.testing.assert_allclose(separable(image, kernels[0], kernels[1]), expected, atol=1e-12)


def test_the_order_in_memory_does_not_matter() -> None:
    image, kernel = rough((12, 17)), gaussian_kernels(1.0)[0]
    np.testing.assert_allclose(
        separable(np.asfortranarray(image), kernel, kernel), separable(image, kernel, kernel)
    )


@pytest.mark.parametrize("sigma", [0.7, 1.5, 3.0])
def test_a_cubic_surface_keeps_its_height_and_its_slopes(sigma: float) -> None:
    y, x = np.mgrid[-40.0:41.0, -40.0:41.0] / 40.0
    surface = 5.0 + y - 2.0 * x + 0.5 * y**2 * x - y**3 + 0.2 * x**3 + y * x
    value, slope, _, _ = smoothing_kernels(sigma)
    inner = (slice(value.size, -value.size),) * 2
    smooth = separable(surface, value, value)
    np.testing.assert_allclose(smooth[inner], surface[inner], atol=1e-9)
    np.testing.assert_allclose(
        separable(surface, slope, value)[inner],
        ((1.0 + y * x - 3.0 * y**2 + x) / 40.0)[inner],
        atol=1e-9,
    )
    np.testing.assert_allclose(
        separable(surface, value, slope)[inner],
        ((-2.0 + 0.5 * y**2 + 0.6 * x**2 + y) / 40.0)[inner],
        atol=1e-9,
    )


# ------------------------------------------------------------------ invalid pixels


def holes(shape: tuple[int, int], seed: int) -> NDArray[np.bool_]:
    valid = np.random.default_rng(seed).random(shape) > 0.1
    valid[shape[0] // 3 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = False
    return frozen(valid)


@given(seed=st.integers(0, 10_000), value=st.sampled_from([np.nan, np.inf, 1e30, -5.0]))
@settings(max_examples=20, deadline=None)
def test_values_of_invalid_pixels_fill_nothing(seed: int, value: float) -> None:
    image, valid = rough((30, 26), seed), holes((30, 26), seed)
    plain = fill_invalid(image, valid)
    np.testing.assert_array_equal(fill_invalid(np.where(valid, image, value), valid), plain)
    np.testing.assert_array_equal(plain[valid], image[valid])
    assert np.isfinite(plain).all()


def test_holes_are_filled_from_their_surroundings() -> None:
    """A hole of 60 px in a gentle slope: its ends follow the slope, not the mean of the image."""
    y, x = np.mgrid[:120, :160]
    image, valid = 100.0 + 0.5 * y - 0.2 * x, np.ones((120, 160), bool)
    valid[30:90, 50:110] = False
    filled = fill_invalid(image, valid)
    assert np.abs(filled - image).max() < 11.0
    assert filled[31:35, 60:100].mean() < filled[85:89, 60:100].mean() - 20.0


def test_a_hole_far_away_changes_nothing_in_how_another_is_filled() -> None:
    image, valid = rough((150, 160)), np.ones((150, 160), bool)
    valid[40:60, 30:70] = False
    alone = fill_invalid(image, valid)
    valid[149, 159] = valid[0, 0] = False
    np.testing.assert_array_equal(fill_invalid(image, valid)[35:65, 25:75], alone[35:65, 25:75])


def test_what_lies_too_far_from_any_valid_pixel_gets_their_mean() -> None:
    valid = np.zeros((400, 400), bool)
    valid[:4] = True
    image = np.arange(160_000.0).reshape(400, 400)
    filled = fill_invalid(image, valid)
    np.testing.assert_allclose(filled[300:], image[valid].mean())


def test_an_image_of_valid_pixels_alone_is_left_as_it_is() -> None:
    image = rough((8, 9))
    np.testing.assert_array_equal(fill_invalid(image, np.ones((8, 9), bool)), image)


def test_an_image_without_a_valid_pixel_becomes_zero() -> None:
    np.testing.assert_array_equal(fill_invalid(rough((8, 9)), np.zeros((8, 9), bool)), 0.0)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_solid_pixels_lie_inside_what_is_valid(sigma: float) -> None:
    valid = np.ones((60, 70), bool)
    valid[25:35, 30:50] = False
    found = solid(frozen(valid), sigma, 0.999)
    far = ndimage.distance_transform_edt(np.pad(valid, 1))[1:-1, 1:-1]
    assert not found[far <= 2.0 * sigma].any()
    assert found[far > 4.5 * sigma].all()


def test_one_invalid_pixel_spoils_its_neighbours_only_where_all_must_be_valid() -> None:
    valid = np.ones((40, 40), bool)
    valid[20, 20] = False
    lenient, strict = solid(valid, 2.0, 0.9), solid(valid, 2.0, 0.9999)
    assert lenient[20, 21]
    assert not strict[20, 21]
    assert not lenient[20, 20]
