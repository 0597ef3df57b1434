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

from stillstack.errors import InputError
from stillstack.kernels import levels, refinement
from stillstack.kernels.denoising import pedestal_of, pixel_variance, products
from stillstack.kernels.levels import Level, bank_of, bin_banks, bin_weights, displaced
from stillstack.kernels.reference import Settings
from stillstack.kernels.refinement import (
    N_REGRESSORS,
    LinearFit,
    Residuals,
    cubic_inverse,
    fit_linear,
    residuals,
)
from stillstack.kernels.registration import prepare_reference
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
COMPILED = {
    levels: ("_bin_displaced", "_displace"),
    refinement: ("_normal_sums", "_residual_sums"),
}
DISPLACEMENTS = [(0, 0), (3, -2), (-4, 5), (-1, -7)]
NOISE = (50.0, 0.5, 2.0, 0.1)


@pytest.fixture(params=["compiled", "python"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops as numba compiles them, and as Python runs them."""
    if request.param == "python":
        for module, names in COMPILED.items():
            for name in names:
                monkeypatch.setattr(module, name, getattr(module, name).py_func)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


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
    nothing = np.zeros((factor, factor, 1, 1), np.float32)
    full = Level(factor, nothing[None], nothing, np.zeros((1, 1), np.int32))
    bank, bins = bank_of(full, u)
    assert all(0 <= r < factor for r in bank)
    assert tuple(q * factor + r for q, r in zip(bins, bank, strict=True)) == u
    single = replace(full, weight=nothing[:1, :1])
    whole = (u[0] * factor, u[1] * factor)
    assert bank_of(single, whole) == ((0, 0), u)


def test_a_bin_weighs_as_much_as_the_mean_of_its_pixels_is_certain() -> None:
    variance = np.array([[4.0, 8.0], [2.0, 0.0]], np.float32)
    whole = np.array([[True, True], [False, False]])
    np.testing.assert_allclose(bin_weights(variance, whole, 2), [[1.0, 0.5], [0.0, 0.0]])


# ------------------------------------------------------------------ moved by a fraction


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9])
def test_six_points_interpolate_a_quintic_exactly(t: float) -> None:
    quintic = np.polynomial.Polynomial([1.0, -2.0, 0.5, 0.3, -0.1, 0.02])
    taps = levels._lagrange(t)
    assert taps.sum() == pytest.approx(1.0)
    assert taps @ quintic(np.arange(-2.0, 4.0)) == pytest.approx(quintic(t), rel=1e-12)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("displacement", [(0.0, 0.0), (0.5, -0.25), (-3.7, 2.1), (4.0, 1.5)])
@pytest.mark.parametrize(("shape", "grain_px"), [((96, 80), 4.0), ((344, 80), 12.0)])
def test_a_displaced_level_is_the_analytic_scene_there_binned(
    displacement: tuple[float, float], shape: tuple[int, int], grain_px: float
) -> None:
    scene = textured_scene(shape, dose=1e4, grain_px=grain_px, seed=3)
    reference = prepare_reference(scene.expected(), max_shift_px=8, n_frames=1e6)
    level = reference.levels[-1]
    assert level.factor == (1 if grain_px < 10.0 else 2)
    there = displaced(level, np.array(displacement))
    # Towards the border the smoothing sees pixels that are made up.
    inner = np.zeros(there.weight.shape[2:], bool)
    inner[16:-16, 16:-16] = True
    assert (there.weight[0, 0][inner] > 0.0).all()
    shift = (-displacement[0], -displacement[1])
    expected = [scene.expected(shift) - reference.offset, *scene.gradient(shift)]
    for k, exact in enumerate(expected):
        found, truth = there.images[k, 0, 0][inner], binned(exact, level.factor)[inner]
        # The smoothing of a pixel lowers the steepest slopes by a percent.
        assert np.abs(found - truth).max() < 15e-3 * truth.std()
    weight = level.factor**2 / binned(scene.expected(shift), level.factor)[inner]
    # Weights are those of a smoother image; they only have to be about right.
    assert np.median(np.abs(there.weight[0, 0][inner] / weight - 1.0)) < 0.1


def test_a_level_displaced_by_whole_pixels_is_its_own_bank() -> None:
    scene = textured_scene((64, 72), dose=100.0, seed=4)
    level = prepare_reference(scene.expected(), max_shift_px=8, n_frames=100).levels[-1]
    there = displaced(level, np.array([3.0, -2.0]))
    bank, bins = bank_of(level, (3, -2))
    support = there.weight[0, 0] > 0.0
    for k in range(3):
        expected = moved(level.images[k][bank], bins, np.nan)
        np.testing.assert_allclose(there.images[k, 0, 0][support], expected[support], rtol=1e-6)
    weight = moved(level.weight[bank], bins, 0.0)
    np.testing.assert_allclose(there.weight[0, 0], weight, rtol=1e-6)


def test_a_level_displaced_out_of_sight_supports_nothing() -> None:
    scene = textured_scene((64, 72), dose=100.0, seed=4)
    level = prepare_reference(scene.expected(), max_shift_px=8, n_frames=100).levels[-1]
    there = displaced(level, np.array([0.5, 200.3]))
    assert not there.weight.any()


# ------------------------------------------------------------------ the linear model


def problem(
    displacement: tuple[int, int], seed: int = 0, shape: tuple[int, int] = (22, 26)
) -> tuple[NDArray[Any], NDArray[Any], Level]:
    """A frame of noise, which of its bins count, and a level of random regressors."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(3, 1, 1, *shape)).astype(np.float32) * 5.0
    weight = rng.uniform(0.5, 2.0, (1, 1, *shape)) * (rng.random((1, 1, *shape)) > 0.15)
    level = Level(1, frozen(images), frozen(weight.astype(np.float32)), np.ones(shape, np.int32))
    frame = 3.0 * moved(images[0, 0, 0], displacement, 0.0) + rng.normal(size=shape) + 2.0
    usable = (rng.random(shape) > 0.1).astype(np.float32)
    return frozen(frame.astype(np.float32)), frozen(usable), level


def by_hand(
    frame: NDArray[Any], usable: NDArray[Any], level: Level, displacement: tuple[int, int]
) -> tuple[Array, Array, Array, Valid]:
    """Regressors (bins, 6), weights, values, and the support they are taken on."""
    image, grad_y, grad_x = (moved(level.images[k, 0, 0], displacement, 0.0) for k in range(3))
    weight = moved(level.weight[0, 0], displacement, 0.0) * usable
    n_y, n_x = frame.shape
    y, x = np.mgrid[:n_y, :n_x] + 0.5
    design = np.stack([image, np.ones_like(image), y / n_y - 0.5, x / n_x - 0.5, grad_y, grad_x])
    support = weight > 0.0
    return (
        design[:, support].T.astype(np.float64),
        weight[support].astype(np.float64),
        frame[support].astype(np.float64),
        support,
    )


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("displacement", DISPLACEMENTS)
def test_the_fit_is_that_of_numpy(displacement: tuple[int, int]) -> None:
    frame, usable, level = problem(displacement)
    fit = fit_linear(frame, usable, level, displacement)
    design, weight, values, support = by_hand(frame, usable, level, displacement)
    root = np.sqrt(weight)
    theta, *_ = np.linalg.lstsq(design * root[:, None], values * root, rcond=None)
    assert fit is not None
    assert fit.displacement == displacement
    assert fit.n_bins == np.count_nonzero(support)
    np.testing.assert_allclose(fit.theta, theta, rtol=1e-4, atol=1e-4)
    normal = design.T @ (weight[:, None] * design)
    inverse = np.linalg.inv(normal)
    np.testing.assert_allclose(fit.inverse, inverse, rtol=1e-3, atol=1e-5 * np.abs(inverse).max())
    null, *_ = np.linalg.lstsq(design[:, 1:4] * root[:, None], values * root, rcond=None)
    left = float(weight @ (values - design[:, 1:4] @ null) ** 2)
    assert fit.null_residual == pytest.approx(left, rel=1e-4)
    np.testing.assert_allclose(fit.step, -theta[4:6] / theta[0], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("displacement", DISPLACEMENTS)
def test_what_the_fit_leaves_is_what_numpy_leaves(displacement: tuple[int, int]) -> None:
    frame, usable, level = problem(displacement, seed=1)
    fit = fit_linear(frame, usable, level, displacement)
    assert fit is not None
    left: Residuals = residuals(frame, usable, level, fit, NOISE)
    design, weight, values, support = by_hand(frame, usable, level, displacement)
    rest = values - design @ fit.theta
    assert left.n_bins == np.count_nonzero(support)
    assert left.weighted == pytest.approx(float(weight @ rest**2), rel=1e-3)
    pedestal, per_count, constant, smallest = NOISE
    fitted = design @ fit.theta + pedestal
    variance = np.maximum(per_count * fitted, smallest) + constant
    assert left.chi2 == pytest.approx(float(np.mean(rest**2 / variance)), rel=1e-3)
    moving = design[:, 0] + design[:, 4:6] @ fit.theta[4:6] / fit.theta[0]
    assert left.ncc == pytest.approx(np.corrcoef(values, moving)[0, 1], rel=1e-3)
    parts = (weight * rest)[:, None] * (design @ fit.inverse[4:6].T) / fit.theta[0]
    np.testing.assert_allclose(left.influence, parts.T @ parts, rtol=1e-3, atol=1e-9)
    image_of_rest, image_of_weight = np.zeros((2, *frame.shape))
    image_of_rest[support], image_of_weight[support] = rest, weight
    both = np.minimum(image_of_weight[:, 1:], image_of_weight[:, :-1])
    difference = np.diff(image_of_rest, axis=1) ** 2
    white = 0.5 * float((both * difference).sum()) / np.count_nonzero(both)
    assert left.white == pytest.approx(white, rel=1e-3)
    assert left.suspects == 0


@pytest.mark.usefixtures("either_way")
def test_bins_far_above_the_model_are_marked_and_no_others() -> None:
    frame, usable, level = problem((0, 0), seed=2)
    support = by_hand(frame, usable, level, (0, 0))[3]
    y, x = (int(v[7]) for v in np.nonzero(support))
    struck_frame = frame.copy()
    struck_frame[y, x] += 200.0
    fit = fit_linear(struck_frame, usable, level, (0, 0))
    assert fit is not None
    marks = np.zeros(frame.shape, bool)
    left = residuals(
        struck_frame, usable, level, fit, (100.0, 1.0, 0.0, 0.1), struck_limit=6.0, struck=marks
    )
    assert left.suspects == 1
    assert np.argwhere(marks).tolist() == [[y, x]]
    below = struck_frame.copy()
    below[y, x] -= 400.0
    fit = fit_linear(below, usable, level, (0, 0))
    assert fit is not None
    dark = np.zeros(frame.shape, bool)
    residuals(below, usable, level, fit, (100.0, 1.0, 0.0, 0.1), struck_limit=6.0, struck=dark)
    assert not dark[y, x]


@given(
    theta=st.tuples(st.floats(0.2, 5.0), *[st.floats(-50.0, 50.0)] * 3),
    step=st.tuples(*[st.floats(-0.9, 0.9)] * 2),
)
@settings(max_examples=30, deadline=None)
def test_a_frame_that_the_model_describes_is_described(
    theta: tuple[float, float, float, float], step: tuple[float, float]
) -> None:
    _, usable, level = problem((2, -3), seed=3)
    design, _, _, support = by_hand(usable, usable, level, (2, -3))
    frame = np.zeros(usable.shape, np.float32)
    a = theta[0]
    frame[support] = design @ np.array([*theta, -a * step[0], -a * step[1]])
    fit = fit_linear(frame, usable, level, (2, -3))
    assert fit is not None
    np.testing.assert_allclose(fit.theta[:4], theta, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(fit.step, step, atol=2e-3)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_bins_off_the_support_never_matter(seed: int) -> None:
    frame, usable, level = problem((1, 1), seed)
    other = np.where(usable > 0.0, frame, np.float32(1e6)).astype(np.float32)
    one, two = (fit_linear(f, usable, level, (1, 1)) for f in (frame, other))
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(one.theta, two.theta)
    np.testing.assert_array_equal(one.inverse, two.inverse)
    first, second = (residuals(f, usable, level, one, NOISE) for f in (frame, other))
    assert first.chi2 == second.chi2
    np.testing.assert_array_equal(first.influence, second.influence)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("displacement", [(0, 26), (0, -26), (22, 0), (-40, 40)])
def test_no_overlap_gives_no_fit(displacement: tuple[int, int]) -> None:
    frame, usable, level = problem((0, 0))
    assert fit_linear(frame, usable, level, displacement) is None


@pytest.mark.usefixtures("either_way")
def test_residuals_without_an_overlap_are_nothing() -> None:
    frame, usable, level = problem((0, 0))
    fit = fit_linear(frame, usable, level, (0, 0))
    assert fit is not None
    left = residuals(frame, usable, level, replace(fit, displacement=(0, 40)), NOISE)
    assert left.n_bins == 0
    assert left.ncc == 0.0


def test_too_few_bins_give_no_fit() -> None:
    frame, usable, level = problem((0, 0))
    few = np.zeros_like(usable)
    few.flat[: 4 * N_REGRESSORS - 1] = 1.0
    assert fit_linear(frame, few, level, (0, 0)) is None


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_an_image_without_structure_gives_no_fit(value: float) -> None:
    frame, usable, level = problem((0, 0))
    flat = level.images.copy()
    flat[0] = value
    assert fit_linear(frame, usable, replace(level, images=flat), (0, 0)) is None


def test_an_inverted_frame_has_no_step() -> None:
    frame, usable, level = problem((0, 0))
    fit = fit_linear(-frame, usable, level, (0, 0))
    assert fit is not None
    assert fit.theta[0] < 0.0
    assert np.isnan(fit.step).all()


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
    fit = LinearFit((0, 0), theta, np.eye(6), 1.0, 100)
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
    assert prepare_reference(counts(sharp, 64), n_frames=64).narrow
    assert not prepare_reference(counts(broad, 64), n_frames=64).narrow


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


def test_products_are_weighted_sums() -> None:
    rng = np.random.default_rng(0)
    left, right, weight = rng.normal(size=(2, 5, 6)), rng.normal(size=(3, 5, 6)), rng.random((5, 6))
    np.testing.assert_allclose(
        products(list(left), list(right), weight), np.einsum("iyx,jyx,yx->ij", left, right, weight)
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
