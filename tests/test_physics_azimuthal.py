"""Azimuthal averages against the analytic profile of rings, and their errors against the spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from arrays import frozen
from stillstack.errors import InputError
from stillstack.physics.azimuthal import azimuthal_average
from stillstack.physics.noise_correlation import noise_correlation
from stillstack.simulation import Scene, beam_block_valid, powder_scene

Array = NDArray[np.float64]
SHAPE = (128, 144)


def analytic_profile(scene: Scene, radius: Array) -> Array:
    """The formula of the scene's halo and rings."""
    halo: Any = scene.parts[0]
    rings: Any = scene.parts[1]
    profile = halo.height / (1 + radius**2 / halo.width_px**2)
    for ring_radius, height in zip(rings.radius_px, rings.height, strict=True):
        profile = profile + height * np.exp(-0.5 * ((radius - ring_radius) / rings.sigma_px) ** 2)
    return np.asarray(scene.scale * profile)


def images_of(values: Array, **more: Any) -> xr.Dataset:
    dims = ("delay", "y", "x")[-values.ndim :]
    return xr.Dataset({"mean": (dims, values)} | {name: (dims, v) for name, v in more.items()})


@pytest.mark.parametrize(("step_px", "limit"), [(1.0, 0.2), (0.5, 0.06)])
def test_rings_have_the_profile_of_their_formula(step_px: float, limit: float) -> None:
    """Left is the curvature across a bin: P'' step^2 / 24, 0.3 counts at a peak of 60 at 1 px."""
    scene, shift = powder_scene(SHAPE, 60.0, ring_width_px=3.0, seed=2), np.array([2.3, -3.1])
    halo: Any = scene.parts[0]
    centre = tuple(np.array(halo.centre) - shift)
    image = images_of(frozen(scene.expected(shift)))
    found = azimuthal_average(image, centre, valid=beam_block_valid(SHAPE), step_px=step_px)
    inner = found.sel(radius=slice(14, 55))
    assert (inner["n_pixels"] > 0).all()
    missed = inner["mean"].values - analytic_profile(scene, inner["mean_radius"].values)
    assert np.sqrt(np.mean(missed**2)) < limit
    off = azimuthal_average(image, (centre[0] + 2, centre[1]), valid=beam_block_valid(SHAPE))
    wrong = off.sel(radius=slice(14, 55))
    assert np.abs(wrong["mean"] - analytic_profile(scene, wrong.mean_radius.values)).max() > 3.0


def test_each_pixel_counts_once_in_the_bin_of_its_middle() -> None:
    rng = np.random.default_rng(0)
    values, valid = rng.normal(50, 5, SHAPE), rng.random(SHAPE) < 0.7
    values[rng.random(SHAPE) < 0.1] = np.nan
    found = azimuthal_average(xr.DataArray(values, dims=("y", "x")), (60.3, 70.8), valid=valid)
    y, x = np.indices(SHAPE)
    bins = np.rint(np.hypot(y - 60.3, x - 70.8)).astype(int)
    counted = valid & np.isfinite(values)
    assert found.sizes["radius"] == bins.max() + 1
    assert int(found["n_pixels"].sum()) == counted.sum()
    for k in range(bins.max() + 1):
        inside = values[counted & (bins == k)]
        assert int(found["n_pixels"][k]) == inside.size
        expected = inside.mean() if inside.size else np.nan
        np.testing.assert_allclose(found["mean"][k], expected)


def test_pixels_count_as_often_as_they_were_seen_and_only_with_an_error() -> None:
    rng = np.random.default_rng(1)
    values, coverage = rng.normal(50, 5, SHAPE), rng.integers(0, 9, SHAPE)
    error = np.where(coverage > 1, 5 / np.sqrt(np.maximum(coverage, 1)), np.nan)
    values = np.where(coverage > 0, values, np.nan)
    found = azimuthal_average(
        images_of(values, standard_error=error, coverage=coverage), (60.0, 70.0)
    )
    y, x = np.indices(SHAPE)
    inside = (np.rint(np.hypot(y - 60, x - 70)) == 20) & (coverage > 1)
    weight = coverage[inside]
    np.testing.assert_allclose(found["mean"][20], np.average(values[inside], weights=weight))
    expected = np.sqrt(np.sum((weight * error[inside]) ** 2)) / weight.sum()
    np.testing.assert_allclose(found["standard_error"][20], expected)
    assert found.attrs["pixel_weights"] == "coverage"


