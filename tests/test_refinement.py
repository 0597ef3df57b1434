"""Least squares on a fixed support, held to numpy's, and the reference's levels to the scene."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from arrays import frozen
from stillstack.errors import InputError
from stillstack.kernels import denoising, levels, moments, prediction, refinement
from stillstack.kernels import residuals as residuals_module
from stillstack.kernels.between import lagrange
from stillstack.kernels.columns import lost_bins
from stillstack.kernels.denoising import pedestal_of, pixel_variance, products
from stillstack.kernels.levels import Level, bin_banks, bin_moved, bin_weights, whitened
from stillstack.kernels.moments import (
    N_REGRESSORS,
    LevelView,
    Moments,
    moments_at,
    patch_around,
)
from stillstack.kernels.reference import Settings
from stillstack.kernels.refinement import (
    LinearFit,
    cubic_inverse,
    fit_linear,
    slope_at,
    solve,
)
from stillstack.kernels.registration import prepare_reference
from stillstack.kernels.residuals import MODEL_ERROR, Residuals, residuals
from stillstack.kernels.smoothing import fill_invalid
from stillstack.simulation import (
    Scene,
    beam_block_valid,
    crystal_scene,
    powder_scene,
    textured_scene,
)

Array = NDArray[np.float64]
Valid = NDArray[np.bool_]
DISPLACEMENTS = [(0, 0), (3, -2), (-4, 5), (-1, -7)]


@pytest.fixture(params=["compiled", "python"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops as numba compiles them, and as Python runs them."""
    if request.param == "python":
        for module in (denoising, levels, moments, prediction, refinement, residuals_module):
            for name, value in list(vars(module).items()):
                if hasattr(value, "py_func"):
                    monkeypatch.setattr(module, name, value.py_func)


def moved(image: NDArray[Any], by: tuple[int, int], fill: Any) -> NDArray[Any]:
    """The image moved by whole pixels; what comes in from outside is ``fill``."""
    out = np.full(image.shape, fill, image.dtype)
    n_y, n_x = image.shape
    y0, y1 = max(0, by[0]), min(n_y, n_y + by[0])
    x0, x1 = max(0, by[1]), min(n_x, n_x + by[1])
    if y1 > y0 and x1 > x0:
        out[y0:y1, x0:x1] = image[y0 - by[0] : y1 - by[0], x0 - by[1] : x1 - by[1]]
    return out


def binned(image: NDArray[Any], factor: int) -> Array:
    n_y, n_x = (n // factor for n in image.shape)
    cut = image[: n_y * factor, : n_x * factor].astype(float)
    return np.asarray(cut.reshape(n_y, factor, n_x, factor).mean(axis=(1, 3)))


def bare_level(images: NDArray[Any], factor: int = 1, usable: NDArray[Any] | None = None) -> Level:
    """A level of nothing but regressors."""
    n_y, n_x = images.shape[-2:]
    counts = np.ones((n_y, n_x), np.uint8) if usable is None else usable
    plain = np.zeros((1, 1, 0, 0), np.float32)
    inner = np.ones(images.shape[1:], np.uint8)
    return Level(
        factor, frozen(images), frozen(counts), counts * np.float32(1), np.ones(2), plain, inner
    )


# ------------------------------------------------------------------ banks


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("factor", "banks"), [(1, 1), (2, 2), (3, 3), (4, 1)])
def test_a_bank_is_the_image_moved_and_then_binned(factor: int, banks: int) -> None:
    shape = (24, 36)
    rng = np.random.default_rng(0)
    images = [frozen(rng.normal(size=shape)) for _ in range(2)]
    solid = frozen(rng.random(shape) > 0.05)
    out, whole = bin_banks(images, solid, factor, banks)
    n_y, n_x = shape[0] // factor, shape[1] // factor
    for r in np.ndindex(banks, banks):
        usable = binned(moved(solid, r, False), factor) == 1.0
        np.testing.assert_array_equal(whole[r][:n_y, :n_x], usable)
        for k, image in enumerate(images):
            expected = binned(moved(image, r, np.nan), factor)
            np.testing.assert_allclose(out[k][r][:n_y, :n_x][usable], expected[usable], rtol=1e-5)


