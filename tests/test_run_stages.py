"""Runs of several passes: groups of frames, a trajectory, shifts that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.typing import NDArray

from stillstack.config import config_digest, make_config
from stillstack.errors import InputError
from stillstack.execute import Progress
from stillstack.given import save_shifts
from stillstack.kernels.resampling import resample_frame
from stillstack.layout import stages_of
from stillstack.model import Status, is_good
from stillstack.run import open_run, run
from stillstack.simulation import SimulatedStack, simulate_stack
from stillstack.storage import RunStore
from stillstack.storage.notes import SET_ASIDE_NOTE
from stillstack.verification import verify_store
from stores import stored

pytestmark = pytest.mark.usefixtures("cluster_client")


@pytest.fixture(scope="module")
def stack_path(small_stack: SimulatedStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small stack as Zarr, with times, and delays that change from frame to frame."""
    path = tmp_path_factory.mktemp("frames") / "frames.zarr"
    n_frames = len(small_stack)
    frames = xr.DataArray(
        small_stack.read(0, n_frames),
        dims=("frame", "y", "x"),
        coords={
            "time": ("frame", 2.0 * np.arange(n_frames)),
            "delay": ("frame", np.arange(n_frames) % 3 * 0.5),
        },
    )
    frames.to_dataset(name="frames").to_zarr(path, zarr_format=3, consolidated=False)
    return path


@pytest.fixture
def config(small_config: dict[str, Any], stack_path: Path) -> dict[str, Any]:
    return {**small_config, "input": {"path": str(stack_path), "variable": "frames"}}


_NEW_SECTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"trajectory": {}},
    {"groups": {"by": "delay"}},
)


def errors(found: xr.Dataset, stack: SimulatedStack) -> NDArray[np.float64]:
    """Errors of good frames' shifts, the mean taken off: the origin is a convention."""
    error = (found["shift"].values - stack.shift)[is_good(found["status"].values)]
    assert np.isfinite(error).all()
    centred: NDArray[np.float64] = error - error.mean(axis=0)
    return centred


def test_frames_of_each_group_have_a_reference_of_their_own(
    config: dict[str, Any], small_stack: SimulatedStack
) -> None:
    found = run({**config, "groups": {"by": "delay"}})
    assert found["group"].values.tolist() == ["template", "0.0", "0.5", "1.0"]
    assert found["group_index"].values.tolist() == [1 + i % 3 for i in range(len(small_stack))]
    assert found["reference"].dims == ("group", "y", "x")
    # single frames are good to 0.015 px, and each group's origin to a fifth of that
    assert errors(found, small_stack).std() < 0.02
    for delay in np.unique(found["delay"].values):
        of_group = found.isel(frame=found["delay"].values == delay)
        good = is_good(of_group["status"].values)
        numbers = np.flatnonzero(found["delay"].values == delay)[good]
        offset = of_group["shift"].values[good] - small_stack.shift[numbers]
        whole = found["shift"].values - small_stack.shift
        whole = whole[is_good(found["status"].values)]
        assert np.abs(offset.mean(axis=0) - whole.mean(axis=0)).max() < 0.02


def test_bad_frames_are_bad_in_groups_too(
    config: dict[str, Any], small_stack: SimulatedStack
) -> None:
    found = run({**config, "groups": {"keyframe_frames": 20}})
    bad = np.flatnonzero(~is_good(found["status"].values))
    assert bad.tolist() == list(small_stack.rejects)
    assert np.isnan(found["shift"].values[bad]).all()


def test_a_frame_that_cannot_be_read_is_named_by_its_own_number(
    config: dict[str, Any], small_stack: SimulatedStack, tmp_path: Path
) -> None:
    n_frames, path = len(small_stack), tmp_path / "torn.zarr"
    frames = xr.DataArray(
        small_stack.read(0, n_frames),
        dims=("frame", "y", "x"),
        coords={"delay": ("frame", np.arange(n_frames) % 3 * 0.5)},
    )
    frames.to_dataset(name="frames").to_zarr(
        path, zarr_format=3, consolidated=False, encoding={"frames": {"chunks": (1, 128, 128)}}
    )
    chunk = path / "frames" / "c" / "31" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:50])
    settings = {**config, "input": {"path": str(path), "variable": "frames"}}
    # group by group, frame 31 is read as the eleventh of the second group
    found = run({**settings, "groups": {"by": "delay"}})
    assert found["status"].values[31] & Status.UNREADABLE
    assert np.flatnonzero(found["status"].values & Status.UNREADABLE).tolist() == [31]
    note = RunStore.view(settings["output"]["path"]).read_note(SET_ASIDE_NOTE)
    assert list(note) == ["31"]


