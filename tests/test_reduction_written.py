"""A reduction on the disk: resumed group by group, the same however it came about, never mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import distributed
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from reduced import LoggedSource, agree, all_moved, config_of, whole, with_labels
from stillstack.cli import app
from stillstack.errors import InputError, RunFaultError
from stillstack.reduction import ReductionOptions, reduce_run
from stillstack.run import open_run, run
from stillstack.simulation import simulate_stack
from stillstack.sources import open_source
from stillstack.storage import ReductionStore, digest_store, lock_run, open_reduction
from stillstack.verification import verify_store

N_FRAMES = 24


@pytest.fixture(scope="module")
def stored_run(local_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small simulated Zarr stack with a delay and a scan, without aligned frames."""
    folder = tmp_path_factory.mktemp("written")
    simulated = simulate_stack(N_FRAMES, (64, 72), seed=3, drift_px=3.0, planted={"blank": (5,)})
    frames = simulated.read(0, N_FRAMES)
    np.save(folder / "frames.npy", frames)
    number = np.arange(N_FRAMES)
    xr.Dataset(
        {"frames": (("frame", "y", "x"), frames)},
        coords={
            "delay": ("frame", number % 4 * 0.25),
            "scan": ("frame", 1 + number // 12),
            "monitor": ("frame", np.where(number == 7, 0.0, 1.0 + number / 50)),
        },
    ).to_zarr(
        folder / "frames.zarr", encoding={"frames": {"chunks": (1, 64, 72)}}, consolidated=False
    )
    make_client: Any = distributed.Client  # not typed
    with make_client(local_cluster, set_as_default=True):
        run(config_of(simulated, folder / "frames.zarr", folder / "run.zarr"))
    return folder / "run.zarr"


@pytest.fixture
def logged(stored_run: Path, tmp_path: Path) -> Callable[..., tuple[ReductionOptions, Any]]:
    def use(**more: Any) -> tuple[ReductionOptions, LoggedSource]:
        inner = open_source(stored_run.parent / "frames.zarr")
        source = LoggedSource(inner, str(tmp_path / "reads.txt"))
        return ReductionOptions(source=source, durable=False, **more), source

    return use


def group_numbers(run_path: Path, delay: float) -> list[int]:
    found = open_run(run_path)
    good = (found["status"].values & 0xFF) == 0
    return np.flatnonzero(good & (found["delay"].values == delay)).tolist()


def test_what_is_written_is_what_numpy_makes(
    engine: str, stored_run: Path, logged: Any, tmp_path: Path
) -> None:
    table = whole(open_run(stored_run))
    options, _ = logged()
    found = reduce_run(table, ["delay", "scan"], output=tmp_path / "out.zarr", options=options)
    frames = np.load(stored_run.parent / "frames.npy")
    agree(found.load(), table, all_moved(table, frames), "delay", "scan")
    assert found["mean"].dims == ("delay", "scan", "y", "x")
    assert found.attrs["complete"] is True
    plain = xr.open_zarr(tmp_path / "out.zarr")
    xr.testing.assert_identical(plain.load(), found)


def test_the_lazy_and_the_written_one_are_the_same(
    stored_run: Path, logged: Any, tmp_path: Path
) -> None:
    options, _ = logged()
    asked: dict[str, Any] = {
        "by": "scan",
        "statistics": ("mean", "variance", "median", "sigma_clipped_mean"),
        "normalise": "monitor",
        "options": options,
    }
    with dask.config.set(scheduler="synchronous"):
        lazy = reduce_run(stored_run, **asked).compute()
        written = reduce_run(stored_run, output=tmp_path / "out.zarr", **asked).load()
    assert set(lazy) == set(written)
    for name in lazy.variables:
        np.testing.assert_array_equal(lazy[name], written[name])
        assert lazy[name].dtype.kind == written[name].dtype.kind
    assert lazy.attrs.items() <= written.attrs.items()
    assert written.attrs["frames_left_out_because"]["monitor is not a positive number"] == 1


def test_a_reduction_that_was_stopped_goes_on_and_ends_the_same(
    engine: str, stored_run: Path, logged: Any, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, total: int, resumed: int) -> None:
        if done > 10:
            raise StoppedError

    undisturbed, place = tmp_path / "undisturbed.zarr", tmp_path / "out.zarr"
    options, source = logged()
    reduce_run(stored_run, "delay", output=undisturbed, options=options)
    all_read = source.frames_read()
    Path(source.log).unlink()

    stopped, _ = logged(on_frames=stop)
    with pytest.raises(StoppedError):
        reduce_run(stored_run, "delay", output=place, options=stopped)
    done = ReductionStore.view(place).done_blocks("reduce")
    assert 2 <= len(done) < 4
    assert open_reduction(place).attrs["complete"] is False

    Path(source.log).unlink()
    told: list[tuple[int, int, int]] = []
    options, _ = logged(on_frames=lambda *now: told.append(now))
    reduce_run(stored_run, "delay", output=place, options=options)
    finished = [n for group in done for n in group_numbers(stored_run, group * 0.25)]
    assert source.frames_read() == sorted(set(all_read) - set(finished))
    assert told[0] == (len(finished), N_FRAMES - 1, len(finished))
    assert told[-1] == (N_FRAMES - 1, N_FRAMES - 1, len(finished))
    assert digest_store(place) == digest_store(undisturbed)

    Path(source.log).unlink()
    reduce_run(stored_run, "delay", output=place, options=logged()[0])
    assert source.ranges() == []


def test_damage_is_found_and_only_that_group_is_made_again(
    stored_run: Path, logged: Any, tmp_path: Path
) -> None:
    place = tmp_path / "out.zarr"
    options, source = logged()
    with dask.config.set(scheduler="synchronous"):
        reduce_run(stored_run, "delay", output=place, options=options)
        before = digest_store(place)
        assert verify_store(place).sound
        chunk = next((place / "variance" / "c" / "2").rglob("0"))
        damaged = bytearray(next(p for p in [chunk, *chunk.rglob("*")] if p.is_file()).read_bytes())
        damaged[40] ^= 4
        next(p for p in [chunk, *chunk.rglob("*")] if p.is_file()).write_bytes(damaged)
        found = verify_store(place)
        assert [block.block for block in found.damaged] == [2]
        assert found.taken_back
        Path(source.log).unlink()
        reduce_run(stored_run, "delay", output=place, options=options)
    assert source.frames_read() == group_numbers(stored_run, 0.5)
    assert digest_store(place) == before


def test_labels_of_every_kind_are_read_back(stored_run: Path, logged: Any, tmp_path: Path) -> None:
    day = np.datetime64("2026-03-01T00", "ns") + np.arange(24) // 8 * np.timedelta64(1, "D")
    table = with_labels(open_run(stored_run)).assign_coords(
        day=("frame", day), pumped=("frame", np.arange(24) % 2 == 0)
    )
    by = ["scan", "day", "pumped"]
    with dask.config.set(scheduler="synchronous"):
        found = reduce_run(table, by, output=tmp_path / "out.zarr", options=logged()[0])
    assert found["scan"].values.tolist() == ["first", "second"]
    np.testing.assert_array_equal(found["day"], np.unique(day))
    assert found["pumped"].values.tolist() == [False, True]
    # frame 5 is blank; the second scan has no frame of the first day
    assert found["n_frames"].values[:, :, 0].tolist() == [[3, 2, 0], [0, 2, 4]]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"by": "scan"}, "by: .*scan"),
        ({"normalise": "sum"}, 'normalise: "none" there, "sum" now'),
        ({"statistics": ("mean",)}, "statistics: "),
    ],
)
def test_a_store_of_another_reduction_is_left_alone(
    stored_run: Path, logged: Any, tmp_path: Path, other: dict[str, Any], words: str
) -> None:
    place = tmp_path / "out.zarr"
    options, _ = logged()
    with dask.config.set(scheduler="synchronous"):
        reduce_run(stored_run, "delay", output=place, options=options)
        before = digest_store(place)
        with pytest.raises(InputError, match=words):
            reduce_run(stored_run, **{"by": "delay", **other}, output=place, options=options)
    assert digest_store(place) == before


