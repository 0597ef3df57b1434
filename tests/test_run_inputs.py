"""Runs on corrected frames, and runs that leave frames out, from the config to the store."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillstack.checkup import check_input
from stillstack.config import make_config
from stillstack.errors import InputError, RunFaultError, UnreadableFrameError
from stillstack.execute import SET_ASIDE_NOTE, Progress
from stillstack.model import LEFT_OUT, Status, is_good
from stillstack.plan import plan
from stillstack.report import write_report
from stillstack.report.comparison import compare
from stillstack.report.provenance import read_provenance
from stillstack.run import open_run, run
from stillstack.simulation import SimulatedStack
from stillstack.sources import CorrectedSource, corrected, open_source
from stillstack.storage import RunStore
from stillstack.summary import summarise, worst_frames
from stillstack.tables import plan_rows, run_rows
from stillstack.worker_view import look_at_input
from stores import stored
from test_doctor import VIEW
from workers import worker_threads

planning = importlib.import_module("stillstack.plan")  # stillstack.plan is the function

DEFECT = (40, 44)
EXCLUDE = {"frames": ["8-11", 21], "values": {"scan": [5]}, "expression": "delay > 56"}
# scans of ten frames each, delays from 0 to 59
LEFT = [8, 9, 10, 11, 21, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59]


@dataclass(frozen=True)
class Scans:
    """Frames on the disk with coordinates, with failures, and a log of what is read of them."""

    path: str
    log: str
    broken: tuple[int, ...] = ()
    torn: tuple[int, ...] = ()

    name = "scans"
    chunk_frames = 1
    notes = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        return open_source(self.path).shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return open_source(self.path).dtype

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        return {"scan": np.arange(60) // 10, "delay": np.arange(60.0)}

    @property
    def attrs(self) -> Mapping[str, Any]:
        return {}

    @property
    def token(self) -> str:
        return f"{self.path}-{self.broken}-{self.torn}"

    def read(self, start: int, stop: int) -> NDArray[Any]:
        with Path(self.log).open("a") as log:
            log.write(f"{os.getpid()} {start} {stop}\n")
        for number in range(start, stop):
            if number in self.torn:
                raise UnreadableFrameError(f"Frame {number} is torn.")
            if number in self.broken and str(os.getpid()) != Path(f"{self.log}.own").read_text():
                raise ZeroDivisionError("scripted")
        return open_source(self.path).read(start, stop)

    def fingerprint(self) -> str:
        return open_source(self.path).fingerprint()

    def frames_read(self) -> list[int]:
        """By whomever."""
        lines = [line.split() for line in Path(self.log).read_text().splitlines()]
        return [n for _, start, stop in lines for n in range(int(start), int(stop))]


@pytest.fixture
def scans(
    small_stack_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Scans]:
    """Makes the next plans and runs read frames with coordinates."""

    def use(path: Path = small_stack_file, **faults: Any) -> Scans:
        log = tmp_path / "reads"
        log.write_text("")
        Path(f"{log}.own").write_text(str(os.getpid()))
        source = Scans(str(path), str(log), **faults)
        monkeypatch.setattr(planning, "open_source", lambda *_, **__: source)
        return source

    return use


@pytest.fixture
def detector(small_stack: SimulatedStack, tmp_path: Path) -> dict[str, Any]:
    """Section ``correction``, and frames as a detector with such a dark and gain records them."""
    rng = np.random.default_rng(11)
    dark = rng.poisson(30, small_stack.shape[1:]).astype(np.float64)
    gain = rng.uniform(0.8, 1.25, small_stack.shape[1:]).astype(np.float32)
    counts = small_stack.read(0, len(small_stack)).astype(np.float64)
    recorded = np.rint(counts / gain + dark)
    recorded[counts == 65535] = 65535
    recorded[:, DEFECT[0], DEFECT[1]] = 60_000
    np.save(tmp_path / "recorded.npy", recorded.clip(0, 65535).astype(np.uint16))
    np.save(tmp_path / "dark.npy", dark)
    np.save(tmp_path / "gain.npy", gain)
    (tmp_path / "defects.csv").write_text("x,y\n{1},{0}\n".format(*DEFECT))
    names = {"dark": "dark.npy", "gain": "gain.npy", "defects": "defects.csv"}
    return {
        "input": {"path": str(tmp_path / "recorded.npy")},
        "correction": {key: str(tmp_path / name) for key, name in names.items()},
    }


def pull(result: Any, stack: SimulatedStack) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Errors of the good frames against the truth in units of their error bars."""
    good = is_good(result.status.values)
    errors = result["shift"].values[good] - stack.shift[good]
    errors -= errors.mean(axis=0)  # the origin is the reference's
    return errors / result["shift_std"].values[good], good


