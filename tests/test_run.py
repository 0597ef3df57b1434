"""A run from the config to the finished store, and what stops it."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr
import yaml
from numpy.typing import NDArray

from stillstack import storage
from stillstack.config import make_config
from stillstack.errors import InputError, RunFaultError, UnreadableFrameError
from stillstack.execute import SET_ASIDE_NOTE, Progress
from stillstack.graph import align, register
from stillstack.kept_references import stored_reference
from stillstack.kernels.registration import register_frame
from stillstack.kernels.resampling import resample_frame
from stillstack.model import COLUMNS, REJECTING, Status, is_good
from stillstack.plan import plan
from stillstack.report.provenance import read_provenance
from stillstack.run import open_run, run
from stillstack.simulation import SimulatedStack
from stillstack.sources import open_source, open_stack
from stillstack.storage import RunStore
from stores import stored
from workers import worker_threads
from wrapped import WrappedSource

planning = importlib.import_module("stillstack.plan")  # stillstack.plan is the function


@dataclass(frozen=True)
class ScriptedSource(WrappedSource):
    """Frames of another source, with failures, and a log of who read what."""

    unreadable: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    gone_after: int | None = None

    name: ClassVar[str] = "scripted"
    chunk_frames: ClassVar[int] = 1

    @property
    def token(self) -> str:
        return f"scripted-{self.unreadable}-{self.broken}-{self.gone_after}"

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        return {"time": np.arange(self.shape[0]) * 0.25}

    @property
    def attrs(self) -> Mapping[str, Any]:
        return {}

    def read(self, start: int, stop: int) -> NDArray[Any]:
        with Path(self.log).open("a") as log:
            log.write(f"{os.getpid()} {start} {stop}\n")
        for number in range(start, stop):
            if number in self.unreadable:
                raise UnreadableFrameError(f"Frame {number} is truncated.")
            if number in self.broken and self._by_worker():
                raise ZeroDivisionError("scripted")
            if self.gone_after is not None and number > self.gone_after and self._by_worker():
                raise UnreadableFrameError("The disk is not there.")
        return self.inner.read(start, stop)

    def fingerprint(self) -> str:
        if self.gone_after is not None and self._by_worker():
            raise FileNotFoundError("no such disk")
        return super().fingerprint()

    def _by_worker(self) -> bool:
        return str(os.getpid()) != Path(self.log).with_suffix(".coordinator").read_text()

    def frames_read_by_workers(self) -> list[int]:
        lines = [line.split() for line in Path(self.log).read_text().splitlines()]
        return sorted(
            number
            for pid, start, stop in lines
            if int(pid) != os.getpid()
            for number in range(int(start), int(stop))
        )


@pytest.fixture
def script(small_stack_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the next run read a scripted source."""

    def use(**faults: Any) -> ScriptedSource:
        log = tmp_path / "reads.txt"
        log.with_suffix(".coordinator").write_text(str(os.getpid()))
        log.touch()
        source = ScriptedSource(open_source(str(small_stack_file)), str(log), **faults)
        monkeypatch.setattr(planning, "open_source", lambda *_, **__: source)
        return source

    return use


def test_a_run_aligns_what_is_good_and_rejects_what_is_planted(
    cluster_client: Any, small_config: Any, small_stack: SimulatedStack
) -> None:
    result = run(small_config)

    rejected = np.flatnonzero(~is_good(result.status.values))
    assert rejected.tolist() == list(small_stack.rejects)
    good = is_good(result.status.values)
    errors = result["shift"].values[good] - small_stack.shift[good]
    errors -= errors.mean(axis=0)  # the origin is the reference's
    pull = errors / result["shift_std"].values[good]
    assert 0.7 < np.sqrt((pull**2).mean()) < 1.4
    assert np.isnan(result["shift"].values[~good]).all()
    assert np.isnan(result.aligned.values[~good]).all()
    assert result.attrs["complete"] is True