def test_shifts_that_were_edited_make_another_reduction(
    stored_run: Path, logged: Any, tmp_path: Path
) -> None:
    place, table = tmp_path / "out.zarr", open_run(stored_run)
    options, _ = logged()
    with dask.config.set(scheduler="synchronous"):
        reduce_run(table, output=place, options=options)
        with pytest.raises(InputError, match="belongs to something else"):
            reduce_run(table.assign(shift=table["shift"] + 0.1), output=place, options=options)


def test_a_run_is_no_place_for_its_reduction(stored_run: Path, logged: Any) -> None:
    before = digest_store(stored_run)
    with pytest.raises(InputError, match="does not hold a stillstack reduction"):
        reduce_run(stored_run, output=stored_run, options=logged()[0])
    assert digest_store(stored_run) == before


def test_a_reduction_that_something_else_writes_is_refused(
    stored_run: Path, logged: Any, tmp_path: Path
) -> None:
    with (
        lock_run(tmp_path / "out.zarr"),
        pytest.raises(InputError, match="is being written by process"),
    ):
        reduce_run(stored_run, output=tmp_path / "out.zarr", options=logged()[0])


def test_only_a_reduction_opens_as_one(stored_run: Path, tmp_path: Path) -> None:
    for place in (stored_run, tmp_path / "nothing.zarr"):
        with pytest.raises(InputError, match="is not a reduction"):
            open_reduction(place)