# ------------------------------------------------------------------ left out


def test_frames_that_are_left_out_are_not_read_and_have_no_answer(
    cluster_client: Any, small_config: Any, small_stack: SimulatedStack, scans: Any
) -> None:
    source = scans()
    small_config["exclude"] = EXCLUDE
    seen: list[Progress] = []
    result = run(small_config, progress=seen.append)

    assert not set(LEFT) & set(source.frames_read())
    status = result.status.values
    assert np.flatnonzero(status & Status.EXCLUDED).tolist() == LEFT
    assert (status[LEFT] == int(Status.EXCLUDED | Status.NOT_CONVERGED)).all()
    assert np.isnan(result["shift"].values[LEFT]).all()
    assert np.isnan(result.chi2.values[LEFT]).all()
    assert np.isnan(result.aligned.values[LEFT]).all()
    bad = sorted(set(small_stack.rejects) - set(LEFT))
    assert np.flatnonzero(~is_good(status)).tolist() == sorted([*LEFT, *bad])
    in_sigmas, _ = pull(result, small_stack)
    assert 0.7 < np.sqrt((in_sigmas**2).mean()) < 1.4
    assert seen[-1].frames_flagged == len(bad)
    assert not (status & Status.PENDING).any()


@pytest.mark.parametrize(
    "output",
    [
        {"chunk_frames": 2},
        {"shards": True, "chunk_frames": 2},
        {"block_frames": 1},
        {"codec": "lz4"},
    ],
)
def test_the_other_frames_are_as_if_nothing_was_left_out(
    cluster_client: Any, small_config: Any, scans: Any, tmp_path: Path, output: Any
) -> None:
    scans()
    small_config["reference"] = {"kind": "index", "index": 30}
    small_config["registration"]["gain"] = 1.0  # else it is estimated, from other frames
    small_config["output"].update(output)
    whole = run(small_config).load()
    small_config["output"]["path"] = str(tmp_path / "less.zarr")
    small_config["exclude"] = EXCLUDE
    less = run(small_config).load()
    others = np.setdiff1d(np.arange(60), LEFT)
    for name in ("aligned", "shift", "shift_std", "status", "ncc", "n_clipped"):
        np.testing.assert_array_equal(less[name][others], whole[name][others], err_msg=name)
    assert np.isnan(less.aligned.values[LEFT]).all()


def test_two_passes_leave_out_the_same_frames(
    cluster_client: Any, small_config: Any, scans: Any
) -> None:
    source = scans()
    small_config.update(exclude=EXCLUDE, alignment={"canvas": "common"})
    result = run(small_config)
    assert not set(LEFT) & set(source.frames_read())
    assert np.flatnonzero(result.status.values & Status.EXCLUDED).tolist() == LEFT
    assert np.isnan(result.aligned.values[LEFT]).all()
    good = is_good(result.status.values)
    assert np.isfinite(result.aligned.values[good]).any(axis=(1, 2)).all()


def test_shifts_alone_leave_out_the_same_frames(
    cluster_client: Any, small_config: Any, scans: Any
) -> None:
    scans()
    small_config["exclude"] = EXCLUDE
    small_config["output"]["aligned"] = False
    assert np.flatnonzero(run(small_config).status.values == int(LEFT_OUT)).tolist() == LEFT