def test_the_last_bins_of_a_bank_hold_what_was_moved_beyond_the_frame() -> None:
    """Moved by one, the last pixel of eight falls into a third bin of four: not a whole one."""
    image, solid = np.arange(64.0).reshape(8, 8), np.ones((8, 8), bool)
    out, whole = bin_banks([image], solid, 4, 4)
    assert out.shape == (1, 4, 4, 2, 2)
    assert whole[0, 0].all()
    assert not whole[1, 0, 0].any()
    assert whole[1, 0, 1].all()


@given(u=st.tuples(*[st.integers(-50, 50)] * 2), factor=st.sampled_from([1, 2, 4, 8]))
def test_a_displacement_is_so_many_bins_and_the_bank_of_the_rest(
    u: tuple[int, int], factor: int
) -> None:
    full = bare_level(np.zeros((4, factor, factor, 1, 1), np.float32), factor)
    *bank, q_y, q_x = full.place(u)
    assert all(0 <= r < factor for r in bank)
    assert (q_y * factor + bank[0], q_x * factor + bank[1]) == u
    single = replace(full, images=full.images[:, :1, :1])
    assert single.place((u[0] * factor, u[1] * factor)) == (0, 0, *u)


@pytest.mark.usefixtures("either_way")
def test_an_image_moved_by_whole_pixels_is_binned_there() -> None:
    rng = np.random.default_rng(3)
    image, solid = frozen(rng.normal(size=(16, 20))), frozen(rng.random((16, 20)) > 0.05)
    out, whole = bin_moved(image, solid, 4, (3, 0))
    np.testing.assert_array_equal(whole, binned(moved(solid, (3, 0), False), 4) == 1.0)
    expected = binned(moved(image, (3, 0), np.nan), 4)
    np.testing.assert_allclose(out[whole], expected[whole], rtol=1e-5)


def test_a_bin_weighs_as_much_as_the_mean_of_its_pixels_is_certain() -> None:
    variance = np.array([[4.0, 8.0], [2.0, 0.0]], np.float32)
    whole = np.array([[True, True], [False, False]])
    np.testing.assert_allclose(bin_weights(variance, whole, 2), [[1.0, 0.5], [0.0, 0.0]])


# ------------------------------------------------------------------ between whole pixels