def test_the_store_holds_what_each_frame_alone_gives(
    cluster_client: Any, small_config: Any, small_stack: SimulatedStack
) -> None:
    result = run(small_config)
    store = RunStore.view(small_config["output"]["path"])
    reference = stored_reference(store)
    raw = store.read("aligned")
    for number in (0, 13, 59):
        frame = small_stack.frame(number)
        alone = register_frame(frame, reference)
        np.testing.assert_array_equal(result["shift"].values[number], alone.shift)
        assert result.chi2.values[number] == np.float32(alone.chi2)
        moved = resample_frame(
            frame,
            alone.shift,
            valid=reference.frame_valid,
            interpolation=result.attrs["interpolation"],
            dtype=raw.dtype,
        )
        both = np.isfinite(result.aligned.values[number])
        np.testing.assert_array_equal(raw[number][both], np.asarray(moved.image)[both])


def test_the_lazy_graph_gives_what_a_run_stores(cluster_client: Any, small_config: Any) -> None:
    result = run(small_config)
    store = RunStore.view(small_config["output"]["path"])
    reference, raw = stored_reference(store), store.read("aligned")
    stack = open_stack(small_config["input"]["path"]).chunk(frame=7)
    table = register(stack, reference).compute(scheduler="synchronous")
    for name in ("shift", "shift_std", "chi2", "ncc"):
        np.testing.assert_array_equal(table[name].values, store.read(name))
    aligned = align(
        stack,
        table,
        reference=reference,
        interpolation=result.attrs["interpolation"],
        dtype=raw.dtype,
    )
    np.testing.assert_array_equal(aligned.values, raw)


def test_running_again_does_nothing_and_gives_the_same(
    cluster_client: Any, small_config: Any, script: Any
) -> None:
    source = script()
    first = run(small_config)
    read = source.frames_read_by_workers()
    again = run(small_config)
    assert source.frames_read_by_workers() == read
    xr.testing.assert_identical(first.load(), again.load())


def test_each_frame_is_read_once_by_the_workers(
    cluster_client: Any, small_config: Any, script: Any
) -> None:
    source = script()
    run(small_config)
    assert source.frames_read_by_workers() == list(range(60))


def test_coordinates_of_the_source_are_kept(
    cluster_client: Any, small_config: Any, script: Any
) -> None:
    script()
    np.testing.assert_array_equal(run(small_config).time, np.arange(60) * 0.25)


def test_an_unreadable_frame_is_set_aside_and_the_rest_is_done(
    cluster_client: Any, small_config: Any, script: Any
) -> None:
    script(unreadable=(21,), broken=(34,))
    result = run(small_config)
    status = result.status.values
    assert np.flatnonzero(status & Status.UNREADABLE).tolist() == [21, 34]
    assert np.isnan(result.aligned.values[[21, 34]]).all()
    assert is_good(status[[20, 22, 23, 32, 33, 35]]).all()
    reasons = RunStore.view(small_config["output"]["path"]).read_note(SET_ASIDE_NOTE)
    assert reasons == {"21": "Frame 21 is truncated.", "34": "ZeroDivisionError: scripted"}


def test_a_block_with_a_bad_frame_has_the_same_neighbours_as_without(
    cluster_client: Any, small_config: Any, script: Any, tmp_path: Path
) -> None:
    small_config["reference"] = {"kind": "first"}
    sound = run(small_config).load()
    script(unreadable=(21,))
    small_config["output"]["path"] = str(tmp_path / "other.zarr")
    spoilt = run(small_config).load()
    others = np.delete(np.arange(60), 21)
    for name in ("aligned", *(column.name for column in COLUMNS)):
        np.testing.assert_array_equal(spoilt[name][others], sound[name][others], err_msg=name)