@pytest.mark.parametrize("kind", ["first", "mean"])
def test_groups_with_references_of_their_own_leave_out_the_same_frames(
    cluster_client: Any, small_config: Any, small_stack: SimulatedStack, scans: Any, kind: str
) -> None:
    source = scans()
    # of scan 5 nothing is left, and it is among the groups all the same
    small_config.update(exclude=EXCLUDE, groups={"by": "scan"}, reference={"kind": kind})
    result = run(small_config)
    assert not set(LEFT) & set(source.frames_read())
    assert np.flatnonzero(result.status.values & Status.EXCLUDED).tolist() == LEFT
    assert np.isnan(result["shift"].values[LEFT]).all()
    assert np.isnan(result.aligned.values[LEFT]).all()
    bad = sorted({*LEFT, *small_stack.rejects})
    assert np.flatnonzero(~is_good(result.status.values)).tolist() == bad


def test_what_is_left_out_is_never_repaired(
    cluster_client: Any, small_config: Any, scans: Any, tmp_path: Path
) -> None:
    scans()
    small_config["exclude"] = {"frames": [8, "20-22"]}
    first = run(small_config)
    # a tenth of the frames is good no longer
    small_config["registration"]["min_ncc"] = float(np.nanpercentile(first.ncc.values, 10))
    small_config["trajectory"] = {"repair": True}
    small_config["output"]["path"] = str(tmp_path / "repaired.zarr")
    result = run(small_config)
    status = result.status.values
    assert (status[[8, 20, 21, 22]] == int(LEFT_OUT)).all()
    assert (result.status_raw.values[[8, 20, 21, 22]] == int(LEFT_OUT)).all()
    assert np.isnan(result["shift"].values[[8, 20, 21, 22]]).all()
    assert (status & Status.REPAIRED).any()  # others are


def test_the_reference_is_made_of_frames_that_are_not_left_out(
    cluster_client: Any, small_config: Any, scans: Any, small_stack: SimulatedStack
) -> None:
    scans()
    small_config.update(exclude={"frames": ["0-3"]}, reference={"kind": "first"})
    run(small_config)
    image = RunStore.view(small_config["output"]["path"]).read("reference")
    valid = RunStore.view(small_config["output"]["path"]).read("reference_valid")
    np.testing.assert_array_equal(image[valid], small_stack.frame(4)[valid])


@pytest.mark.parametrize(
    ("reference", "exclude", "words"),
    [
        ({"kind": "index", "index": 9}, {"frames": ["8-11"]}, "The reference is frame 9, which"),
        ({"start": 8, "stop": 11}, {"frames": ["8-11"]}, "frames 8 to 10, and the section exclude"),
        ({}, {"frames": ["0-59"]}, "leaves out all 60 frames"),
        ({}, {"expression": "monitor < 3"}, "'monitor' is not defined"),
        ({}, {"frames": [60]}, "names frame 60, and the input has frames 0 to 59"),
    ],
)
def test_what_leaves_nothing_to_work_with_is_refused(
    small_config: Any, scans: Any, reference: Any, exclude: Any, words: str
) -> None:
    scans()
    small_config.update(exclude=exclude, reference=reference)
    with pytest.raises(InputError) as caught:
        plan(make_config(small_config)).refuse()
    assert words in str(caught.value)
    assert not Path(small_config["output"]["path"]).exists()


def test_faulty_frames_beside_left_out_ones_are_set_aside_alone(
    cluster_client: Any, small_config: Any, scans: Any
) -> None:
    source = scans(broken=(22,), torn=(10, 34))  # 10 is left out and nobody sees that it is torn
    small_config["exclude"] = EXCLUDE
    result = run(small_config)
    status = result.status.values
    assert np.flatnonzero(status & Status.UNREADABLE).tolist() == [22, 34]
    assert np.flatnonzero(status & Status.EXCLUDED).tolist() == LEFT
    assert is_good(status[[20, 23]]).all()
    assert not set(LEFT) & set(source.frames_read())
    reasons = RunStore.view(small_config["output"]["path"]).read_note(SET_ASIDE_NOTE)
    assert reasons == {"22": "ZeroDivisionError: scripted", "34": "Frame 34 is torn."}