def test_a_difference_is_weighted_by_both_coverages() -> None:
    rng = np.random.default_rng(2)
    own, other = rng.integers(1, 9, SHAPE), rng.integers(1, 9, SHAPE)
    values = rng.normal(0, 1, SHAPE)
    found = azimuthal_average(
        xr.Dataset(
            {
                "difference": (("y", "x"), values, {"long_name": "difference", "units": "count"}),
                "standard_error": (("y", "x"), np.ones(SHAPE)),
                "coverage": (("y", "x"), own),
                "reference_coverage": (("y", "x"), other),
            }
        ),
        (60.0, 70.0),
    )
    y, x = np.indices(SHAPE)
    inside = np.rint(np.hypot(y - 60, x - 70)) == 20
    expected = np.average(values[inside], weights=1 / (1 / own[inside] + 1 / other[inside]))
    np.testing.assert_allclose(found["difference"][20], expected)
    assert found["difference"].attrs["long_name"] == "azimuthal average of the difference"


def interpolated_means(n_trials: int, shifts: Array, rng: np.random.Generator) -> Array:
    """Means of noise frames that SciPy has moved by fractions of a pixel, linearly."""
    means = np.zeros((n_trials, *SHAPE))
    for shift in shifts:
        frames = rng.normal(50, 6, (n_trials, *SHAPE))
        means += ndimage.shift(frames, (0, *shift), order=1, mode="grid-wrap") / len(shifts)
    return means


def test_errors_of_interpolated_averages_are_those_that_the_spread_shows() -> None:
    """Taken as independent they are a quarter or more too small. 60 trials x 100 bins: 1 %."""
    rng = np.random.default_rng(3)
    shifts = rng.uniform(-2, 2, (6, 2))
    means = interpolated_means(60, shifts, rng)
    error = np.broadcast_to(means.std(axis=0).mean(), means.shape)
    images = images_of(means, standard_error=error)
    honest = azimuthal_average(
        images.assign(noise_correlation=noise_correlation(shifts, "linear")), (62.0, 71.0)
    ).sel(radius=slice(5, 60))
    naive = azimuthal_average(images, (62.0, 71.0)).sel(radius=slice(5, 60))
    spread = honest["mean"].std("delay", ddof=1)
    believed = honest["standard_error"].mean("delay")
    assert float(np.sqrt((spread**2 / believed**2).mean())) == pytest.approx(1.0, abs=0.05)
    assert float((spread / naive["standard_error"].mean("delay")).mean()) > 1.2
    assert honest.attrs["noise_of_pixels"] == "correlated"


def test_the_correlation_of_noise_is_that_of_moved_noise() -> None:
    """Known to 1 / sqrt(60 x 18432) = 0.001 for each lag; the fractions are rounded to 1/32."""
    rng = np.random.default_rng(4)
    shifts = rng.uniform(-2, 2, (5, 2))
    means = interpolated_means(60, shifts, rng) - 50
    found = noise_correlation(np.vstack([shifts, [np.nan, np.nan]]), "linear")
    for lag_y, lag_x in ((0, 1), (1, 0), (1, 1), (2, 0), (1, -1)):
        moved = np.roll(means, (lag_y, lag_x), axis=(1, 2))
        seen = (means * moved).mean() / (means**2).mean()
        assert float(found.sel(lag_y=lag_y, lag_x=lag_x)) == pytest.approx(seen, abs=0.01)


def test_frames_moved_by_whole_pixels_have_independent_noise() -> None:
    found = noise_correlation(np.array([[3.0, -2.0], [0.0, 7.0]]))
    assert float(found.sel(lag_y=0, lag_x=0)) == 1.0
    assert float(np.abs(found).sum()) == 1.0


