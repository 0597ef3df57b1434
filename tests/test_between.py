"""Weights between whole pixels, held to signals whose values there are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from stillstack.kernels import prediction
from stillstack.kernels.between import (
    BEYOND_PX,
    IMAGE_POINTS,
    POINTS,
    STEPS_PER_PX,
    Between,
    between_wide,
    lagrange,
    places_around,
)
from stillstack.kernels.registration import Reference, prepare_reference, register_frame
from stillstack.simulation import Scene, crystal_scene, powder_scene, textured_scene

Array = NDArray[np.float64]
SHAPE = (160, 144)


def between_of(scene: Scene, n_frames: float = 1e6, seed: int = 0) -> Between:
    return weights_of(reference_of(scene, n_frames, seed))


def reference_of(scene: Scene, n_frames: float = 1e6, seed: int = 0) -> Reference:
    image = scene.expected()
    if n_frames < 1e6:
        image = np.random.default_rng(seed).poisson(image * n_frames) / n_frames
    return prepare_reference(image, max_shift_px=8, n_frames=n_frames)


def weights_of(reference: Reference) -> Between:
    assert reference.between is not None
    return reference.between


def sharp_rings(sigma: float) -> Scene:
    return powder_scene(SHAPE, dose=200.0, ring_width_px=sigma, seed=3)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_weights_keep_a_constant_and_a_straight_line(sigma: float) -> None:
    found = between_of(sharp_rings(sigma))
    for t in (-0.25, 0.0, 0.137, 0.5, 1.0, 1.25):
        for axis in (0, 1):
            for taps, points in (
                (found.taps(axis, t), POINTS),
                (found.image_taps(axis, t), IMAGE_POINTS),
            ):
                assert taps.sum() == pytest.approx(1.0, abs=1e-9)
                assert taps @ places_around(points) == pytest.approx(t, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.7, 1.0])
def test_weights_for_the_spectrum_interpolate_it_better_than_those_for_any(sigma: float) -> None:
    """Gaussians as wide as the features, wherever they lie between the pixels."""
    found, places = between_of(sharp_rings(sigma)), places_around(IMAGE_POINTS)
    own = common = 0.0
    for centre in np.arange(-3.0, 4.0, 0.1):
        for t in (0.25, 0.5):
            truth = np.exp(-0.5 * ((t - centre) / sigma) ** 2)
            seen = np.exp(-0.5 * ((places - centre) / sigma) ** 2)
            own += (found.image_taps(1, t) @ seen - truth) ** 2
            common += (lagrange(t, IMAGE_POINTS) @ seen - truth) ** 2
    assert own < 0.7 * common


def test_a_whole_pixel_is_kept_and_the_axes_of_an_even_scene_are_alike() -> None:
    found = between_of(sharp_rings(1.0))
    for table in (found.taps, found.image_taps):
        taps = table(0, 0.0)
        np.testing.assert_allclose(taps, np.eye(taps.size)[taps.size // 2 - 1], atol=2e-3)
        np.testing.assert_allclose(table(0, 0.3), table(1, 0.3), atol=0.02)


def test_weights_for_wide_features_are_those_for_polynomials() -> None:
    wide = between_wide()
    for t in (-0.3, 0.0, 0.25, 0.7):
        np.testing.assert_allclose(wide.taps(1, t), lagrange(t, POINTS), atol=1e-5)
        np.testing.assert_allclose(wide.image_taps(0, t), lagrange(t, IMAGE_POINTS), atol=2e-5)
    assert not wide.doubt.any()
    assert wide.equations.shape[1] == (1 + 2 * BEYOND_PX) * STEPS_PER_PX + 1


# ------------------------------------------------------------------ what is folded


@pytest.mark.parametrize(("sigma", "least", "most"), [(0.5, 2e-3, 0.04), (0.7, 1e-4, 2e-3)])
def test_the_doubt_falls_with_what_lies_above_the_nyquist_frequency(
    sigma: float, least: float, most: float
) -> None:
    found = between_of(sharp_rings(sigma))
    for quarter in (0.25, 0.75):
        doubt = found.doubt_at(np.array([3.0 + quarter, -4.0 + quarter]))
        assert all(least < d < most for d in doubt)
    # On a pixel and half-way between two what is folded moves nothing.
    for half in (0.0, 0.5):
        assert max(found.doubt_at(np.array([half, -half]))) < 0.2 * least


@pytest.mark.parametrize(
    "scene",
    [
        powder_scene(SHAPE, dose=60.0, ring_width_px=1.5, seed=3),
        crystal_scene(SHAPE, dose=60.0, spot_sigma_px=2.0, seed=3),
        textured_scene(SHAPE, dose=60.0, grain_px=3.0, seed=3),
    ],
    ids=["rings", "spots", "texture"],
)
@pytest.mark.parametrize("n_frames", [1, 64])
def test_noise_is_not_taken_for_features_above_the_nyquist_frequency(
    scene: Scene, n_frames: int
) -> None:
    """Of well sampled scenes all that is seen there is noise, however much there is of it."""
    found = between_of(scene, n_frames=n_frames, seed=1)
    assert found.doubt.max() < 5e-4


def test_the_doubt_is_part_of_a_frames_error_bar() -> None:
    scene = sharp_rings(1.0)
    reference = reference_of(scene, 64)
    frame = np.random.default_rng(2).poisson(scene.expected((1.3, -2.4)))
    doubted = replace(
        reference,
        between=replace(
            weights_of(reference), doubt=np.full_like(weights_of(reference).doubt, 3.0)
        ),
    )
    before, after = register_frame(frame, reference), register_frame(frame, doubted)
    np.testing.assert_array_equal(after.shift, before.shift)
    np.testing.assert_allclose(after.shift_std, np.hypot(before.shift_std, 3.0), rtol=1e-2)
    assert abs(after.shift_corr) < abs(before.shift_corr)


# ------------------------------------------------------------------ sums


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("shape", [(40, 33), (9, 60), (60, 9)])
def test_sums_of_products_are_those_over_all_pixels_that_both_have(
    axis: int, compiled: bool, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        for name in ("_lag_sums_along_y", "_lag_sums_along_x"):
            monkeypatch.setattr(prediction, name, getattr(prediction, name).py_func)
    rng = np.random.default_rng(4)
    image, other = rng.normal(size=shape), rng.normal(size=shape)
    for array in (image, other):
        array.flags.writeable = False
    found = prediction._lag_sums(image, other, axis)
    a, b = (image, other) if axis == 0 else (image.T, other.T)
    for lag in (-16, -9, -3, 0, 1, 8, 16):
        expected = 0.0
        for j in range(len(a)):
            if 0 <= j + lag < len(a):
                expected += float(a[j + lag] @ b[j])
        assert found[16 + lag] == pytest.approx(expected, rel=1e-9, abs=1e-9)