def test_blocks_without_a_frame_do_not_prove_that_anything_works(
    cluster_client: Any, small_config: Any, scans: Any
) -> None:
    small_config.update(exclude={"frames": ["0-15"]})
    scans(broken=tuple(range(16, 60)))
    with pytest.raises(RunFaultError, match="Not one frame of 8 blocks can be processed"):
        run(small_config)
    assert not (open_run(small_config["output"]["path"]).status.values & Status.UNREADABLE).any()
    scans()
    status = run(small_config).status.values
    assert not (status & Status.UNREADABLE).any()
    assert (status[:16] == int(LEFT_OUT)).all()


def test_another_choice_of_frames_is_another_run(
    cluster_client: Any, small_config: Any, scans: Any
) -> None:
    scans()
    small_config["exclude"] = {"frames": [3]}
    run(small_config)
    small_config["exclude"] = {"frames": [4]}
    with pytest.raises(InputError, match=r"exclude\.frames: \[3\] there, \[4\] now"):
        run(small_config)


def test_left_out_frames_are_counted_apart_from_bad_ones(
    cluster_client: Any, small_config: Any, small_stack: SimulatedStack, scans: Any, tmp_path: Path
) -> None:
    scans()
    small_config["exclude"] = EXCLUDE
    made = plan(make_config(small_config))
    assert made.to_json()["input"]["excluded_frames"] == len(LEFT)
    assert ("excluded", "15 frames: 8-11, 21, 50-59") in plan_rows(made, tmp_path / "plan.png")
    result = run(made)
    found = summarise(result)
    bad = sorted(set(small_stack.rejects) - set(LEFT))
    assert (found.n_excluded, found.n_wanted) == (15, 45)
    assert found.rejected == tuple(bad)
    assert found.n_rejected == len(bad)
    assert found.flag_counts[Status.EXCLUDED] == 15
    assert found.flag_counts.get(Status.NOT_CONVERGED, 0) <= len(bad)
    assert found.as_dict()["excluded"] == 15
    assert not set(LEFT) & set(worst_frames(result, 20))
    rows = run_rows(found, "out", None, 1.0)
    assert rows[0] == ("frames", f"45: {45 - len(bad)} good, {len(bad)} not")
    assert rows[1] == ("excluded", "15, as the config says")
    page = write_report(small_config["output"]["path"])
    assert "(15 are left out, as the config says)" in page.read_text()


def test_a_condition_that_no_frame_meets_is_said(small_config: Any, scans: Any) -> None:
    scans()
    small_config["exclude"] = {"expression": "delay > 1000"}
    (warning,) = plan(make_config(small_config)).warnings
    assert "'delay > 1000', is met by no frame" in warning.what


