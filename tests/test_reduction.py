"""Averages of aligned frames are NumPy's on the full array, whatever the chunks and scheduler."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from reduced import (
    Averages,
    LoggedSource,
    agree,
    all_moved,
    config_of,
    groups,
    moved,
    whole,
    with_labels,
)
from stillstack.errors import InputError
from stillstack.kernels.statistics import Moments, merge_moments
from stillstack.model import Status, is_good
from stillstack.reduction import ReductionOptions, reduce_run
from stillstack.run import open_run, run
from stillstack.simulation import SimulatedStack, beam_block_valid, simulate_stack
from stillstack.sources import open_source

ALL = ("mean", "variance", "standard_error", "coverage", "median", "sigma_clipped_mean")


@pytest.fixture(scope="module")
def simulated() -> SimulatedStack:
    return simulate_stack(
        60,
        (96, 112),
        seed=8,
        drift_px=6.0,
        intensity_std=0.2,
        planted={"blank": (4, 17), "saturated": (30,)},
    )


@pytest.fixture(scope="module")
def frames(simulated: SimulatedStack) -> NDArray[np.uint16]:
    return simulated.read(0, len(simulated))


@pytest.fixture(scope="module")
def stored_run(
    local_cluster: Any,
    simulated: SimulatedStack,
    frames: NDArray[Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of the simulated stack, without aligned frames; to be left as it is."""
    folder = tmp_path_factory.mktemp("reduction")
    np.save(folder / "frames.npy", frames)
    make_client: Any = distributed.Client  # not typed
    with make_client(local_cluster, set_as_default=True):
        run(config_of(simulated, folder / "frames.npy", folder / "run.zarr"))
    return folder / "run.zarr"


@pytest.fixture
def opened(stored_run: Path) -> xr.Dataset:
    return with_labels(open_run(stored_run))


@pytest.fixture
def logged(stored_run: Path, tmp_path: Path) -> Any:
    """Makes options with a source that has chunks of so many frames and notes what is read."""

    def use(chunk_frames: int = 1, **more: Any) -> tuple[ReductionOptions, LoggedSource]:
        inner = open_source(stored_run.parent / "frames.npy")
        source = LoggedSource(inner, str(tmp_path / "reads.txt"), chunk_frames)
        return ReductionOptions(source=source, durable=False, **more), source

    return use


