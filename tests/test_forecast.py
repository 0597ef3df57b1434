"""The first block's time, and what follows from it for the run and for larger ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillstack.calibration import Calibration
from stillstack.config import ReferenceConfig, make_config
from stillstack.errors import InputError
from stillstack.forecast import COORDINATOR_SECONDS_PER_BLOCK, forecast, start_seconds
from stillstack.layout import ONE_PASS, TWO_PASSES, Layout
from stillstack.plan import plan
from stillstack.scaling import at_scale, bytes_of

REFERENCE = ReferenceConfig()
MEASURED = Calibration(
    frames=8,
    starting=1.5,
    preparing=3.0,
    loading=0.1,
    warming=0.5,
    block=0.4,
    block_cpu=0.38,
    cold_read=0.08,
    read=0.04,
    register=0.02,
    align=0.08,
    written=8 * 3_000_000,
    peak=800 * 2**20,
)
LAYOUT = Layout(80_000, (2048, 2048), "uint16", "uint16", 8, 1, ONE_PASS)


@settings(deadline=None)
@given(workers=st.integers(1, 5000), n_frames=st.integers(1, 10**7))
def test_more_workers_never_take_longer_and_never_beat_the_coordinator(
    workers: int, n_frames: int
) -> None:
    layout = replace(LAYOUT, n_frames=n_frames)
    few, more = (forecast(layout, MEASURED, REFERENCE, n) for n in (workers, 2 * workers))
    assert more.working <= few.working
    assert more.working >= layout.n_blocks * COORDINATOR_SECONDS_PER_BLOCK
    assert 0 < few.coordinator_load <= more.coordinator_load <= 1
    assert few.starting == more.starting


def test_one_worker_takes_the_time_of_all_blocks() -> None:
    found = forecast(LAYOUT, MEASURED, REFERENCE, 1)
    assert found.working == pytest.approx(10_000 * 0.48, rel=0.05)  # the disk's part included
    assert found.limit == "workers"
    assert found.output_bytes == 80_000 * 3_000_000
    assert forecast(LAYOUT, MEASURED, REFERENCE, 10_000).limit == "coordinator"
    assert 20 < found.most_workers < 100


def test_what_is_shared_takes_turns() -> None:
    apart = forecast(LAYOUT, MEASURED, REFERENCE, 2)
    together = forecast(LAYOUT, MEASURED, REFERENCE, 2, cores=2)
    busy = 10_000 * COORDINATOR_SECONDS_PER_BLOCK
    assert 1.0 < (together.working - busy / 2) / apart.working < 1.2
    # what a worker's second thread writes takes its turn as well
    writing = replace(MEASURED, block_cpu=MEASURED.block + 0.1)
    later = forecast(LAYOUT, writing, REFERENCE, 2, cores=2).working
    assert later == pytest.approx(together.working + 10_000 * 0.1 / 2)
    assert forecast(LAYOUT, writing, REFERENCE, 2).working == apart.working
    # four workers on two cores are no faster than two
    assert forecast(LAYOUT, MEASURED, REFERENCE, 4, cores=2).working == together.working


def test_a_second_pass_reads_again_and_chunks_that_do_not_fit_do_too() -> None:
    once = forecast(LAYOUT, MEASURED, REFERENCE, 1).working
    twice = forecast(replace(LAYOUT, stages=TWO_PASSES), MEASURED, REFERENCE, 1).working
    read = 80_000 * 0.12 / 8
    assert twice - once == pytest.approx(read, rel=0.1)
    cut = forecast(LAYOUT, MEASURED, REFERENCE, 1, source_chunk=16).working
    assert cut - once == pytest.approx(read)


def test_the_reference_is_prepared_as_often_as_its_kind_says() -> None:
    one = start_seconds(LAYOUT, MEASURED, ReferenceConfig(kind="first", refine=0))
    refined = start_seconds(LAYOUT, MEASURED, ReferenceConfig(kind="mean", refine=2))
    assert refined - one == pytest.approx(2 * 3.0 + 32 * (5 * 0.04 + 2 * 0.1) / 8, rel=0.01)


def test_the_first_block_is_tried_and_nothing_stays(small_config: Any, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    made = plan(make_config(small_config), calibrated=True)
    measured, expected = made.calibration, made.forecast
    assert measured is not None
    assert expected is not None
    assert sorted(tmp_path.rglob("*")) == before
    assert measured.frames == 4
    assert 4 * 128 * 128 / 10 < measured.written < 4 * 128 * 128 * 4
    assert min(measured.starting, measured.planning, measured.preparing, measured.loading) > 0
    assert min(measured.read, measured.register) > 0
    assert measured.block >= measured.align > 0
    assert 100 * 2**20 < measured.peak < made.memory.needed_limit
    assert expected.seconds > expected.working > 15 * measured.block * 0.9
    told = json.loads(json.dumps(made.to_json()))
    assert told["time"]["workers"] == 1
    assert told["calibration"]["frames"] == 4


def test_only_shifts_are_tried_where_only_shifts_are_wanted(small_config: Any) -> None:
    small_config["output"]["aligned"] = False
    made = plan(make_config(small_config), calibrated=True)
    assert made.calibration is not None
    assert (made.calibration.written, made.calibration.align) == (0, 0.0)


def test_a_first_block_that_cannot_be_tried_is_told_and_refuses_nothing(
    small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    made = plan(make_config(small_config), calibrated=True).refuse()
    assert made.forecast is None
    assert any("could not be tried" in finding.what for finding in made.warnings)


def test_a_larger_run_is_laid_out_anew(small_config: Any) -> None:
    small_config["output"] = {"path": small_config["output"]["path"], "shards": "auto"}
    made = replace(plan(make_config(small_config)), calibration=MEASURED)
    large = at_scale(made, n_bytes=10**13)
    assert large.layout.n_frames == 10**13 // (128 * 128 * 2)
    assert large.layout.sharded
    assert large.layout.n_objects < 100_000
    assert large.source_bytes == pytest.approx(10**13, rel=1e-6)
    workers = [step.workers for step in large.steps]
    assert workers == [4**i for i in range(len(workers))]
    assert large.steps[-1].limit == "coordinator"
    assert large.chosen is None
    chosen = at_scale(made, frames=1000, workers=7).chosen
    assert chosen is not None
    assert chosen.workers == 7
    with pytest.raises(InputError, match="A frame has 32768 bytes"):
        at_scale(made, n_bytes=100)


def test_sizes_are_read_as_people_write_them() -> None:
    assert (bytes_of("10TB"), bytes_of("3 GiB")) == (10**13, 3 * 2**30)
    with pytest.raises(InputError, match="many is not a size"):
        bytes_of("many")