def test_aligned_frames_of_groups_are_those_of_their_shifts(
    config: dict[str, Any], small_stack: SimulatedStack
) -> None:
    found = run({**config, "groups": {"by": "delay"}, "alignment": {"dtype": "float32"}})
    number = int(np.flatnonzero(found["status"].values == 0)[7])
    aligned = found["aligned"][number].values
    again = resample_frame(
        small_stack.frame(number),
        found["shift"].values[number],
        valid=found["valid"].values,
        dtype=np.dtype("f4"),
    )
    np.testing.assert_array_equal(aligned, again.image)


def test_a_trajectory_takes_outliers_out_and_keeps_what_was_estimated(
    config: dict[str, Any], small_stack: SimulatedStack
) -> None:
    plain = run({**config, "output": {**config["output"], "path": config["output"]["path"] + "1"}})
    found = run({**config, "trajectory": {"smooth": True}})
    np.testing.assert_array_equal(found["shift_raw"].values, plain["shift"].values)
    np.testing.assert_array_equal(found["status_raw"].values, plain["status"].values)
    good = is_good(found["status"].values)
    assert not np.array_equal(found["shift"].values[good], plain["shift"].values[good])
    # jitter of 0.3 px is real: at this dose smoothing takes next to nothing away
    assert errors(found, small_stack).std() < 1.02 * errors(plain, small_stack).std()
    account = found.attrs["trajectory"]
    assert 0.2 < account["jitter_std"][0] < 0.4
    assert account["jumps"] == []


def test_an_outlier_loses_its_shift_and_is_repaired_only_where_that_is_asked_for(
    config: dict[str, Any], small_stack: SimulatedStack, tmp_path: Path
) -> None:
    frames = small_stack.read(0, len(small_stack))
    frames[30] = np.roll(frames[30], 9, axis=0)
    np.save(tmp_path / "shaken.npy", frames)
    settings = {**config, "input": {"path": str(tmp_path / "shaken.npy")}}
    found = run({**settings, "trajectory": {}})
    assert found["status"].values[30] & Status.OUTLIER
    assert not is_good(found["status"].values[30])
    assert np.isnan(found["aligned"][30].values).all()
    assert is_good(found["status_raw"].values[30])
    stepped = found["shift_raw"].values[30] - found["shift_raw"].values[[29, 31]].mean(axis=0)
    assert -10.5 < stepped[0] < -7.5

    output = {**config["output"], "path": str(tmp_path / "repaired.zarr")}
    repaired = run({**settings, "output": output, "trajectory": {"repair": True}})
    status = repaired["status"].values
    assert np.flatnonzero(status & Status.REPAIRED).tolist() == [30]
    assert is_good(status[30])
    assert not is_good(status[list(small_stack.rejects)]).any()
    # what was cleared is within the jitter of its neighbours again, and its bar says so
    away = repaired["shift"].values[30] - small_stack.shift[30]
    away -= np.median((repaired["shift"].values - small_stack.shift)[is_good(status)], axis=0)
    assert np.abs(away).max() < 4 * 0.37
    assert 0.2 < repaired["shift_std"].values[30].max() < 0.6
    assert np.isfinite(repaired["aligned"][30].values).any()


@pytest.mark.parametrize(
    "sections",
    [
        {"groups": {"by": "delay"}, "trajectory": {"repair": True}},
        {"groups": {"keyframe_frames": 25}, "output": {"aligned": False}},
        {"trajectory": {"smooth": True}, "alignment": {"canvas": "common"}},
    ],
    ids=["groups and trajectory", "keyframes, shifts alone", "trajectory, common canvas"],
)
def test_a_run_that_was_cut_off_comes_to_the_same_store(
    config: dict[str, Any], sections: dict[str, Any], tmp_path: Path
) -> None:
    def settings(name: str) -> dict[str, Any]:
        output = {**config["output"], **sections.get("output", {}), "path": str(tmp_path / name)}
        return {**config, **sections, "output": output}

    run(settings("whole.zarr"))
    whole = stored(tmp_path / "whole.zarr")
    n_stages = len(stages_of(make_config(settings("x.zarr"))))
    for stage in range(n_stages):
        name = f"cut-{stage}.zarr"
        seen: set[str] = set()

        def cut_off(progress: Progress, seen: set[str] = seen, stage: int = stage) -> None:
            seen.add(progress.stage)
            if len(seen - {"reference"}) == stage + 1 and progress.blocks_done >= 4:
                raise ZeroDivisionError("scripted")

        with pytest.raises(ZeroDivisionError):
            run(settings(name), progress=cut_off)
        assert not open_run(tmp_path / name).attrs["complete"]
        run(settings(name))
        assert stored(tmp_path / name) == whole
        assert verify_store(tmp_path / name, take_back=False).sound