@pytest.fixture
def few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few frames and batches of two groups, as of large frames."""
    monkeypatch.setattr("stillstack.reduction.pieces._PIECE_BYTES", 5 * 96 * 112 * 2)
    monkeypatch.setattr("stillstack.reduction.pieces._MOST_STATE_BYTES", 2 * 20 * 96 * 112)


# ------------------------------------------------------------------- the same as NumPy


@pytest.mark.usefixtures("few_pieces")
@pytest.mark.parametrize("by", [(), ("delay",), ("delay", "scan")])
def test_averages_are_those_of_numpy_on_the_full_array(
    engine: str, opened: xr.Dataset, frames: NDArray[Any], logged: Any, by: tuple[str, ...]
) -> None:
    table = whole(opened)
    options, _ = logged(chunk_frames=4)
    found = reduce_run(table, by, options=options).compute()
    agree(found, table, all_moved(table, frames), *by)
    assert found["mean"].dims == (*by, "y", "x")
    assert int(found["n_frames"].sum()) == int(is_good(table["status"]).sum())
    assert found["coverage"].dtype == np.int32


@pytest.mark.usefixtures("few_pieces")
@pytest.mark.parametrize("chunk_frames", [1, 3, 8, 60])
def test_chunks_of_the_source_change_nothing(
    opened: xr.Dataset, frames: NDArray[Any], logged: Any, chunk_frames: int
) -> None:
    table = whole(opened)
    options, source = logged(chunk_frames)
    with dask.config.set(scheduler="synchronous"):
        found = reduce_run(table, "scan", options=options).compute()
    agree(found, table, all_moved(table, frames), "scan")
    used = np.flatnonzero(is_good(table["status"].values)).tolist()
    assert set(used) <= set(source.frames_read())
    if chunk_frames == 1:
        # frames that are not good are left out before they are read
        assert source.frames_read() == used


def test_a_chunk_with_frames_of_many_groups_is_read_once(opened: xr.Dataset, logged: Any) -> None:
    options, source = logged(chunk_frames=10)
    with dask.config.set(scheduler="synchronous"):
        reduce_run(opened, "delay", options=options).compute()
    chunks = [c for start, stop in source.ranges() for c in range(start // 10, -(-stop // 10))]
    assert sorted(chunks) == list(range(6))


def test_schedulers_agree_to_the_last_bit(engine: str, opened: xr.Dataset, logged: Any) -> None:
    options, _ = logged()
    lazy = reduce_run(opened, "delay", ALL, "sum", options=options)
    with dask.config.set(scheduler="synchronous"):
        alone = lazy.compute(scheduler="synchronous")
    xr.testing.assert_identical(lazy.compute(), alone)


def test_two_builds_have_equal_names_and_other_requests_have_others(
    opened: xr.Dataset, logged: Any
) -> None:
    options, source = logged()
    requests: list[dict[str, Any]] = [
        {},
        {"by": "delay"},
        {"by": "scan"},
        {"normalise": "sum"},
        {"normalise": "intensity"},
        {"statistics": ("coverage", "mean", "median")},
    ]
    names = [
        [reduce_run(opened, options=options, **asked)["mean"].data.name for asked in requests]
        for _ in range(2)
    ]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(requests)
    nudged = opened.assign(shift=opened["shift"] + 1e-9)
    assert reduce_run(nudged, options=options)["mean"].data.name not in names[0]
    assert source.ranges() == []  # nothing was read to say all this


def test_a_median_is_numpys_in_however_many_bands(
    opened: xr.Dataset, frames: NDArray[Any], logged: Any
) -> None:
    table = whole(opened)
    row = 2 * 20 * 112 * 4
    for median_bytes in (96 * row, 30 * row, 7 * row):
        options, _ = logged(median_bytes=median_bytes)
        with dask.config.set(scheduler="synchronous"):
            found = reduce_run(table, "delay", "median", options=options).compute()
        values = all_moved(table, frames)
        for labels, chosen in groups(table, "delay"):
            group = found["median"].sel(labels)
            covered = np.isfinite(values[chosen]).any(axis=0)
            expected = np.full(covered.shape, np.nan)
            expected[covered] = np.nanmedian(values[chosen][:, covered], axis=0)
            np.testing.assert_array_equal(group, expected.astype("f4"))


def test_a_median_that_does_not_fit_is_refused_with_sizes_and_a_cure(
    opened: xr.Dataset, logged: Any
) -> None:
    options, source = logged(median_bytes=5 * 2 * 57 * 112 * 4)
    with pytest.raises(InputError, match=r"57 frames of 96 x 112 .* 4.9 MB.* 255 kB") as caught:
        reduce_run(opened, (), "median", options=options)
    assert "306 kB" in caught.value.cure
    assert "sigma-clipped" in caught.value.cure
    assert source.ranges() == []


def test_values_far_from_the_others_are_clipped_as_students_t_says(
    opened: xr.Dataset, frames: NDArray[Any], logged: Any
) -> None:
    table = whole(opened)
    options, _ = logged(clip_sigma=2.0)
    with dask.config.set(scheduler="synchronous"):
        found = reduce_run(table, "delay", "sigma_clipped_mean", options=options).compute()
    values = all_moved(table, frames)
    n_clipped = 0
    for labels, chosen in groups(table, "delay"):
        mine = values[chosen]
        kept = mine.copy()
        n = np.isfinite(mine).sum(axis=0)
        for i in range(len(mine)):
            others = np.delete(mine, i, axis=0)
            with np.errstate(all="ignore"):
                centre = np.nansum(others, axis=0) / (n - 1)
                spread = np.sqrt(np.nansum((others - centre) ** 2, axis=0) / (n - 2))
                t = (mine[i] - centre) / (spread * np.sqrt(n / (n - 1)))
                limit = -stats.t.ppf(stats.norm.cdf(-2.0), n - 2)
            kept[i][(n > 2) & (np.abs(t) > limit)] = np.nan
        count = np.isfinite(kept).sum(axis=0)
        n_clipped += int((n - count).sum())
        group = found.sel(labels)
        np.testing.assert_array_equal(group["sigma_clipped_coverage"], count)
        mean = np.where(count > 0, np.nansum(kept, axis=0) / np.maximum(count, 1), np.nan)
        np.testing.assert_allclose(group["sigma_clipped_mean"], mean, rtol=1e-12)
    # two sigma take out 4.6 % of Gaussian values; half a million were looked at
    assert 0.03 < n_clipped / np.isfinite(values).sum() < 0.07


def test_a_struck_pixel_is_clipped_even_from_four_frames(
    opened: xr.Dataset, frames: NDArray[Any], logged: Any, tmp_path: Path
) -> None:
    struck = frames.copy()
    struck[10, 50, 20] = 60_000
    np.save(tmp_path / "struck.npy", struck)
    options = ReductionOptions(source=open_source(tmp_path / "struck.npy"))
    status = np.full(60, int(Status.AMBIGUOUS), np.uint16)
    status[8:12] = 0
    table = whole(opened, np.zeros((60, 2))).assign(status=("frame", status))
    with dask.config.set(scheduler="synchronous"):
        found = reduce_run(table, (), ("mean", "sigma_clipped_mean"), options=options).compute()
    at = {"y": 50, "x": 20}
    assert int(found["coverage"].sel(at)) == 4
    assert int(found["sigma_clipped_coverage"].sel(at)) == 3
    expected = np.delete(struck[8:12, 50, 20].astype(float), 2).mean()
    assert float(found["sigma_clipped_mean"].sel(at)) == pytest.approx(expected)
    assert float(found["mean"].sel(at)) > 10_000


def test_equal_values_are_not_held_against_each_other(opened: xr.Dataset, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.full((60, 96, 112), 0.1, "f4"))
    options = ReductionOptions(source=open_source(tmp_path / "flat.npy"))
    table = whole(opened, np.zeros((60, 2)))
    with dask.config.set(scheduler="synchronous"):
        found = reduce_run(table, (), "sigma_clipped_mean", options=options).compute()
    np.testing.assert_array_equal(found["sigma_clipped_coverage"], found["coverage"])


# ------------------------------------------------------------------- against the truth


def test_the_mean_is_the_scene_and_drift_fills_in_what_the_beam_block_hides(
    stored_run: Path, simulated: SimulatedStack, frames: NDArray[Any], logged: Any
) -> None:
    table = open_run(stored_run)
    good = np.flatnonzero(is_good(table["status"].values))
    # at the true shifts, so that the scene is where the formula has it, to the last hundredth
    shift = np.where(np.isnan(simulated.shift), 0.0, simulated.shift)
    table = table.assign(shift=(("frame", "axis"), shift))
    options, _ = logged()
    # of known brightness: what is left is counting noise
    table = table.assign_coords(brightness=("frame", simulated.intensity))
    with dask.config.set(scheduler="threads"):
        found = reduce_run(table, normalise="brightness", options=options).compute()
    scale = simulated.intensity[good].mean()
    expected = simulated.scene.expected() * scale
    hidden = ~beam_block_valid((96, 112))
    filled = hidden & (found["coverage"].values >= 5)
    assert filled.sum() > 150
    assert (found["coverage"].values[filled] < len(good)).all()
    for where in (filled, ~hidden & (found["coverage"].values == len(good))):
        pull = ((found["mean"].values - expected) / found["standard_error"].values)[where]
        # the error bars of a few frames are themselves uncertain: Student's t is wider
        n = found["coverage"].values[where]
        width = np.sqrt(((n - 1) / np.maximum(n - 3, 1)).mean())
        # 150 pixels or more: a width is known to 6 %, and neighbours are a little alike
        assert 0.8 < pull.std() / width < 1.2
        assert abs(pull.mean()) < 5 / np.sqrt(where.sum() / 2)
    raw = frames[good].mean(axis=0)
    # where the mean of raw frames shows the block's shadow, this one shows the scene
    assert (
        np.abs(raw - expected)[filled].mean()
        > 5 * np.abs(found["mean"] - expected).values[filled].mean()
    )


# ------------------------------------------------------------------- normalisation


def shared_by_all(table: xr.Dataset) -> NDArray[np.bool_]:
    """Pixels that count in the reference, and in frames wherever the drift's range takes them."""
    good = is_good(table["status"].values)
    low, high = (f(table["shift"].values[good], axis=0).astype(int) for f in (np.min, np.max))
    area = table["reference_valid"].values.astype(bool)
    ones = np.ones(area.shape)
    for dy in range(low[0], high[0] + 1):
        for dx in range(low[1], high[1] + 1):
            area &= np.isfinite(moved(ones, table["valid"].values, (dy, dx)))
    return area