def test_a_source_that_goes_away_stops_the_run_and_loses_nothing(
    cluster_client: Any, small_config: Any, script: Any
) -> None:
    source = script(gone_after=40)
    with pytest.raises(RunFaultError, match="cannot be read any more"):
        run(small_config)
    status = open_run(small_config["output"]["path"]).status.values
    assert not (status & Status.UNREADABLE).any()
    done = np.flatnonzero(~(status & Status.PENDING).astype(bool))
    assert len(done) >= 30
    Path(source.log).write_text("")
    source = script()
    result = run(small_config)
    assert not (result.status.values & Status.UNREADABLE).any()
    assert source.frames_read_by_workers() == sorted(set(range(60)) - set(done.tolist()))


def test_a_run_in_which_nothing_works_says_so_and_sets_nothing_aside(
    cluster_client: Any, small_config: Any, script: Any
) -> None:
    script(broken=tuple(range(60)))
    with pytest.raises(RunFaultError, match=r"cannot be read any more: .*scripted"):
        run(small_config)
    assert not (open_run(small_config["output"]["path"]).status.values & Status.UNREADABLE).any()
    script()
    assert not (run(small_config).status.values & Status.UNREADABLE).any()


def test_a_first_block_that_fails_as_a_whole_waits_for_another_to_succeed(
    cluster_client: Any, small_config: Any, script: Any
) -> None:
    script(broken=tuple(range(8)))
    result = run(small_config)
    assert np.flatnonzero(result.status.values & Status.UNREADABLE).tolist() == list(range(8))


def test_shifts_alone_write_no_images(cluster_client: Any, small_config: Any) -> None:
    small_config["output"]["aligned"] = False
    result = run(small_config)
    assert "aligned" not in storage.open_run(Path(small_config["output"]["path"]))
    assert np.isfinite(result["shift"].values[is_good(result.status.values)]).all()
    assert not (Path(small_config["output"]["path"]) / "aligned").exists()


def test_the_common_canvas_is_covered_by_every_good_frame(
    cluster_client: Any, small_config: Any, small_stack: SimulatedStack, tmp_path: Path
) -> None:
    whole = run(small_config).load()
    small_config["output"]["path"] = str(tmp_path / "common.zarr")
    small_config["alignment"] = {"canvas": "common"}
    common = run(small_config).load()
    np.testing.assert_array_equal(common["shift"], whole["shift"])
    y0, x0 = int(common.y[0]), int(common.x[0])
    height, width = common.aligned.shape[1:]
    assert 100 < height < 128
    assert 100 < width < 128
    window = whole.aligned.values[:, y0 : y0 + height, x0 : x0 + width]
    np.testing.assert_array_equal(common.aligned.values, window)
    good = is_good(common.status.values)
    edges = common.aligned.values[good]
    for edge in (edges[:, 0, :20], edges[:, -1, :20], edges[:, :20, 0], edges[:, :20, -1]):
        assert np.isfinite(edge).all()


def test_progress_counts_up_to_all_frames(
    cluster_client: Any, small_config: Any, small_stack: SimulatedStack
) -> None:
    seen: list[Progress] = []
    run(small_config, progress=seen.append)
    assert seen[0].stage == "reference"
    done = [event.frames_done for event in seen[1:]]
    assert done == sorted(done)
    assert done[-1] == 60
    assert seen[-1].blocks_done == seen[-1].n_blocks == 15
    assert seen[-1].frames_flagged == len(small_stack.rejects)


def test_the_active_client_is_used_and_left_open(cluster_client: Any, small_config: Any) -> None:
    run(small_config)
    assert cluster_client.status == "running"
    assert cluster_client.submit(sum, [1, 2]).result() == 3
    store = RunStore.view(small_config["output"]["path"])
    workers = {record.worker.split(":")[1] for record in store.done_blocks("align").values()}
    assert workers == {str(pid) for pid in cluster_client.run(os.getpid).values()}


def test_a_config_can_be_a_file(cluster_client: Any, small_config: Any, tmp_path: Path) -> None:
    small_config["output"]["aligned"] = False
    file = tmp_path / "run.yaml"
    small_config["valid"] = json.loads(json.dumps(small_config["valid"]))
    file.write_text(yaml.safe_dump(small_config))
    assert run(file).sizes["frame"] == 60


