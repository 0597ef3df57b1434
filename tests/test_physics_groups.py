"""Groups of reduced data merged, left out and compared, against NumPy on all frames at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.physics.combine import combine, jackknife, leave_one_out
from stillstack.physics.differences import difference, relative_change

Array = NDArray[np.float64]
SHAPE = (3, 4)


def frames_of(sizes: list[int], seed: int, level: float = 60.0) -> list[Array]:
    """Groups of frames, about a third of whose pixels are absent (NaN)."""
    rng = np.random.default_rng(seed)
    groups = []
    for size in sizes:
        frames = rng.normal(level, 5.0, (size, *SHAPE))
        frames[rng.random(frames.shape) < 0.3] = np.nan
        groups.append(frames)
    return groups


def reduce_frames(frames: Array) -> xr.Dataset:
    """What the reduction makes of the frames of one group, by NumPy alone."""
    coverage = np.isfinite(frames).sum(axis=0)
    total = np.nansum(frames, axis=0)
    mean = np.divide(total, coverage, out=np.full(SHAPE, np.nan), where=coverage > 0)
    squares = np.nansum((frames - mean) ** 2, axis=0)
    variance = np.divide(squares, coverage - 1, out=np.full(SHAPE, np.nan), where=coverage > 1)
    error = np.sqrt(np.divide(variance, coverage, out=np.full(SHAPE, np.nan), where=coverage > 1))
    images = {"mean": mean, "variance": variance, "standard_error": error, "coverage": coverage}
    found = xr.Dataset({name: (("y", "x"), image) for name, image in images.items()})
    return found.assign(n_frames=len(frames))


def reduce_groups(groups: list[Array], dim: str = "scan", values: Any = None) -> xr.Dataset:
    reduced = xr.concat([reduce_frames(frames) for frames in groups], dim)
    return reduced.assign_coords({dim: np.arange(len(groups)) if values is None else values})


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    for name in ("mean", "variance", "standard_error", "coverage", "n_frames"):
        np.testing.assert_allclose(
            found[name].values, expected[name].values, rtol=1e-10, err_msg=name
        )


sizes_of_groups = st.lists(st.integers(1, 9), min_size=2, max_size=6)


# ------------------------------------------------------------------ merging


@given(sizes=sizes_of_groups, seed=st.integers(0, 10_000), level=st.sampled_from([0.0, 60.0, 1e5]))
@settings(max_examples=40, deadline=None)
def test_groups_combined_are_what_their_frames_reduce_to_together(
    sizes: list[int], seed: int, level: float
) -> None:
    groups = frames_of(sizes, seed, level)
    found = combine(reduce_groups(groups), "scan")
    assert_same(found, reduce_frames(np.concatenate(groups)))


@given(sizes=sizes_of_groups, seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_what_is_left_without_a_group_is_what_the_other_frames_reduce_to(
    sizes: list[int], seed: int
) -> None:
    groups = frames_of(sizes, seed)
    found = leave_one_out(reduce_groups(groups), "scan")
    for k in range(len(groups)):
        others = np.concatenate([frames for j, frames in enumerate(groups) if j != k])
        assert_same(found.isel(scan=k), reduce_frames(others))


def test_a_small_group_beside_a_huge_noisy_one_keeps_its_variance() -> None:
    """Nothing is subtracted: leaving the noisy group out does not cost the other its digits."""
    rng = np.random.default_rng(0)
    quiet, noisy = rng.normal(1.0, 1e-6, (4, *SHAPE)), rng.normal(0.0, 1e6, (500, *SHAPE))
    found = leave_one_out(reduce_groups([noisy, quiet]), "scan").isel(scan=0)
    np.testing.assert_allclose(found["variance"], quiet.var(axis=0, ddof=1), rtol=1e-9)


def test_combining_in_two_steps_is_combining_at_once() -> None:
    groups = frames_of([4, 3, 5, 2, 6, 4], 1)
    grid = xr.concat(
        [reduce_groups(groups[:3]), reduce_groups(groups[3:])], dim="delay"
    ).assign_coords(delay=[-1.0, 2.0])
    assert_same(combine(combine(grid, "scan"), "delay"), reduce_frames(np.concatenate(groups)))
    assert_same(combine(combine(grid, "delay"), "scan"), reduce_frames(np.concatenate(groups)))


def test_a_pixel_that_no_group_covers_is_nan_with_coverage_zero() -> None:
    groups = frames_of([4, 5], 2)
    for frames in groups:
        frames[:, 1, 2] = np.nan
    found = combine(reduce_groups(groups), "scan").isel(y=1, x=2)
    assert found["coverage"] == 0
    for name in ("mean", "variance", "standard_error"):
        assert np.isnan(found[name])


def test_lazy_groups_stay_lazy_and_give_the_same(engine: str) -> None:
    reduced = reduce_groups(frames_of([4, 3, 5], 3))
    lazy = reduced.chunk(scan=1, y=2)
    for function in (combine, leave_one_out):
        found = function(lazy, "scan")
        assert found["mean"].chunks is not None
        xr.testing.assert_allclose(found.compute(), function(reduced, "scan"))


def test_labels_and_units_of_the_input_are_kept() -> None:
    reduced = reduce_groups(frames_of([4, 3], 3))
    reduced["mean"].attrs = {"long_name": "mean", "units": "electron"}
    reduced.attrs = {"run": "monday"}
    found = combine(reduced, "scan")
    assert found["mean"].attrs["units"] == "electron"
    assert found["coverage"].attrs["long_name"] == "frames that counted at the pixel"
    assert found.attrs == {"run": "monday", "combined_over": ["scan"]}


# ------------------------------------------------------------------ jackknife


def test_the_jackknife_of_a_mean_of_equal_groups_is_the_error_of_the_mean_of_their_means() -> None:
    groups = [np.random.default_rng(k).normal(50, 3, (6, *SHAPE)) for k in range(8)]
    found = jackknife(reduce_groups(groups), "scan", lambda averages: averages["mean"])
    means = np.stack([frames.mean(axis=0) for frames in groups])
    np.testing.assert_allclose(found["estimate"], means.mean(axis=0))
    np.testing.assert_allclose(found["standard_error"], means.std(axis=0, ddof=1) / np.sqrt(8))


def test_the_jackknife_of_a_ratio_of_unequal_groups_tells_the_spread_that_truth_shows() -> None:
    """Of 300 experiments of 12 scans; the error of the mean variance of so many is 2 %."""
    rng = np.random.default_rng(5)
    sizes = np.array([3, 4, 5, 6, 8, 10, 12, 4, 3, 9, 7, 5])
    drawn = rng.normal(0, 1, (len(sizes), 2, 300)) / np.sqrt(sizes)[:, None, None]
    mean = np.array([40.0, 20.0])[:, None] + drawn
    reduced = xr.Dataset({"mean": (("scan", "y", "x"), mean)})
    coverage = xr.ones_like(reduced["mean"]) * xr.DataArray(sizes, dims="scan")
    reduced = reduced.assign(variance=xr.ones_like(coverage), coverage=coverage)

    def ratio(averages: xr.Dataset) -> xr.DataArray:
        return averages["mean"].isel(y=0) / averages["mean"].isel(y=1)

    found = jackknife(reduced, "scan", ratio)
    believed = float(np.sqrt((found["standard_error"] ** 2).mean()))
    assert believed == pytest.approx(float(found["estimate"].std()), rel=0.12)


def test_one_group_or_an_empty_one_is_refused() -> None:
    groups = frames_of([4, 3], 0)
    with pytest.raises(InputError, match="There is 1 group along 'scan'"):
        leave_one_out(reduce_groups(groups[:1]), "scan")
    reduced = reduce_groups(groups)
    reduced["n_frames"] = ("scan", [4, 0])
    with pytest.raises(InputError, match=r"Groups \[1\] along 'scan' hold no frame"):
        jackknife(reduced, "scan", lambda averages: averages["mean"])


@pytest.mark.parametrize("function", [combine, leave_one_out])
def test_what_is_missing_is_named(function: Any) -> None:
    reduced = reduce_groups(frames_of([4, 3], 0))
    with pytest.raises(InputError, match="lack variance"):
        function(reduced.drop_vars("variance"), "scan")
    with pytest.raises(InputError, match=r"no groups along 'delay'; they have \['scan'\]"):
        function(reduced, "delay")
    with pytest.raises(InputError, match="images with the dimensions y and x"):
        function(reduced.isel(x=0), "scan")


# ------------------------------------------------------------------ differences


def test_a_difference_is_that_of_the_means_with_errors_added_in_squares() -> None:
    groups = frames_of([9, 8, 7], 4)
    reduced = reduce_groups(groups, "delay", [-1.0, 0.5, 2.0])
    found = difference(reduced, reference=-1.0)
    mean, error = reduced["mean"].values, reduced["standard_error"].values
    np.testing.assert_allclose(found["difference"], mean - mean[0])
    np.testing.assert_allclose(found["standard_error"][1], np.hypot(error[1], error[0]))
    np.testing.assert_allclose(found["standard_error"][0], 0.0, atol=1e-12)
    np.testing.assert_array_equal(found["coverage"], reduced["coverage"])
    np.testing.assert_array_equal(found["reference_coverage"], reduced["coverage"][0])


def drawn_means(n_trials: int = 6000) -> tuple[xr.Dataset, Array]:
    """Four groups of different size and noise, each pixel one trial of the experiment."""
    rng = np.random.default_rng(6)
    level, error = np.array([50.0, 50.0, 50.0, 54.0]), np.array([0.5, 0.4, 0.3, 0.6])
    coverage = np.array([4, 9, 16, 5])
    shape = (4, 1, n_trials)

    def spread_out(values: Array) -> xr.DataArray:
        return xr.DataArray(np.broadcast_to(values[:, None, None], shape), dims=("delay", "y", "x"))

    mean = spread_out(level) + rng.normal(0, 1, shape) * error[:, None, None]
    reduced = xr.Dataset(
        {"mean": mean, "standard_error": spread_out(error), "coverage": spread_out(coverage)}
    )
    return reduced.assign_coords(delay=[-3.0, -2.0, -1.0, 5.0]), level


@pytest.mark.parametrize("function", [difference, relative_change])
def test_errors_against_several_reference_groups_are_those_that_truth_shows(function: Any) -> None:
    """Also for groups of the reference. The spread of 6000 trials is known to 0.9 %."""
    reduced, level = drawn_means()
    found = function(reduced, reference=slice(None, 0.0))
    name = str(next(iter(found.data_vars)))
    believed = np.sqrt((found["standard_error"].values ** 2).mean(axis=(1, 2)))
    np.testing.assert_allclose(found[name].values.std(axis=(1, 2)), believed, rtol=0.04)
    expected = level - 50.0 if name == "difference" else level / 50.0 - 1.0
    apart = (found[name].values.mean(axis=(1, 2)) - expected) / believed
    assert np.abs(apart).max() < 5.0 / np.sqrt(6000)


def test_the_reference_weighs_its_groups_by_coverage() -> None:
    groups = [np.full((2, *SHAPE), 10.0), np.full((6, *SHAPE), 20.0)]
    reduced = reduce_groups(groups, "delay", [-2.0, -1.0])
    found = difference(reduced, reference=[-2.0, -1.0])
    np.testing.assert_allclose(found["difference"][0], 10.0 - 17.5)


def test_groups_can_be_compared_along_any_coordinate() -> None:
    groups = frames_of([9, 8], 4)
    reduced = reduce_groups(groups, "pump", ["off", "on"])
    found = difference(reduced, "pump", reference="off").sel(pump="on")
    expected = np.nanmean(groups[1], axis=0) - np.nanmean(groups[0], axis=0)
    np.testing.assert_allclose(found["difference"], expected)


def test_pixels_without_coverage_or_error_are_nan_and_no_others() -> None:
    groups = [np.full((3, *SHAPE), 10.0), np.full((3, *SHAPE), 20.0), np.full((3, *SHAPE), 20.0)]
    groups[0][:, 0, 0] = np.nan
    groups[1][:, 0, 1] = np.nan
    groups[0][1:, 0, 2] = np.nan
    found = difference(reduce_groups(groups, "delay", [-2.0, -1.0, 1.0]), reference=[-2.0, -1.0])
    assert np.isfinite(found["difference"].isel(delay=2)).all()
    nan = np.isnan(found["standard_error"].isel(delay=2))
    assert nan.sum() == 1
    assert nan[0, 2]
    alone = difference(reduce_groups(groups, "delay", [-2.0, -1.0, 1.0]), reference=-2.0)
    assert np.isnan(alone["difference"].isel(delay=2)).sum() == 1


def test_a_ratio_to_what_might_be_zero_is_not_known() -> None:
    reduced = reduce_groups(frames_of([9, 8], 4), "delay", [-1.0, 2.0])
    reduced["mean"][0, 0, 0] = 0.5 * reduced["standard_error"][0, 0, 0]
    reduced["mean"][0, 0, 1] = 0.0
    found = relative_change(reduced, reference=-1.0)
    nan = np.isnan(found["relative_change"].isel(delay=1))
    assert nan.sum() == 2


def test_lazy_differences_stay_lazy_and_give_the_same(engine: str) -> None:
    reduced = reduce_groups(frames_of([9, 8, 7], 4), "delay", [-1.0, 0.5, 2.0])
    for function in (difference, relative_change):
        found = function(reduced.chunk(delay=1, x=2), reference=slice(None, 0.6))
        assert found["standard_error"].chunks is not None
        xr.testing.assert_allclose(found.compute(), function(reduced, reference=slice(None, 0.6)))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (7.0, "no group at delay = 7.0; there are 2 groups: -1.0, 2.0"),
        ([-1.0, 7.0], "no group at delay = 7.0"),
        (slice(3.0, None), "No group lies in the reference delay = 3.0 to None"),
        (slice(None, None, 2), "has a step"),
    ],
)
def test_a_reference_that_is_not_there_is_refused(reference: Any, message: str) -> None:
    reduced = reduce_groups(frames_of([9, 8], 4), "delay", [-1.0, 2.0])
    with pytest.raises(InputError, match=message):
        difference(reduced, reference=reference)


def test_a_dimension_without_coordinate_is_refused() -> None:
    reduced = reduce_groups(frames_of([9, 8], 4), "delay").drop_vars("delay")
    with pytest.raises(InputError, match=r"assign_coords\(delay="):
        difference(reduced, reference=0)


def test_relative_changes_plot_with_their_names_and_units() -> None:
    reduced = reduce_groups(frames_of([9, 8], 4), "delay", [-1.0, 2.0])
    found = difference(reduced, reference=-1.0)
    assert found["difference"].attrs == {
        "long_name": "difference from the reference",
        "units": "count",
    }
    assert found.attrs["reference_groups"] == "delay = -1.0"
    assert relative_change(reduced, reference=-1.0)["relative_change"].attrs["units"] == "1"