def test_frames_are_divided_by_their_sum_over_the_area_that_all_share(
    opened: xr.Dataset, frames: NDArray[Any], simulated: SimulatedStack, logged: Any
) -> None:
    table = whole(opened)
    options, _ = logged()
    with dask.config.set(scheduler="synchronous"):
        found = reduce_run(table, "delay", ALL, "sum", options=options).compute()
    values, area = all_moved(table, frames), shared_by_all(table)
    reference = table["reference"].values.astype(np.float64)
    factor = values[:, area].sum(axis=1) / reference[area].sum()
    agree(found, table, values / factor[:, None, None], "delay")
    for labels, chosen in groups(table, "delay"):
        mine = factor[chosen & np.isfinite(factor)]
        group = found.sel(labels)
        assert float(group["normalisation"]) == pytest.approx(mine.mean(), rel=1e-9)
        assert float(group["normalisation_spread"]) == pytest.approx(mine.std(ddof=1), rel=1e-9)
    # thousands of pixels of 60 counts tell a frame's brightness to a fraction of a per cent
    good = np.isfinite(factor)
    ratio = factor[good] / simulated.intensity[good]
    assert ratio.std() / ratio.mean() < 0.01


def test_a_division_by_the_sum_takes_the_beams_fluctuation_out_of_the_error(
    opened: xr.Dataset, logged: Any
) -> None:
    options, _ = logged()
    with dask.config.set(scheduler="synchronous"):
        plain, summed = (
            reduce_run(opened, normalise=how, options=options).compute() for how in ("none", "sum")
        )
    bright = (plain["mean"] > 60) & (plain["coverage"] == plain["coverage"].max())
    # frames differ by 20 %, counting noise of 60 counts and more is 13 % or less
    relative = [
        float((found["variance"] ** 0.5 / found["mean"]).where(bright).mean())
        for found in (plain, summed)
    ]
    assert relative[0] > 0.2
    assert relative[1] < 0.14