@pytest.mark.parametrize(
    ("shift", "interpolation", "message"),
    [
        (np.full((4, 2), np.nan), "linear", "None of 4 frames"),
        (np.zeros((4, 2)), "cubic", "'cubic'"),
    ],
)
def test_correlations_that_cannot_be_known_are_refused(
    shift: Array, interpolation: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        noise_correlation(shift, interpolation)


def test_lazy_stacks_stay_lazy_and_give_the_same(engine: str) -> None:
    rng = np.random.default_rng(5)
    images = images_of(
        rng.normal(50, 5, (4, *SHAPE)),
        standard_error=rng.uniform(1, 2, (4, *SHAPE)),
        coverage=rng.integers(0, 5, (4, *SHAPE)),
    )
    valid = beam_block_valid(SHAPE)
    found = azimuthal_average(images.chunk(delay=1, y=40), (62.0, 71.0), valid=valid)
    assert found["mean"].chunks is not None
    xr.testing.assert_allclose(
        found.compute(), azimuthal_average(images, (62.0, 71.0), valid=valid)
    )


def test_sectors_share_the_pixels_and_leave_none_out() -> None:
    values = xr.DataArray(np.random.default_rng(6).normal(size=SHAPE), dims=("y", "x"))
    whole = azimuthal_average(values, (62.4, 71.2))
    parts = [
        azimuthal_average(values, (62.4, 71.2), sector=sector)
        for sector in ((-30, 45), (45, 200), (200, 330))
    ]
    np.testing.assert_array_equal(sum(part["n_pixels"] for part in parts), whole["n_pixels"])
    total = sum((part["mean"] * part["n_pixels"]).fillna(0) for part in parts)
    np.testing.assert_allclose(total, (whole["mean"] * whole["n_pixels"]).fillna(0), atol=1e-9)


def test_a_sector_looks_from_the_x_axis_towards_the_y_axis() -> None:
    y, x = np.indices(SHAPE)
    downwards = xr.DataArray(1.0 * (y - 62 > np.abs(x - 71)), dims=("y", "x"))
    found = azimuthal_average(downwards, (62.0, 71.0), sector=(50, 130)).sel(radius=slice(5, 50))
    np.testing.assert_allclose(found["mean"], 1.0)


def test_profiles_know_their_units_and_the_scattering_vector() -> None:
    images = images_of(np.ones(SHAPE), standard_error=np.ones(SHAPE))
    images["mean"].attrs = {"long_name": "mean of the frames", "units": "electron"}
    images.attrs = {"run": "monday"}
    found = azimuthal_average(images, (62.0, 71.0), step_px=0.5, inverse_angstrom_per_px=0.02)
    np.testing.assert_allclose(found["scattering_vector"], 0.02 * found["radius"])
    assert found["scattering_vector"].attrs["units"] == "1/angstrom"
    assert found["mean"].attrs["units"] == "electron"
    assert found["radius"].attrs["units"] == "pixel"
    assert found.attrs["run"] == "monday"


def test_bins_without_a_pixel_are_nan() -> None:
    found = azimuthal_average(xr.DataArray(np.full(SHAPE, np.nan), dims=("y", "x")), (62.0, 71.0))
    assert np.isnan(found["mean"]).all()
    assert (found["n_pixels"] == 0).all()
    assert "standard_error" not in found


@pytest.mark.parametrize(
    ("images", "centre", "options", "message"),
    [
        (xr.Dataset(), (1.0, 1.0), {}, "holds nothing"),
        (xr.DataArray(np.ones((4, 4)), dims=("a", "x")), (1.0, 1.0), {}, "dimensions y and x"),
        (images_of(np.ones((4, 4))), (np.nan, 1.0), {}, "centre is"),
        (images_of(np.ones((4, 4))), (1.0, 1.0), {"step_px": 0.0}, "step_px is 0"),
        (
            images_of(np.ones((4, 4))),
            (1.0, 1.0),
            {"inverse_angstrom_per_px": -1.0},
            "inverse_angstrom_per_px is -1",
        ),
        (images_of(np.ones((4, 4))), (1.0, 1.0), {"valid": np.ones((4, 5))}, "`valid` has"),
        (images_of(np.ones((4, 4))), (1.0, 1.0), {"valid": np.zeros((4, 4))}, "No pixel is valid"),
    ],
)
def test_bad_input_is_refused(images: Any, centre: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        azimuthal_average(images, centre, **options)


def test_scikit_ued_finds_the_same_profile() -> None:
    skued = pytest.importorskip("skued", reason="the bench extra has it", exc_type=ImportError)
    rng = np.random.default_rng(7)
    values, valid = rng.normal(50, 5, SHAPE), beam_block_valid(SHAPE)
    radius, profile = skued.azimuthal_average(values, center=(71, 62), mask=valid, trim=False)
    found = azimuthal_average(xr.DataArray(values, dims=("y", "x")), (62, 71), valid=valid)
    seen = found["n_pixels"].values[radius] > 0
    np.testing.assert_allclose(found["mean"].values[radius][seen], profile[seen])