def test_an_output_of_another_config_is_refused_and_untouched(
    cluster_client: Any, small_config: Any
) -> None:
    run(small_config)
    before = stored(small_config["output"]["path"])
    small_config["registration"]["max_shift_px"] = 17
    with pytest.raises(InputError, match="max_shift_px: 16 there, 17 now"):
        run(small_config)
    assert stored(small_config["output"]["path"]) == before


def test_a_damaged_block_is_done_again(cluster_client: Any, small_config: Any) -> None:
    run(small_config)
    path = small_config["output"]["path"]
    before = stored(path)
    victim = next(
        file for file in sorted((Path(path) / "aligned" / "c").rglob("*")) if file.is_file()
    )
    victim.write_bytes(victim.read_bytes()[:-7])
    run(small_config)
    assert stored(path) == before


def test_engines_give_the_same_store(
    cluster_client: Any, small_config: Any, tmp_path: Path
) -> None:
    run(small_config)
    there = stored(small_config["output"]["path"])
    small_config["output"]["path"] = str(tmp_path / "threads.zarr")
    with worker_threads(2):
        run(small_config)
    assert stored(small_config["output"]["path"]) == there


def test_no_rejected_frame_is_called_good(cluster_client: Any, small_config: Any) -> None:
    result = run(small_config)
    status = result.status.values
    has_shift = np.isfinite(result["shift"].values).all(axis=1)
    np.testing.assert_array_equal(has_shift, (status & REJECTING) == 0)


# ------------------------------------------------------------------ planned and taken


@pytest.mark.parametrize(("after", "taken"), [(3_000_000, 3_000_000), (2_000_000, 0)])
def test_memory_of_the_coordinator_counts_only_where_the_run_raised_it(
    small_config: Any, monkeypatch: pytest.MonkeyPatch, after: int, taken: int
) -> None:
    peaks = iter([2_000_000, after])
    monkeypatch.setattr(sys.modules["stillstack.run"], "peak_bytes", lambda: next(peaks))
    with worker_threads(1):
        run(small_config)
    (attempt,) = RunStore.view(small_config["output"]["path"]).read_note("attempts")
    assert attempt["coordinator_peak_bytes"] == taken


def test_a_run_keeps_what_was_planned_and_what_it_took(
    cluster_client: Any, small_config: Any
) -> None:
    planned = plan(make_config(small_config), calibrated=True)
    assert planned.forecast is not None
    run(planned)
    store = RunStore.view(small_config["output"]["path"])
    kept = store.read_note("plan")
    assert kept["forecast"]["seconds"] == round(planned.forecast.seconds, 2)
    assert kept["memory"]["worker_bytes"] == planned.memory.worker
    (attempt,) = store.read_note("attempts")
    assert attempt["outcome"] == "complete"
    assert attempt["workers"] == 1
    assert 100e6 < attempt["worker_peak_bytes"] < 100e9
    (only,) = attempt["passes"]
    assert attempt["began"] < only["began"] < only["ended"] < attempt["ended"]
    (cost,) = read_provenance(store.path).stages
    assert (cost.name, cost.worker_peak_bytes) == ("align", attempt["worker_peak_bytes"])
    assert cost.seconds == only["ended"] - only["began"]
    compared = {one.what: one for one in read_provenance(store.path).expectations}
    assert compared["time"].taken == attempt["ended"] - attempt["began"]
    assert compared["aligned frames"].ratio == pytest.approx(1.0, rel=0.5)  # of the first block


def test_the_first_block_is_timed_by_itself_only_where_that_is_nothing_beside_the_run(
    cluster_client: Any, small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan(make_config(small_config), calibrated=None).forecast is None
    monkeypatch.setattr(planning, "_MANY_BYTES", 60 * 128 * 128 * 2)
    assert plan(make_config(small_config), calibrated=None).forecast is not None