def test_a_fitted_intensity_divides_as_it_is(
    opened: xr.Dataset, frames: NDArray[Any], logged: Any
) -> None:
    table = whole(opened)
    options, _ = logged()
    with dask.config.set(scheduler="synchronous"):
        found = reduce_run(table, "scan", normalise="intensity", options=options).compute()
    intensity = table["intensity"].values.astype(np.float64)
    agree(found, table, all_moved(table, frames) / intensity[:, None, None], "scan")


@pytest.mark.usefixtures("few_pieces")
def test_a_monitor_divides_relative_to_its_mean_and_its_gaps_are_left_out_and_counted(
    opened: xr.Dataset, frames: NDArray[Any], logged: Any
) -> None:
    monitor = np.linspace(2.0, 6.0, 60)
    monitor[[2, 8]] = np.nan
    monitor[11], monitor[12], monitor[4] = 0.0, -3.0, np.inf
    table = whole(opened).assign_coords(monitor=("frame", monitor))
    options, _ = logged()
    with dask.config.set(scheduler="synchronous"):
        found = reduce_run(table, "delay", normalise="monitor", options=options).compute()
    used = is_good(table["status"].values) & np.isfinite(monitor) & (monitor > 0)
    factor = np.where(used, monitor / monitor[used].mean(), np.nan)
    agree(found, table, all_moved(table, frames) / factor[:, None, None], "delay")
    assert int(found["n_frames"].sum()) == used.sum() == found.attrs["frames_used"]
    # the blank frame 4 is counted once, as not good
    assert found.attrs["frames_left_out_because"] == {
        "not good": 3,
        "monitor is not a positive number": 4,
    }