def test_the_first_block_that_is_timed_has_no_frame_that_is_left_out(
    small_config: Any, scans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = scans()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where this source's class is
    small_config["exclude"] = {"frames": ["0-29"]}
    made = plan(make_config(small_config), calibrated=True)
    assert made.calibration is not None, made.findings
    assert min(source.frames_read()) == 30


# ------------------------------------------------------------------ corrected


def test_a_run_on_corrected_frames_finds_the_truth(
    cluster_client: Any, small_config: Any, small_stack: SimulatedStack, detector: Any
) -> None:
    small_config.update(detector)
    result = run(small_config)
    in_sigmas, good = pull(result, small_stack)
    assert np.flatnonzero(~good).tolist() == list(small_stack.rejects)
    assert 0.7 < np.sqrt((in_sigmas**2).mean()) < 1.4
    assert result.aligned.dtype == np.float32
    store = RunStore.view(small_config["output"]["path"])
    assert not store.read("valid")[DEFECT]
    # the mean of the scene, not of the scene on a dark of 30 counts
    level = float(np.nanmean(result.aligned.values[good]))
    expected = np.mean([small_stack.frame(n)[small_stack.valid].mean() for n in (0, 30, 58)])
    assert abs(level - expected) < 0.1 * expected


def test_what_was_corrected_before_gives_the_same_as_correcting(
    cluster_client: Any, small_config: Any, detector: Any, tmp_path: Path
) -> None:
    small_config.update(detector)
    there = run(small_config).load()
    images = {key: np.load(tmp_path / f"{key}.npy") for key in ("dark", "gain")}
    raw = np.load(tmp_path / "recorded.npy")
    by_hand = (raw.astype(np.float32) - images["dark"].astype(np.float32)) * images["gain"]
    by_hand[raw == 65535] = np.nan
    by_hand[(slice(None), *DEFECT)] = np.nan
    np.save(tmp_path / "by_hand.npy", by_hand)
    del small_config["correction"]
    small_config["input"] = {"path": str(tmp_path / "by_hand.npy")}
    small_config["output"]["path"] = str(tmp_path / "by_hand.zarr")
    here = run(small_config).load()
    for name in ("aligned", "shift", "shift_std", "status", "chi2"):
        np.testing.assert_array_equal(there[name], here[name], err_msg=name)


def test_engines_give_the_same_corrected_store_without_left_out_frames(
    cluster_client: Any, small_config: Any, detector: Any, scans: Any, tmp_path: Path
) -> None:
    scans(tmp_path / "recorded.npy")
    small_config.update(detector, exclude=EXCLUDE)
    run(small_config)
    there = stored(small_config["output"]["path"])
    small_config["output"]["path"] = str(tmp_path / "threads.zarr")
    with worker_threads(2):
        run(small_config)
    assert stored(small_config["output"]["path"]) == there


def test_a_changed_dark_is_another_source(
    cluster_client: Any, small_config: Any, detector: Any
) -> None:
    small_config.update(detector)
    run(small_config)
    dark = Path(detector["correction"]["dark"])
    image = np.load(dark)
    np.save(dark, image + 1)
    with pytest.raises(InputError, match="its source was another, or has changed since"):
        run(small_config)
    np.save(dark, image)
    run(small_config)  # what is in it counts, not when it was written


def test_images_of_another_detector_are_found_by_the_plan(
    small_config: Any, detector: Any, tmp_path: Path
) -> None:
    small_config.update(detector)
    bright = tmp_path / "bright.npy"
    np.save(bright, np.full((128, 128), 5000))
    small_config["correction"]["dark"] = str(bright)
    (error,) = plan(make_config(small_config)).errors
    assert "correction.dark, with 5e+03, is brighter than they are" in error.what
    del small_config["correction"]["dark"]
    np.save(bright, np.full((128, 128), 2e4))
    small_config["correction"]["gain"] = str(bright)
    told = " ".join(str(warning) for warning in plan(make_config(small_config)).warnings)
    assert "Half of the pixels of correction.gain are above 2e+04" in told
    np.save(bright, np.ones((128, 64)))
    with pytest.raises(InputError, match="128 x 64 pixels, the frames 128 x 128"):
        plan(make_config(small_config))


def test_a_dark_of_a_longer_exposure_is_said(small_config: Any, detector: Any) -> None:
    small_config.update(detector)
    frames = np.load(detector["input"]["path"])
    typical = np.median(frames, axis=0)
    typical[:10] = 0  # a tenth of the frame is far brighter than the dark
    np.save(detector["correction"]["dark"], typical * 1.05)
    told = [str(warning) for warning in plan(make_config(small_config)).warnings]
    assert any("of the valid pixels are negative once they are corrected" in text for text in told)


@pytest.mark.parametrize("taken_off", ["dark", "mean"])
def test_negative_pixels_without_read_noise_are_said_with_the_noise_that_is_there(
    cluster_client: Any,
    small_stack: SimulatedStack,
    small_config: Any,
    tmp_path: Path,
    taken_off: str,
) -> None:
    """Somebody subtracted a dark or a mean from the frames: their noise is not in their values."""
    frames = small_stack.read(0, 60).astype("f4")
    frames += np.random.default_rng(5).normal(0.0, 25.0, frames.shape).astype("f4")
    if taken_off == "mean":
        frames -= np.median(frames, axis=0).mean()
    path = tmp_path / "negative.npy"
    np.save(path, frames)
    small_config["input"]["path"] = str(path)
    small_config["registration"].pop("gain", None)
    blind = plan(make_config(small_config))
    (warning,) = (found for found in blind.warnings if "are negative" in found.what)
    told = re.search(r"of which ([\d.]+) is seen here", warning.cure)
    assert told is not None, warning
    assert run(small_config)["chi2"].load().median() > 1.4
    small_config["registration"]["read_noise"] = float(told[1])
    small_config["output"]["path"] = str(tmp_path / "told.zarr")
    told_of = plan(make_config(small_config)).warnings
    assert not any("are negative" in found.what for found in told_of)
    assert 0.8 < run(small_config)["chi2"].load().median() < 1.3


def test_values_that_do_not_count_are_those_that_were_recorded(
    small_config: Any, detector: Any, tmp_path: Path
) -> None:
    small_config.update(detector)
    small_config["correction"]["gain"] = str(tmp_path / "large.npy")
    np.save(tmp_path / "large.npy", np.full((128, 128), 100.0))
    small_config["valid"]["frames"]["above"] = 1000  # recorded counts have 30 to 150
    made = plan(make_config(small_config))
    assert not made.errors
    assert made.valid.mean() > 0.8
    assert (made.settings["above"], made.settings["equal"]) == (None, [])
    small_config["valid"]["frames"]["above"] = 5
    with pytest.raises(InputError, match="leaves no valid pixel"):
        plan(make_config(small_config)).refuse()


def test_a_worker_that_does_not_see_the_dark_is_found(small_config: Any, detector: Any) -> None:
    source = corrected(
        open_source(detector["input"]["path"]), make_config({**small_config, **detector}).correction
    )
    own = look_at_input(source)
    assert not check_input(own, {"tcp://a": replace(VIEW, seen=own)}).findings
    Path(detector["correction"]["dark"]).unlink()
    (finding,) = check_input(own, {"tcp://a": replace(VIEW, seen=look_at_input(source))}).findings
    assert "There is no file" in finding.what
    assert "dark.npy" in finding.what


def test_the_report_compares_with_frames_as_the_run_read_them(
    cluster_client: Any, small_config: Any, detector: Any
) -> None:
    small_config.update(detector)
    result = run(small_config)
    found = read_provenance(small_config["output"]["path"])
    assert isinstance(found.raw, CorrectedSource)
    assert found.raw_bytes == 60 * 128 * 128 * 2  # as recorded
    comparison = compare(result, found.raw)
    assert comparison.raw_mean is not None
    assert "Mean corrected" in write_report(small_config["output"]["path"]).read_text()
    assert comparison.aligned_mean is not None
    assert np.isnan(comparison.raw_mean[DEFECT])
    assert np.isfinite(comparison.raw_mean).mean() > 0.99
    assert np.nanmean(comparison.raw_mean) == pytest.approx(
        np.nanmean(comparison.aligned_mean), rel=0.1
    )
    Path(detector["correction"]["gain"]).unlink()
    lost = read_provenance(small_config["output"]["path"])
    assert lost.raw is None
    assert "gain.npy" in lost.raw_missing
    write_report(small_config["output"]["path"])


def test_the_plan_counts_recorded_bytes_and_the_images_that_processes_keep(
    small_config: Any, detector: Any, tmp_path: Path
) -> None:
    plain = plan(make_config({**small_config, "input": detector["input"]}))
    made = plan(make_config({**small_config, **detector}))
    assert made.layout.recorded_bytes == plain.layout.recorded_bytes == 128 * 128 * 2
    assert made.layout.source_bytes == 128 * 128 * 4
    image = 128 * 128 * 4
    assert made.memory.worker - plain.memory.worker >= 3 * image
    assert made.memory.coordinator - plain.memory.coordinator >= 3 * image
    (frames,) = [text for name, text in plan_rows(made, tmp_path) if name == "frames"]
    assert frames == "60 of 128 x 128, uint16, corrected to float32, 1.97 MB"