def test_a_damaged_table_of_several_passes_is_found_and_made_again(
    config: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**config, "groups": {"by": "delay"}, "trajectory": {"repair": True}}
    run(settings)
    path = Path(config["output"]["path"])
    whole = stored(path)
    chunk = next(file for file in (path / "shift" / "c").rglob("0") if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-9])
    assert not verify_store(path).sound
    run(settings)
    assert stored(path) == whole


def test_given_shifts_are_applied_to_another_stack_of_the_same_frames(
    config: dict[str, Any], small_stack: SimulatedStack, tmp_path: Path
) -> None:
    first = run({**config, "trajectory": {"repair": True}})
    other = 2 * small_stack.read(0, len(small_stack)).astype("f4") + 3
    np.save(tmp_path / "other.npy", other)
    applied = {
        **config,
        "input": {"path": str(tmp_path / "other.npy")},
        "output": {**config["output"], "path": str(tmp_path / "second.zarr")},
        "shifts": {"path": config["output"]["path"]},
    }
    second = run(applied)
    good = is_good(first["status"].values)
    np.testing.assert_array_equal(second["shift"].values, first["shift"].values)
    np.testing.assert_array_equal(is_good(second["status"].values), good)
    number = int(np.flatnonzero(first["status"].values == 0)[3])
    expected = 2 * first["aligned"][number].values + 3
    both = np.isfinite(expected) & np.isfinite(second["aligned"][number].values)
    assert both.mean() > 0.6
    # the first is rounded to whole counts, the second is not
    difference = second["aligned"][number].values - expected
    assert np.abs(difference[both]).max() < 1.01
    assert verify_store(tmp_path / "second.zarr", take_back=False).sound


def test_shifts_edited_by_hand_are_applied(
    config: dict[str, Any], small_stack: SimulatedStack, tmp_path: Path
) -> None:
    first = run(config)
    sheet = tmp_path / "shifts.csv"
    assert save_shifts(config["output"]["path"], sheet) == len(small_stack)
    table = pd.read_csv(sheet)
    table["status"] = table["status"].fillna("")
    table.loc[5, ["shift_y", "shift_x"]] = [2.0, -1.0]
    table.loc[6, ["shift_y", "shift_x"]] = np.nan
    sheet.unlink()
    table.to_csv(sheet, index=False)
    settings = {
        **config,
        "output": {**config["output"], "path": str(tmp_path / "edited.zarr")},
        "shifts": {"path": str(sheet)},
    }
    found = run(settings)
    assert found["shift"].values[5].tolist() == [2.0, -1.0]
    assert found["status"].values[6] == Status.EXCLUDED | Status.NOT_CONVERGED
    assert np.isnan(found["aligned"][6].values).all()
    np.testing.assert_array_equal(
        found["aligned"][5].values[10:-10, 10:-10][:20, :20],
        np.where(
            found["valid"].values[8:-12, 11:-9][:20, :20],
            small_stack.frame(5)[8:-12, 11:-9][:20, :20],
            np.nan,
        ),
    )
    np.testing.assert_array_equal(found["shift"].values[7:], first["shift"].values[7:])
    sheet.write_text(sheet.read_text().replace("2.0,-1.0", "2.0,-1.5"))
    with pytest.raises(InputError, match="source was another, or has changed"):
        run({**settings, "output": {**settings["output"]}})


@pytest.fixture(scope="module")
def faint(tmp_path_factory: pytest.TempPathFactory) -> tuple[SimulatedStack, Path]:
    """400 frames of 0.05 counts a pixel, one of them empty."""
    stack = simulate_stack(
        400, (128, 128), seed=4, drift_px=3.0, dose=0.05, jitter_px=0.05, planted=False
    )
    frames = stack.read(0, len(stack))
    frames[100] = 0
    path = tmp_path_factory.mktemp("faint") / "faint.npy"
    np.save(path, frames)
    return stack, path