def test_a_frame_that_sums_to_nothing_is_left_out_and_counted(
    opened: xr.Dataset, frames: NDArray[Any], tmp_path: Path
) -> None:
    dark = frames.astype("f4")
    dark[20] = -1.0
    np.save(tmp_path / "dark.npy", dark)
    options = ReductionOptions(source=open_source(tmp_path / "dark.npy"))
    table = whole(opened)
    with dask.config.set(scheduler="synchronous"):
        found = reduce_run(table, "delay", ("mean", "median"), "sum", options=options).compute()
    assert found["n_dark"].values.tolist() == [0, 0, 1]
    values, area = all_moved(table, dark), shared_by_all(table)
    factor = values[:, area].sum(axis=1) / table["reference"].values[area].sum(dtype=float)
    values[20] = np.nan
    truth = Averages((values / factor[:, None, None])[2::3])
    np.testing.assert_array_equal(found["coverage"][2], truth.coverage)
    np.testing.assert_allclose(found["mean"][2], truth.mean, rtol=1e-12)
    assert int(found["n_frames"].sum()) == found.attrs["frames_used"] - 1


def test_frames_that_share_no_area_cannot_be_normalised_by_their_sums(opened: xr.Dataset) -> None:
    shift = np.zeros((60, 2))
    shift[::2] = 60.0
    shift[1::2] = -60.0
    with pytest.raises(InputError, match=r"share no valid pixel.*-60 to 60 px") as caught:
        reduce_run(whole(opened, shift), normalise="sum")
    assert "intensity" in caught.value.cure


# ------------------------------------------------------------------- which frames


def test_frames_without_a_label_are_left_out_and_counted(opened: xr.Dataset, logged: Any) -> None:
    delay = opened["delay"].values.copy()
    delay[[0, 3, 5]] = np.nan
    table = opened.assign_coords(delay=("frame", delay))
    found = reduce_run(table, "delay", options=logged()[0])
    assert found.attrs["frames_left_out_because"] == {"not good": 3, "no value of delay": 3}
    assert found["delay"].values.tolist() == [-0.5, 0.0, 0.5]


def test_a_group_of_one_frame_has_a_mean_and_no_error(opened: xr.Dataset, logged: Any) -> None:
    options, _ = logged()
    with dask.config.set(scheduler="synchronous"):
        found = reduce_run(opened, "number", options=options).isel(number=[0, 5]).compute()
    assert found["n_frames"].values.tolist() == [1, 1]
    assert np.isfinite(found["mean"]).mean() > 0.7
    assert np.isnan(found["variance"]).all()
    assert np.isnan(found["standard_error"]).all()
    assert set(np.unique(found["coverage"])) == {0, 1}


def test_labels_that_no_frame_has_together_make_a_group_of_nothing(
    engine: str, opened: xr.Dataset, logged: Any
) -> None:
    table = opened.assign_coords(pumped=("frame", opened["scan"].values == "first"))
    found = reduce_run(table, ["pumped", "scan"], options=logged()[0]).compute()
    assert (found["n_frames"].sel(pumped=True) > 0).values.tolist() == [True, False]
    empty = found.sel(pumped=True, scan="second")
    assert np.isnan(empty["mean"]).all()
    assert (empty["coverage"] == 0).all()


def test_times_are_labels_too(opened: xr.Dataset, logged: Any) -> None:
    hours: Any = np.datetime64("2026-03-01T00", "ns") + np.arange(60) // 30 * np.timedelta64(1, "h")
    hours[7] = np.datetime64("NaT")
    table = opened.assign_coords(hour=("frame", hours))
    found = reduce_run(table, "hour", options=logged()[0])
    assert found["hour"].values.tolist() == [hours[0].item(), hours[-1].item()]
    assert found.attrs["frames_left_out_because"]["no value of hour"] == 1