@pytest.mark.parametrize("points", [2, 4, 6])
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9])
def test_so_many_points_interpolate_a_polynomial_of_one_degree_less(points: int, t: float) -> None:
    polynomial = np.polynomial.Polynomial([1.0, -2.0, 0.5, 0.3, -0.1, 0.02][:points])
    places = np.arange(1.0 - points // 2, 1.0 + points // 2)
    taps = lagrange(t, points)
    assert taps.sum() == pytest.approx(1.0)
    assert taps @ polynomial(places) == pytest.approx(polynomial(t), rel=1e-12)


def prepared(grain_px: float = 4.0) -> tuple[Scene, Any]:
    """A scene, and a noise-free reference that has to be interpolated between whole pixels."""
    scene = textured_scene((96, 88), dose=1e4, grain_px=grain_px, seed=3)
    reference = prepare_reference(scene.expected(), max_shift_px=8, n_frames=1e6)
    assert reference.between is not None
    return scene, reference


def view_of(scene: Scene, reference: Any, shift: tuple[float, float]) -> LevelView:
    level = reference.levels[-1]
    mean = binned(scene.expected(shift) - reference.offset, level.factor).astype(np.float32)
    return LevelView(frozen(mean), level.usable, np.empty(0, np.int64))


def test_a_patch_at_a_whole_pixel_is_what_is_made_there() -> None:
    scene, reference = prepared()
    level, view = reference.levels[-1], view_of(scene, reference, (-2.0, 1.0))
    patch = patch_around(level, (2, -1), reference.between, view)
    for u in ((2, -1), (3, 0), (2, 0)):
        between, made = patch.at(np.array(u, float)), moments_at(level, u, patch.seen)
        normal = by_design(level, u, patch.seen)
        scale = np.abs(normal).max()
        np.testing.assert_allclose(between.normal, normal, rtol=1e-4, atol=1e-6 * scale)
        np.testing.assert_allclose(between.right, made.right, rtol=1e-5, atol=1e-6 * scale)
        assert between.squares == pytest.approx(made.squares, rel=1e-6)
    again = patch_around(level, (2, -1), reference.between, view)
    np.testing.assert_array_equal(again.normal, patch.normal)


@pytest.mark.parametrize("grain_px", [4.0, 1.5])
def test_the_step_vanishes_where_the_scene_has_moved(grain_px: float) -> None:
    scene, reference = prepared(grain_px)
    u = np.array([1.4, -2.3])
    level, view = reference.levels[-1], view_of(scene, reference, (-1.4, 2.3))
    patch = patch_around(level, (1, -3), reference.between, view)
    fit = solve(patch.at(u), (1, -3))
    assert fit is not None
    np.testing.assert_allclose(fit.step, 0.0, atol=5e-3)
    slope = slope_at(patch, u)
    assert slope is not None
    np.testing.assert_allclose(slope, np.eye(2), atol=0.15)


def test_a_patch_without_some_bins_is_made_of_the_others() -> None:
    scene, reference = prepared()
    level, view = reference.levels[-1], view_of(scene, reference, (0.3, 0.4))
    usable = level.usable & (np.random.default_rng(1).random(level.usable.shape) > 0.1)
    less = LevelView(view.mean * usable, usable, lost_bins(level.usable, usable))
    patch = patch_around(level, (-1, -1), reference.between, less)
    normal = by_design(level, (-1, -1), patch.seen)
    found = patch.at(np.array([-1.0, -1.0]))
    np.testing.assert_allclose(found.normal, normal, rtol=1e-4, atol=1e-6 * np.abs(normal).max())
    assert found.n_bins == np.count_nonzero(patch.seen.usable)


@pytest.mark.usefixtures("either_way")
def test_a_moved_reference_leaves_less_than_a_tilted_one() -> None:
    scene, reference = prepared()
    level, view = reference.levels[-1], view_of(scene, reference, (-0.4, 0.3))
    patch = patch_around(level, (0, -1), reference.between, view)
    fit = solve(patch.at(np.array([0.4, -0.3])), (0, -1))
    assert fit is not None
    theta = fit.theta.copy()
    theta[4:6] = -theta[0] * np.array([0.4, -0.3])
    fit = replace(fit, displacement=(0, 0), theta=theta)
    curved = residuals(level, fit, patch.seen, between=reference.between)
    linear = residuals(level, fit, patch.seen)
    # Without noise a residual may be exactly nothing, which counts as no bin.
    assert abs(curved.n_bins - linear.n_bins) <= 2
    assert curved.weighted < 0.1 * linear.weighted


# ------------------------------------------------------------------ the linear model


def problem(
    displacement: tuple[int, int], seed: int = 0, shape: tuple[int, int] = (22, 26)
) -> tuple[LevelView, Level]:
    """A frame of noise, some of whose bins do not count, and a level of random regressors."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(3, 1, 1, *shape)).astype(np.float32) * 5.0
    weight = rng.uniform(0.5, 2.0, (1, 1, *shape)) * (rng.random((1, 1, *shape)) > 0.15)
    static = (rng.random(shape) > 0.05).astype(np.uint8)
    level = bare_level(whitened(images, weight.astype(np.float32)), 1, static)
    frame = 3.0 * moved(images[0, 0, 0], displacement, 0.0) + rng.normal(size=shape) + 2.0
    usable = static & (rng.random(shape) > 0.1)
    return view(frame, usable, level), level


def view(frame: NDArray[Any], usable: NDArray[Any], level: Level) -> LevelView:
    mean = np.where(usable, frame, 0.0).astype(np.float32)
    flags = usable.astype(np.uint8)
    return LevelView(frozen(mean), frozen(flags), lost_bins(level.usable, flags))


def by_hand(
    level: Level, displacement: tuple[int, int], seen: LevelView
) -> tuple[Array, Array, Valid]:
    """Weighted regressors (bins, 6), roots of weights, and the support they are taken on."""
    b_y, b_x, q_y, q_x = level.place(displacement)
    n_y, n_x = seen.mean.shape
    bank = [level.images[k, b_y, b_x].astype(float) for k in range(4)]
    wide = [np.pad(a, ((0, max(0, n_y - a.shape[0])), (0, max(0, n_x - a.shape[1])))) for a in bank]
    root, image, grad_y, grad_x = (moved(a, (q_y, q_x), 0.0)[:n_y, :n_x] for a in wide)
    y, x = np.mgrid[:n_y, :n_x] + 0.5
    parts = [image, root, root * (y / n_y - 0.5), root * (x / n_x - 0.5), grad_y, grad_x]
    support = (root > 0.0) & (seen.usable > 0)
    return np.stack(parts)[:, support].T, root[support], support


def by_design(level: Level, displacement: tuple[int, int], seen: LevelView) -> Array:
    design, _, _ = by_hand(level, displacement, seen)
    return np.asarray(design.T @ design)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("displacement", DISPLACEMENTS)
def test_the_fit_is_that_of_numpy(displacement: tuple[int, int]) -> None:
    seen, level = problem(displacement)
    fit = fit_linear(level, displacement, seen)
    design, root, support = by_hand(level, displacement, seen)
    values = seen.mean[support] * root
    theta, *_ = np.linalg.lstsq(design, values, rcond=None)
    assert fit is not None
    assert fit.displacement == displacement
    assert fit.moments.n_bins == np.count_nonzero(support)
    np.testing.assert_allclose(fit.theta, theta, rtol=1e-4, atol=1e-4)
    inverse = np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(fit.inverse, inverse, rtol=1e-3, atol=1e-5 * np.abs(inverse).max())
    np.testing.assert_allclose(fit.step, -theta[4:6] / theta[0], rtol=1e-3, atol=1e-4)
    ncc, null = fit.agreement()
    background, *_ = np.linalg.lstsq(design[:, 1:4], values, rcond=None)
    rest = values - design[:, 1:4] @ background
    assert null == pytest.approx(float(rest @ rest), rel=1e-4)
    moving = (design[:, 0] + design[:, 4:6] @ theta[4:6] / theta[0]) / root
    w = root**2 / (root**2).sum()
    a, b = (v - w @ v for v in (seen.mean[support], moving))
    assert ncc == pytest.approx((w @ (a * b)) / np.sqrt((w @ a**2) * (w @ b**2)), rel=1e-3)


def test_a_second_frame_finds_the_normal_matrix_made() -> None:
    seen, level = problem((0, 0))
    first = moments_at(level, (0, 0), seen)
    assert list(level.normals) == [(0, 0)]
    second = moments_at(level, (0, 0), replace(seen, mean=seen.mean * 2))
    np.testing.assert_array_equal(first.normal, second.normal)
    np.testing.assert_allclose(second.right, 2 * first.right, rtol=1e-6)


@pytest.mark.parametrize("displacement", [(0, 0), (3, -5), (-2, 7), (-9, -1)])
def test_a_bank_for_each_pixel_gives_the_sums_of_the_reference_moved_there(
    displacement: tuple[int, int],
) -> None:
    """Held to the full-resolution images, moved by whole pixels and then binned."""
    rng = np.random.default_rng(4)
    images = [frozen(rng.normal(size=(48, 40))) for _ in range(3)]
    solid = np.zeros((48, 40), bool)
    solid[6:-6, 5:-5] = True
    banks, whole = bin_banks(images, frozen(solid), 4, 4)
    level = bare_level(whitened(banks, whole.astype(np.float32)), 4, np.ones((12, 10), np.uint8))
    seen = LevelView(
        frozen(rng.normal(size=(12, 10)).astype(np.float32)), level.usable, np.empty(0, np.int64)
    )
    support = binned(moved(solid, displacement, False), 4) == 1.0
    found = moments_at(level, displacement, seen)
    exact = [binned(moved(a, displacement, 0.0), 4) for a in images]
    for place, image in zip((0, 4, 5), exact, strict=True):
        expected = float((image * seen.mean)[support].sum())
        assert found.right[place] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert found.normal[1, 1] == pytest.approx(np.count_nonzero(support))
    assert found.normal[0, 4] == pytest.approx(
        float((exact[0] * exact[1])[support].sum()), abs=1e-3
    )


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("displacement", DISPLACEMENTS)
def test_what_the_fit_leaves_is_what_numpy_leaves(displacement: tuple[int, int]) -> None:
    seen, level = problem(displacement, seed=1)
    fit = fit_linear(level, displacement, seen)
    assert fit is not None
    left: Residuals = residuals(level, fit, seen)
    design, root, support = by_hand(level, displacement, seen)
    rest = seen.mean[support] * root - design @ fit.theta
    assert left.n_bins == np.count_nonzero(support)
    assert left.weighted == pytest.approx(float(rest @ rest), rel=1e-3)
    parts = rest[:, None] * (design @ fit.inverse[4:6].T) / fit.theta[0]
    np.testing.assert_allclose(left.influence, parts.T @ parts, rtol=1e-3, atol=1e-9)
    image_of_rest = np.full(seen.mean.shape, np.nan)
    image_of_rest[support] = rest
    assert left.white == pytest.approx(
        0.5 * np.nanmean(np.diff(image_of_rest, axis=1) ** 2), rel=1e-3
    )
    assert left.n_marked == 0


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("sign", [1, -1])
def test_bins_far_off_the_model_are_marked_with_their_sign_and_no_others(sign: int) -> None:
    seen, level = problem((0, 0), seed=2)
    support = by_hand(level, (0, 0), seen)[2]
    y, x = (int(v[7]) for v in np.nonzero(support))
    mean = seen.mean.copy()
    mean[y, x] += sign * 200.0
    broken = replace(seen, mean=frozen(mean))
    fit = fit_linear(level, (0, 0), broken)
    assert fit is not None
    marks = np.zeros(mean.shape, np.int8)
    left = residuals(level, fit, broken, limit=20.0, marks=marks)
    assert left.n_marked == 1
    assert np.argwhere(marks).tolist() == [[y, x]]
    assert marks[y, x] == sign


def test_part_of_a_bright_bin_may_be_missing_from_the_model() -> None:
    """The peak of a spot is known to a quarter: only what exceeds that stands out."""
    seen, level = problem((0, 0), seed=5)
    design, root, support = by_hand(level, (0, 0), seen)
    bright = int(design[:, 0].argmax())
    fit = fit_linear(level, (0, 0), seen)
    assert fit is not None
    trusted = MODEL_ERROR * fit.theta[0] * design[bright, 0]
    rest = float((seen.mean[support] * root)[bright] - design[bright] @ fit.theta)
    y, x = (int(v[bright]) for v in np.nonzero(support))
    for beyond, marked in ((0.9, 0), (1.1, 1)):
        mean = seen.mean.copy()
        mean[y, x] += (4.0 + beyond * trusted - rest) / root[bright]
        found = residuals(level, fit, replace(seen, mean=mean), limit=4.0)
        assert found.n_marked == marked


@given(
    theta=st.tuples(st.floats(0.2, 5.0), *[st.floats(-50.0, 50.0)] * 3),
    step=st.tuples(*[st.floats(-0.9, 0.9)] * 2),
)
@settings(max_examples=30, deadline=None)
def test_a_frame_that_the_model_describes_is_described(
    theta: tuple[float, float, float, float], step: tuple[float, float]
) -> None:
    seen, level = problem((2, -3), seed=3)
    design, root, support = by_hand(level, (2, -3), seen)
    frame = np.zeros(seen.mean.shape, np.float32)
    a = theta[0]
    frame[support] = design @ np.array([*theta, -a * step[0], -a * step[1]]) / root
    fit = fit_linear(level, (2, -3), replace(seen, mean=frame))
    assert fit is not None
    np.testing.assert_allclose(fit.theta[:4], theta, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(fit.step, step, atol=2e-3)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("displacement", [(0, 26), (0, -26), (22, 0), (-40, 40)])
def test_no_overlap_gives_no_fit(displacement: tuple[int, int]) -> None:
    seen, level = problem((0, 0))
    assert fit_linear(level, displacement, seen) is None


@pytest.mark.usefixtures("either_way")
def test_residuals_without_an_overlap_are_nothing() -> None:
    seen, level = problem((0, 0))
    fit = fit_linear(level, (0, 0), seen)
    assert fit is not None
    assert residuals(level, replace(fit, displacement=(0, 40)), seen).n_bins == 0


def test_too_few_bins_give_no_fit() -> None:
    seen, level = problem((0, 0))
    few = np.zeros_like(seen.usable)
    few.flat[: 4 * N_REGRESSORS - 1] = 1
    assert fit_linear(level, (0, 0), view(seen.mean, few & seen.usable, level)) is None


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_an_image_without_structure_gives_no_fit(value: float) -> None:
    seen, level = problem((0, 0))
    flat = level.images.copy()
    flat[1] = value * flat[0]
    assert fit_linear(replace(level, images=flat, normals={}), (0, 0), seen) is None


def test_an_inverted_frame_has_no_fit() -> None:
    seen, level = problem((0, 0))
    assert fit_linear(level, (0, 0), replace(seen, mean=-seen.mean)) is None


def test_sums_that_are_no_numbers_give_no_fit() -> None:
    seen, level = problem((0, 0))
    made = moments_at(level, (0, 0), seen)
    assert solve(replace(made, right=made.right * np.nan), (0, 0)) is None


@given(
    d=st.tuples(*[st.floats(-0.6, 0.6)] * 2),
    terms=st.lists(st.floats(-0.1, 0.1), min_size=8, max_size=8),
)
def test_the_cubic_terms_are_undone(d: tuple[float, float], terms: list[float]) -> None:
    cubic = np.array(terms).reshape(2, 4)
    y, x = d
    step = np.array(d) + cubic @ np.array([y**3, y * y * x, y * x * x, x**3])
    np.testing.assert_allclose(cubic_inverse(step, cubic), d, atol=5e-3)
    kept = step.copy()
    cubic_inverse(step, cubic)
    np.testing.assert_array_equal(step, kept)


def test_a_fit_knows_its_step_from_its_solution() -> None:
    theta = np.array([2.0, 0.0, 0.0, 0.0, 0.5, -1.0])
    fit = LinearFit((0, 0), theta, np.eye(6), Moments(np.eye(6), np.ones(6), 1.0, 100))
    np.testing.assert_array_equal(fit.step, [-0.25, 0.5])


# ------------------------------------------------------------------ the reference, denoised


def counts(scene: Scene, n_frames: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.poisson(scene.expected() * n_frames) / n_frames)


def test_a_noisier_reference_is_smoothed_more() -> None:
    scene = powder_scene((256, 256), dose=30.0, ring_width_px=5.0, seed=1)
    widths = [prepare_reference(counts(scene, n), n_frames=n).smoothing_px for n in (1, 64, 4096)]
    assert widths[0] > widths[1] >= widths[2]


def test_smoothing_and_noise_are_known_to_change_the_step_little_for_a_good_reference() -> None:
    scene = textured_scene((256, 256), dose=60.0, seed=1)
    good = prepare_reference(counts(scene, 1000), n_frames=1000)
    np.testing.assert_allclose(good.slope, np.eye(2), atol=0.02)


def test_features_are_narrow_where_half_a_pixel_is_far_for_them() -> None:
    sharp = crystal_scene((256, 256), dose=100.0, spot_sigma_px=1.5, seed=1)
    broad = powder_scene((768, 768), dose=10.0, ring_width_px=9.0, seed=1)
    assert prepare_reference(counts(sharp, 64), n_frames=64).between is not None
    assert prepare_reference(counts(broad, 64), n_frames=64).between is None


@pytest.mark.parametrize(("grain_px", "factors"), [(2.0, {1}), (15.0, {4, 8})])
def test_the_finest_level_is_as_coarse_as_the_features_allow(
    grain_px: float, factors: set[int]
) -> None:
    scene = textured_scene((1024, 700), dose=60.0, grain_px=grain_px, seed=1)
    reference = prepare_reference(counts(scene, 64), n_frames=64)
    chain = [level.factor for level in reference.levels]
    assert chain[-1] in factors
    assert chain == sorted(chain, reverse=True)
    assert all(a == 2 * b for a, b in itertools.pairwise(chain))
    assert 1024 / chain[0] <= 320
    assert [level.banks for level in reference.levels] == [1] * (len(chain) - 1) + [chain[-1]]


@pytest.mark.parametrize("grain_px", [2.0, 5.0, 10.0])
def test_binning_loses_a_twentieth_of_the_information_at_most(grain_px: float) -> None:
    """And no level is finer than it must be: the next coarser one, if any, loses more."""
    scene = textured_scene((1024, 600), dose=60.0, grain_px=grain_px, seed=1)
    reference = prepare_reference(counts(scene, 64), n_frames=64)
    factor, coarsest = reference.levels[-1].factor, reference.levels[0].factor

    def information(side: int) -> float:
        m, gy, gx = (binned(a, side) for a in (scene.expected(), *scene.gradient()))
        fisher = side**2 * np.array([[np.sum(a * b / m) for b in (gy, gx)] for a in (gy, gx)])
        return float(np.linalg.eigvalsh(fisher)[0])

    assert information(factor) >= 0.95 * information(1)
    assert factor == coarsest or information(2 * factor) < 0.96 * information(1)


@pytest.mark.parametrize("pedestal", [500.0, 2e4])
def test_a_pedestal_shows_in_too_little_noise(pedestal: float) -> None:
    scene = textured_scene((256, 256), dose=60.0, seed=2)
    image = counts(scene, 4) + pedestal
    found = prepare_reference(image, n_frames=4).pedestal
    assert found == pytest.approx(pedestal, abs=30.0)


@pytest.mark.parametrize("options", [{}, {"gain": 1.0, "read_noise": 5.0}, {"n_frames": 4}])
def test_no_pedestal_is_made_up_where_there_is_none(options: dict[str, Any]) -> None:
    n = options.get("n_frames", 1)
    rng = np.random.default_rng(3)
    scene = crystal_scene((256, 256), dose=60.0, seed=2)
    image = counts(scene, n) + rng.normal(0.0, options.get("read_noise", 0.0), (256, 256))
    assert prepare_reference(image, **options).pedestal == 0.0


def test_no_pedestal_is_looked_for_without_a_gain_or_room() -> None:
    image = np.random.default_rng(0).normal(size=(64, 64))
    everywhere = np.ones((64, 64), bool)
    assert pedestal_of(image, everywhere, 1e4, Settings(gain=0.0)) == 0.0
    stripes = np.zeros((64, 64), bool)
    stripes[::2] = True
    assert pedestal_of(fill_invalid(image, stripes), stripes, 1e4, Settings()) == 0.0


def test_a_pixel_varies_by_gain_times_counts_and_read_noise_and_never_by_nothing() -> None:
    expected = np.array([[0.0, 50.0], [150.0, -20.0]])
    everywhere = np.ones((2, 2), bool)
    variance = pixel_variance(expected, everywhere, (2.0, 3.0))
    np.testing.assert_allclose(variance, [[9.0, 109.0], [309.0, 9.0]])
    dark = pixel_variance(expected, everywhere, (2.0, 0.0))
    np.testing.assert_allclose(dark, [[5.0, 100.0], [300.0, 5.0]])
    assert (pixel_variance(np.zeros((2, 2)), ~everywhere, (1.0, 0.0)) > 0.0).all()


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_products_are_weighted_sums(dtype: type[np.floating[Any]]) -> None:
    rng = np.random.default_rng(0)
    left, right = (frozen(rng.normal(size=(n, 5, 6)).astype(dtype)) for n in (2, 3))
    weight = frozen(rng.random((5, 6)).astype(dtype))
    np.testing.assert_allclose(
        products(list(left), list(right), weight),
        np.einsum("iyx,jyx,yx->ij", *(a.astype(float) for a in (left, right, weight))),
        rtol=1e-12,
    )


def test_a_reference_whose_valid_pixels_all_border_invalid_ones_is_refused() -> None:
    valid = np.zeros((64, 64), bool)
    valid[::3, ::2] = True
    scene = textured_scene((64, 64), dose=60.0, seed=2)
    with pytest.raises(InputError, match="none is far enough"):
        prepare_reference(counts(scene, 16), valid, max_shift_px=8)


def test_single_pixels_far_above_all_their_neighbours_do_not_count_in_the_reference() -> None:
    scene = crystal_scene((128, 128), dose=60.0, seed=2)
    image, valid = counts(scene, 4), beam_block_valid((128, 128))
    hot = np.zeros(image.shape, bool)
    hot[[0, 30, 100, 127], [0, 90, 20, 64]] = True
    image[hot] += 5e3
    reference = prepare_reference(image, valid, n_frames=4)
    np.testing.assert_array_equal(~reference.valid, ~valid | hot)


def test_sharp_spots_are_no_hot_pixels() -> None:
    scene = crystal_scene((128, 128), dose=60.0, spot_sigma_px=1.0, seed=2)
    assert prepare_reference(counts(scene, 4), n_frames=4).valid.all()