def test_frames_of_few_counts_are_found_by_the_sums_of_their_neighbours(
    config: dict[str, Any], faint: tuple[SimulatedStack, Path]
) -> None:
    stack, path = faint
    settings = {
        **config,
        "input": {"path": str(path)},
        "exclude": {"frames": ["10-12"]},
        "registration": {"max_shift_px": 16, "gain": 1.0},
        "trajectory": {"sum_frames": "auto"},
    }
    found = run(settings)
    good = is_good(found["status"].values)
    bad = set(np.flatnonzero(~good).tolist())
    assert bad >= {10, 11, 12, 100}
    assert len(bad) <= 4 + 0.02 * len(
        stack
    )  # sums are good in 99 of 100 cases, or were taken larger
    assert found["status"].values[100] & Status.BLANK
    assert found["status"].values[11] == Status.EXCLUDED | Status.NOT_CONVERGED
    error = (found["shift"].values - stack.shift)[good]
    error -= error.mean(axis=0)
    # one frame's bound is 0.35 px here; eight share theirs, and jitter of 0.05 px is not seen
    assert error.std(axis=0).max() < 0.2
    assert 0.4 < (error / found["shift_std"].values[good]).std() < 1.2
    assert found.attrs["sum_frames"] > 1
    assert any("sums of" in note for note in found.attrs["reference_notes"])
    assert verify_store(settings["output"]["path"], take_back=False).sound
    whole = stored(settings["output"]["path"])

    def cut_off(progress: Progress) -> None:
        if progress.blocks_done >= 4:
            raise ZeroDivisionError("scripted")

    output = {**config["output"], "path": config["output"]["path"] + "-again"}
    with pytest.raises(ZeroDivisionError):
        run({**settings, "output": output}, progress=cut_off)
    run({**settings, "output": output})
    assert stored(output["path"]) == whole


def test_sums_do_not_go_with_groups(config: dict[str, Any]) -> None:
    sections = {"trajectory": {"sum_frames": 4}, "groups": {"by": "delay"}}
    with pytest.raises(InputError, match="do not go together"):
        run({**config, **sections})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"groups": {"by": "pressure"}}, "no such coordinate"),
        ({"groups": {"by": "delay", "keyframe_frames": 5}}, "two ways"),
        ({"groups": {"by": "delay"}, "shifts": {"path": "/none.csv"}}, "leave out groups"),
        ({"trajectory": {"coordinate": "clock"}}, "which the input does not have"),
        ({"shifts": {"path": "/nowhere/run.zarr"}}, "does not exist"),
    ],
)
def test_what_cannot_be_grouped_followed_or_given_is_refused_before_anything_starts(
    config: dict[str, Any], sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        run({**config, **sections})
    assert not Path(config["output"]["path"]).exists()


def test_shifts_of_another_number_of_frames_are_refused(
    config: dict[str, Any], small_stack: SimulatedStack, tmp_path: Path
) -> None:
    run(config)
    np.save(tmp_path / "fewer.npy", small_stack.read(0, 50))
    shorter = {
        **config,
        "input": {"path": str(tmp_path / "fewer.npy")},
        "output": {"path": str(tmp_path / "second.zarr")},
        "shifts": {"path": config["output"]["path"]},
    }
    with pytest.raises(InputError, match="shifts of 60 frames, and the input has 50"):
        run(shorter)


def test_new_sections_that_are_not_used_leave_the_digest_as_it_was(config: dict[str, Any]) -> None:
    plain = make_config(config)
    assert config_digest(plain) == config_digest(make_config({**config, "trajectory": None}))
    digests = {config_digest(make_config({**config, **sections})) for sections in _NEW_SECTIONS}
    assert len(digests) == 3


def test_a_block_of_two_groups_is_registered_to_both(config: dict[str, Any]) -> None:
    settings = {**config, "groups": {"by": "delay"}, "output": {**config["output"]}}
    found = run({**settings, "output": {**settings["output"], "block_frames": 7}})
    store = RunStore.view(settings["output"]["path"])
    # groups of twenty frames: the third block of seven has frames of two
    assert [stop - start for start, stop in store.blocks("estimate")] == [7] * 8 + [4]
    assert is_good(found["status"].values).sum() >= 55