def test_bits_that_were_set_in_the_status_leave_frames_out(opened: xr.Dataset, logged: Any) -> None:
    status = opened["status"].values.copy()
    status[10:20] |= int(Status.EXCLUDED | Status.NOT_CONVERGED)
    options, source = logged()
    with dask.config.set(scheduler="synchronous"):
        reduce_run(opened.assign(status=("frame", status)), options=options).compute()
    assert not set(range(10, 20)) & set(source.frames_read())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"by": "temperature"}, "no per-frame coordinate 'temperature'.*delay.*scan"),
        ({"by": "reference"}, "no per-frame coordinate 'reference'"),
        ({"by": ["delay", "delay"]}, "cannot be grouped by delay, delay"),
        ({"by": "x"}, "cannot be grouped by x"),
        ({"statistics": "average"}, "no statistic average.*sigma_clipped_mean"),
        ({"statistics": ()}, "No statistic"),
        ({"normalise": "monitor"}, "no per-frame coordinate 'monitor'"),
        ({"normalise": "scan"}, "normalised by scan, which holds"),
        ({"normalise": "frame"}, "by their numbers"),
        ({"options": ReductionOptions(clip_sigma=0.0)}, "clip_sigma is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    opened: xr.Dataset, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        reduce_run(opened, **asked)


def test_a_run_without_good_frames_is_refused(opened: xr.Dataset) -> None:
    status = np.full(60, int(Status.BLANK), np.uint16)
    with pytest.raises(InputError, match=r"None of 60 frames is left .*60 of them: not good"):
        reduce_run(opened.assign(status=("frame", status)))


def test_a_dataset_of_some_frames_is_refused(opened: xr.Dataset) -> None:
    with pytest.raises(InputError, match=r"has 10 frames, and the run .* has 60") as caught:
        reduce_run(opened.isel(frame=slice(10)))
    assert "status" in caught.value.cure


def test_a_dataset_of_no_run_is_refused(opened: xr.Dataset) -> None:
    with pytest.raises(InputError, match="does not know the run"):
        reduce_run(opened.drop_encoding())


# ------------------------------------------------------------------- what comes of it


def test_two_reductions_merge_to_the_one_of_all_frames(opened: xr.Dataset, logged: Any) -> None:
    options, _ = logged()
    with dask.config.set(scheduler="synchronous"):
        apart = reduce_run(opened, "scan", options=options).compute()
        together = reduce_run(opened, options=options).compute()
    parts = [
        Moments.of_summary(part["coverage"].values, part["mean"].values, part["variance"].values)
        for part in (apart.isel(scan=0), apart.isel(scan=1))
    ]
    merged = merge_moments(*parts)
    np.testing.assert_array_equal(merged.coverage, together["coverage"])
    np.testing.assert_allclose(merged.covered_mean, together["mean"], rtol=1e-12)
    np.testing.assert_allclose(merged.variance, together["variance"], rtol=1e-9, atol=1e-9)


def test_attributes_say_what_it_was_made_of(opened: xr.Dataset, stored_run: Path) -> None:
    found = reduce_run(opened, "delay", normalise="intensity")
    run_attrs = open_run(stored_run).attrs
    assert found.attrs["run_digest"].startswith(run_attrs["config_digest"])
    assert run_attrs["source_fingerprint"] in found.attrs["run_digest"]
    assert found.attrs["by"] == ["delay"]
    assert found.attrs["normalisation"] == "intensity"
    assert found.attrs["versions"]["stillstack"]
    assert found["delay"].attrs == {"units": "ps"}
    assert found["mean"].attrs["units"] == "count"


def test_memory_does_not_grow_with_the_number_of_groups(
    stored_run: Path, opened: xr.Dataset, tmp_path: Path
) -> None:
    def peak(by: str, place: Path) -> int:
        tracemalloc.start()
        try:
            with dask.config.set(scheduler="synchronous"):
                reduce_run(opened, by, output=place, options=ReductionOptions(durable=False))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak("scan", tmp_path / "warm.zarr")
    few, many = peak("scan", tmp_path / "few.zarr"), peak("number", tmp_path / "many.zarr")
    state = 20 * 96 * 112
    # all of 57 groups' sums would be 55 states more
    assert many - few < 8 * state