@pytest.mark.usefixtures("cluster_client")
def test_what_goes_wrong_with_a_frame_is_said_and_done_groups_are_kept(
    stored_run: Path, logged: Any, tmp_path: Path
) -> None:
    table = open_run(stored_run)
    shift = table["shift"].values.copy()
    shift[3] = 1e30  # no frame moves so far; the resampler answers, and all of it is NaN
    options, _ = logged()
    found = reduce_run(
        table.assign(shift=(("frame", "axis"), shift)),
        "delay",
        output=tmp_path / "out.zarr",
        options=options,
    )
    # it counts as a frame, and nowhere as a pixel
    assert int(found["n_frames"].sel(delay=0.75)) == 6
    assert int(found["coverage"].sel(delay=0.75).max()) == 5


def test_an_unreadable_frame_stops_the_reduction_and_the_same_call_goes_on(
    stored_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = open_source(stored_run.parent / "frames.zarr")
    source = LoggedSource(inner, str(tmp_path / "reads.txt"))
    options = ReductionOptions(source=source, durable=False)
    place = tmp_path / "out.zarr"
    broken = {"broken": True}

    def read(self: LoggedSource, start: int, stop: int) -> Any:
        if broken["broken"] and start == 6:
            raise RunFaultError("The disk is not there.")
        return self.inner.read(start, stop)

    monkeypatch.setattr(LoggedSource, "read", read)
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(RunFaultError, match="disk is not there"):
            reduce_run(stored_run, "delay", output=place, options=options)
        assert len(ReductionStore.view(place).done_blocks("reduce")) == 2
        broken["broken"] = False
        assert reduce_run(stored_run, "delay", output=place, options=options).attrs["complete"]


# ------------------------------------------------------------------- the command


def test_the_command_writes_what_the_function_gives(
    cluster_client: Any, stored_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "delays.zarr"
    arguments = ["reduce", stored_run, "--by", "delay", "--by", "scan", "--statistic", "mean"]
    arguments += ["--normalise", "monitor", "--out", out]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "8 (4 of delay, 2 of scan), 2 to 3 frames in each" in result.stdout
    assert "1 frames were left out: monitor is not a positive number." in result.stderr
    expected = reduce_run(stored_run, ["delay", "scan"], "mean", "monitor").compute()
    found = open_reduction(out).load()
    assert set(found) == {"mean", "coverage", "n_frames", "n_dark", "normalisation",
                          "normalisation_spread"}  # fmt: skip
    np.testing.assert_array_equal(found["mean"], expected["mean"])
    again = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    told = json.loads(again.stdout)
    assert told["by"] == {"delay": 4, "scan": 2}
    assert told["frames_used"] == 22
    assert told["output"] == str(out)


def test_the_command_says_what_is_wrong(stored_run: Path, tmp_path: Path) -> None:
    arguments = ["reduce", stored_run, "--by", "temperature", "--out", tmp_path / "out.zarr"]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2
    assert "no per-frame coordinate 'temperature'" in result.stderr
    assert "delay" in result.stderr
    assert not (tmp_path / "out.zarr").exists()


def test_groups_of_few_frames_are_pointed_out(
    cluster_client: Any, stored_run: Path, tmp_path: Path
) -> None:
    arguments = ["reduce", stored_run, "--by", "monitor", "--out", tmp_path / "out.zarr"]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "23 groups have one frame only: no variance and no error" in result.stdout


# ------------------------------------------------------------------- the virtual aligned stack


def test_opening_reads_no_pixel_and_one_frame_reads_one_block(
    stored_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = open_source(stored_run.parent / "frames.zarr")
    source = LoggedSource(inner, str(tmp_path / "reads.txt"))
    monkeypatch.setattr("stillstack.reduction.virtual.source_of", lambda _: source)
    monkeypatch.setattr("stillstack.sources.stack._DEFAULT_CHUNK_BYTES", 2 * 64 * 72 * 2)
    opened = open_run(stored_run)
    assert opened["aligned"].dims == ("frame", "y", "x")
    assert opened["aligned"].dtype == np.float32
    assert source.ranges() == []
    with dask.config.set(scheduler="synchronous"):
        opened["aligned"].isel(frame=9).load()
    assert source.ranges() == [(8, 10)]


def test_the_virtual_stack_is_the_one_that_would_have_been_written(
    cluster_client: Any, engine: str, stored_run: Path, tmp_path: Path
) -> None:
    virtual = open_run(stored_run)
    config = dict(virtual.attrs["config"])
    config["output"] = {"path": str(tmp_path / "written.zarr"), "aligned": True}
    config["alignment"] = {"dtype": "float32"}
    written = run(config)
    np.testing.assert_array_equal(virtual["aligned"], written["aligned"])
    np.testing.assert_array_equal(virtual["delay"], written["delay"])
    assert np.isnan(virtual["aligned"][5]).all()
    mean = reduce_run(stored_run)["mean"].compute()
    # single precision, of 23 frames
    np.testing.assert_allclose(
        mean, virtual["aligned"].astype("f8").mean("frame", skipna=True), rtol=1e-12
    )


@pytest.mark.parametrize("what", ["gone", "changed", "shorter"])
def test_a_run_whose_raw_frames_are_gone_opens_and_says_what_is_missing(
    cluster_client: Any, stored_run: Path, tmp_path: Path, what: str
) -> None:
    simulated = simulate_stack(8, (64, 72), seed=3, drift_px=3.0, planted=False)
    np.save(tmp_path / "frames.npy", simulated.read(0, 8))
    run(config_of(simulated, tmp_path / "frames.npy", tmp_path / "run.zarr"))
    if what == "gone":
        (tmp_path / "frames.npy").rename(tmp_path / "elsewhere.npy")
    else:
        length = 8 if what == "changed" else 5
        np.save(tmp_path / "frames.npy", np.zeros((length, 64, 72), "u2"))
    opened = open_run(tmp_path / "run.zarr")
    assert np.isfinite(opened["shift"]).all()
    assert opened["aligned"].shape == (8, 64, 72)
    words = {"gone": "not at .*frames.npy any more", "changed": "have changed since",
             "shorter": r"has the shape \(5, 64, 72\)"}  # fmt: skip
    with pytest.raises(InputError, match=words[what]) as caught:
        opened["aligned"][3].compute(scheduler="synchronous")
    assert "ring" in caught.value.cure
    with pytest.raises(InputError, match=words[what]):
        reduce_run(opened)
    if what == "gone":
        moved = ReductionOptions(source=open_source(tmp_path / "elsewhere.npy"))
        assert int(reduce_run(opened, options=moved)["coverage"].max()) == 8


def test_labels_may_be_added_to_a_virtual_stack(stored_run: Path) -> None:
    labelled = with_labels(open_run(stored_run))
    one = labelled["aligned"].isel(frame=labelled["number"].values == 3)
    assert one.shape == (1, 64, 72)
