"""The report of a run: what it says, that it needs nothing else, and how it is drawn."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from stillstack.config import make_config
from stillstack.errors import InputError, UnreadableFrameError
from stillstack.explore import ENVELOPE_BINS, envelope, plot_drift, plot_status, trend
from stillstack.inspection import fingerprint_of
from stillstack.model import COLUMNS, REJECTING, Status, empty_table
from stillstack.pictures import difference_norm, display_image, image_norm
from stillstack.report import report_path, write_report
from stillstack.report.comparison import compare, spread
from stillstack.report.expectation import expectations
from stillstack.report.flags import flag_rows, intervals
from stillstack.report.interactive import kept_frames
from stillstack.report.page import GENERATOR, render_report
from stillstack.report.provenance import Provenance, StageCost
from stillstack.report.pulls import plot_pulls, pulls_of, pulls_sentences
from stillstack.report.thumbnails import thumbnails
from stillstack.report.verdict import answers, cautions
from stillstack.sources import open_source
from stillstack.storage import BlockRecord, RunStore, RunTemplate, lock_run
from stillstack.summary import compact_ranges, summarise, worst_frames

SHAPE = (24, 32)
BAD = {3: Status.BLANK, 7: Status.LOW_NCC, 11: Status.UNREADABLE, 12: Status.STRUCK}


@dataclass
class FramesInMemory:
    """A source of frames held in memory, that counts what is read of it."""

    frames: NDArray[Any]
    chunk_frames: int = 1
    broken: frozenset[int] = frozenset()
    read_frames: list[int] = field(default_factory=list)
    name: str = "memory"
    coords: dict[str, NDArray[Any]] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        n_frames, height, width = self.frames.shape
        return n_frames, height, width

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.frames.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        self.read_frames += range(start, stop)
        if self.broken & set(range(start, stop)):
            raise UnreadableFrameError(f"frames {start} to {stop} cannot be read")
        return self.frames[start:stop]

    def fingerprint(self) -> str:
        return "memory"


def table(n_frames: int, bad: dict[int, Status] = BAD) -> NDArray[np.void]:
    rows = empty_table(n_frames, Status(0))
    number = np.arange(n_frames)
    rows["shift"] = np.stack([number / 10, -number / 20], axis=1)
    rows["shift_std"] = [0.02, 0.03]
    rows["ncc"], rows["chi2"], rows["overlap"], rows["peak_ratio"] = 0.8, 1.0, 0.9, 0.4
    for index, status in bad.items():
        rows["status"][index] = status
        if status is not Status.STRUCK:
            rows["shift"][index] = rows["shift_std"][index] = np.nan
    return rows


def run_dataset(
    n_frames: int = 20, bad: dict[int, Status] = BAD, *, aligned: NDArray[Any] | None = None
) -> xr.Dataset:
    rows = table(n_frames, bad)
    valid = np.ones(SHAPE, bool)
    valid[:8, 10:14] = False
    run = xr.Dataset({c.name: (c.dims, rows[c.name]) for c in COLUMNS})
    run["reference"] = (("y", "x"), np.full(SHAPE, 5, np.float32))
    run["reference_valid"], run["valid"] = (("y", "x"), valid), (("y", "x"), valid)
    if aligned is not None:
        run["aligned"] = (("frame", "y", "x"), aligned)
    return run


def frames(n_frames: int = 20) -> NDArray[np.uint16]:
    return np.random.default_rng(5).poisson(50, (n_frames, *SHAPE)).astype(np.uint16)


KNOWN = Provenance(
    name="monday",
    path="/runs/monday.zarr",
    config_yaml="input:\n  path: /raw\n",
    versions={"stillstack": "0.1.0"},
    attempts=({"began": 0.0, "ended": 40.0, "host": "pc", "outcome": "complete"},),
    stages=(StageCost("align", 20, 4, 8.0, 2, 1_000_000),),
    set_aside={11: "frame_11.tif is cut off"},
    raw_bytes=4_000_000,
)


PLANNED: dict[str, Any] = {
    "workers": 2,
    "memory": {"worker_bytes": 800_000_000, "coordinator_bytes": 900_000_000},
    "forecast": {"seconds": 50.0, "output_bytes": 1_250_000},
}


class Page(HTMLParser):
    """What a browser would load, run and show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self._hidden = False
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._hidden = tag == "style"
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        self._hidden &= tag != "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += f" {data}"


@pytest.fixture(scope="module")
def html() -> str:
    """The page of a run that has everything."""
    return render_report(run_dataset(aligned=frames() / 1.0), KNOWN, FramesInMemory(frames()))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    """The same, parsed."""
    return Page(html)


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    assert page.loaded
    assert all(re.match(r"data:image/webp;base64,|#", address) for address in page.loaded)
    assert not {"link", "iframe", "object"} & set(page.tags)


def test_what_other_libraries_ask_of_pages_is_not_in_the_report() -> None:
    pytest.importorskip("panel")  # whose models name files that every page of Bokeh's loads
    html = render_report(run_dataset(aligned=frames() / 1.0), KNOWN, FramesInMemory(frames()))
    assert not re.search(r"<script[^>]*src=|<link", html)
    assert "Bokeh.set_log_level" in html


def test_without_bokeh_the_page_stands_still_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, page: Page
) -> None:
    assert "pip install" not in page.text
    monkeypatch.setitem(sys.modules, "bokeh", None)  # as if it were not installed
    html = render_report(run_dataset(aligned=frames() / 1.0), KNOWN, FramesInMemory(frames()))
    text = Page(html).text
    assert "pip install 'stillstack[dashboard]'" in text
    assert "Shift of every good frame" in text
    assert not re.search(r"url\(|@import|https?://", html)


def test_the_page_answers_the_four_questions(page: Page) -> None:
    assert "Did it work? In part 17 of 20 frames are good." in page.text
    assert "They moved over 1.9 px in y and 0.95 px in x." in page.text
    assert "Which frames are bad? 3 (15.0%) Frames 3, 7, 11. 1 could not be read." in page.text
    assert "How sure is it? ± 0.025 px" in page.text
    assert "0.02 px in y, 0.03 px in x" in page.text
    assert "What did it cost? 40.0 s 0.5 frames per second. 1 MB" in page.text


def test_the_page_counts_every_flag_and_says_why_frames_are_bad(page: Page) -> None:
    assert "blank 1 rejects nothing to register" in page.text
    assert "struck 1 informs" in page.text
    assert "the frame could not be read: frame_11.tif is cut off" in page.text
    assert "does not resemble the reference (ncc 0.800)" in page.text


def test_what_the_run_is_called_cannot_become_markup() -> None:
    hostile = Provenance(name="<script>alert(1)</script>", path="&<", config_yaml="a: '<b>'\n")
    html = render_report(run_dataset(), hostile, None)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_the_page_says_when_the_source_is_gone() -> None:
    gone = Provenance(name="monday", path="/m", raw_missing="/raw.zarr does not exist.")
    page = Page(render_report(run_dataset(aligned=frames() / 1.0), gone, None))
    assert "Frames as recorded are not shown: /raw.zarr does not exist." in page.text
    assert "Mean aligned" in page.text
    assert "Mean as recorded" not in page.text


def test_the_page_says_when_only_shifts_were_written() -> None:
    page = Page(render_report(run_dataset(), KNOWN, FramesInMemory(frames())))
    assert "the run wrote shifts only" in page.text
    assert "Mean as recorded" in page.text


def test_at_most_64_frames_are_averaged_and_the_page_says_so() -> None:
    run = run_dataset(600, {})
    source = FramesInMemory(frames(600))
    page = Page(render_report(run, KNOWN, source))
    assert "Mean of 64 good frames, spread evenly over the 600 good ones" in page.text
    assert len(set(source.read_frames)) <= 64 + 12


def test_a_run_without_a_good_frame_has_a_page_too() -> None:
    run = run_dataset(5, dict.fromkeys(range(5), Status.LOW_NCC))
    page = Page(render_report(run, KNOWN, FramesInMemory(frames(5))))
    assert "Did it work? No Only 0 of 5 frames are good" in page.text
    assert "There is no good frame to average" in page.text


def test_an_unfinished_run_is_called_so() -> None:
    run = run_dataset(20, {19: Status.PENDING})
    summary = summarise(run)
    assert answers(summary, KNOWN, None)[0].short == "Not finished"
    assert "1 frames are pending" in " ".join(cautions(summary, KNOWN))


def test_frames_that_do_not_move_raise_the_suspicion_of_something_static() -> None:
    run = run_dataset(20, {})
    run["shift"] = run["shift"] * 0
    assert "Nothing moved" in " ".join(cautions(summarise(run), KNOWN))
    assert not cautions(summarise(run_dataset(20, {})), KNOWN)


def test_a_model_that_does_not_hold_is_named() -> None:
    run = run_dataset(20, {})
    run["chi2"] = run["chi2"] * 4
    assert "chi2 is 4.00 for the median frame" in " ".join(cautions(summarise(run), KNOWN))


def test_means_are_those_of_the_good_frames() -> None:
    raw, aligned = frames(), frames().astype(float) + 3
    aligned[2, 0, 0] = np.nan
    compared = compare(run_dataset(aligned=aligned), FramesInMemory(raw))
    good = [index for index in range(20) if index not in (3, 7, 11)]
    assert compared.n_frames == 17
    assert compared.raw_mean is not None
    assert compared.aligned_mean is not None
    np.testing.assert_allclose(compared.raw_mean, raw[good].mean(axis=0))
    np.testing.assert_allclose(compared.aligned_mean, np.nanmean(aligned[good], axis=0))


def test_differences_are_last_good_frame_less_first_where_both_are_valid() -> None:
    raw, aligned = frames().astype(np.int32), frames() * 2.0
    aligned[0, 5, 5] = np.nan
    compared = compare(
        run_dataset(bad={0: Status.BLANK}, aligned=aligned), FramesInMemory(raw.astype("u2"))
    )
    assert (compared.first, compared.last) == (1, 19)
    before, after = compared.difference_before, compared.difference_after
    assert before is not None
    assert after is not None
    assert np.isnan(before[:8, 10:14]).all()
    np.testing.assert_array_equal(before[8:], (raw[19] - raw[1])[8:])
    np.testing.assert_array_equal(after, aligned[19] - aligned[1])
    both = np.isfinite(before) & np.isfinite(after)
    assert compared.rms_before == pytest.approx(np.sqrt(np.mean(before[both] ** 2)))


def test_raw_frames_are_cut_to_a_common_canvas() -> None:
    raw = frames()
    run = run_dataset(20, {}).rename(y="detector_y", x="detector_x")
    window = (slice(2, 20), slice(5, 30))
    run["aligned"] = (("frame", "y", "x"), raw[(slice(None), *window)] / 1.0)
    run = run.assign_coords(y=np.arange(2, 20), x=np.arange(5, 30))
    compared = compare(run, FramesInMemory(raw))
    assert compared.raw_mean is not None
    np.testing.assert_allclose(compared.raw_mean, raw.mean(axis=0)[window])
    np.testing.assert_allclose(compared.rms_before, compared.rms_after)


def test_frames_that_cannot_be_read_any_more_do_not_stop_the_page() -> None:
    source = FramesInMemory(frames(), broken=frozenset({4, 19}))
    compared = compare(run_dataset(bad={}), source)
    assert compared.difference_before is None
    assert compared.raw_mean is not None
    expected = np.delete(frames(), [4, 19], axis=0).mean(axis=0)
    np.testing.assert_allclose(compared.raw_mean, expected)
    assert (
        compare(run_dataset(), FramesInMemory(frames(), broken=frozenset(range(20)))).raw_mean
        is None
    )


@given(
    good=st.sets(st.integers(0, 999), min_size=1), limit=st.integers(1, 64), chunk=st.integers(1, 9)
)
def test_spread_frames_are_good_ones_and_never_more_than_asked(
    good: set[int], limit: int, chunk: int
) -> None:
    numbers = spread(np.array(sorted(good)), limit, chunk)
    assert 0 < len(numbers) <= limit or len(numbers) == len(good) <= limit
    assert set(numbers) <= good
    assert numbers == sorted(set(numbers))


@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=3, max_size=80),
    st.integers(1, 3),
)
def test_an_envelope_holds_every_value(values: list[float], bins: int) -> None:
    array = np.array(values)
    _, least, _, most = envelope(array, bins)
    known = array[np.isfinite(array)]
    if known.size:
        assert np.nanmin(least) == known.min()
        assert np.nanmax(most) == known.max()
    assert ((least <= most) | np.isnan(least)).all()


@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=40))
def test_the_trend_is_a_running_median(values: list[float]) -> None:
    array = np.array(values)
    found = trend(array, frames=5)
    for index in range(len(array)):
        window = array[max(0, index - 2) : index + 3]
        known = window[np.isfinite(window)]
        if known.size:
            assert found[index] == pytest.approx(np.median(known))
        else:
            assert np.isnan(found[index])


def test_the_drift_plot_has_an_error_bar_of_one_sigma_for_every_good_frame() -> None:
    axes = plot_drift(run_dataset()).axes[0]
    assert axes.get_ylabel() == "shift (px)"
    for container, deviation in zip(axes.containers, (0.02, 0.03), strict=True):
        bars = container[2][0].get_segments()
        lengths = np.array([np.ptp(bar[:, 1]) for bar in bars if len(bar) == 2])
        assert len(lengths) == 17
        np.testing.assert_allclose(lengths, 2 * deviation, rtol=1e-5)


def test_long_runs_are_drawn_as_envelopes_that_keep_every_excursion() -> None:
    run = run_dataset(40_000, {})
    run["shift"][20_000] = [77.0, 0.0]
    axes = plot_drift(run).axes[0]
    points = sum(np.shape(path.vertices)[0] for c in axes.collections for path in c.get_paths())
    points += sum(np.size(line.get_xdata()) for line in axes.lines)
    assert points < 12 * ENVELOPE_BINS
    assert axes.dataLim.y1 >= 77
    assert plot_status(run).axes[0].dataLim.x1 > 39_000


def test_difference_colours_are_symmetric_about_zero_and_shared() -> None:
    norm = difference_norm(np.array([[-3.0, 1.0]]), np.array([[0.5, np.nan]]))
    assert norm.vmin == -norm.vmax  # type: ignore[operator]
    assert norm(0.0) == 0.5
    assert difference_norm(np.zeros((2, 2))).vmax == 1


def test_images_of_great_range_are_drawn_on_a_logarithmic_scale() -> None:
    rng = np.random.default_rng(0)
    flat = rng.poisson(50, (64, 64)).astype(float)
    peaks = flat.copy()
    peaks[::8, ::8] = 1e6
    assert not isinstance(image_norm(flat), LogNorm)
    assert isinstance(image_norm(peaks), LogNorm)
    assert image_norm(np.full((4, 4), np.nan)).vmax == 1
    assert image_norm(np.full((4, 4), 3.0))(3.0) == 0.5


def test_display_binning_is_a_mean_over_known_pixels() -> None:
    image = np.arange(35.0).reshape(5, 7)
    image[0, 0] = np.nan
    shown, factor = display_image(image, limit=4)
    assert factor == 2
    assert shown.shape == (3, 4)
    assert shown[0, 0] == pytest.approx(np.mean([1, 7, 8]))
    assert shown[2, 3] == 34


def test_worst_frames_hold_every_kind_before_a_second_of_one() -> None:
    bad = dict.fromkeys(range(10), Status.BLANK) | {15: Status.AT_LIMIT, 16: Status.LOW_NCC}
    chosen = worst_frames(run_dataset(20, bad), limit=4)
    assert {15, 16} <= set(chosen)
    assert len(chosen) == 4
    assert worst_frames(run_dataset(20, {4: Status.BLANK}), limit=3)[0] == 4


def test_a_summary_counts_pending_apart() -> None:
    summary = summarise(run_dataset(20, {1: Status.BLANK, 18: Status.PENDING, 19: Status.PENDING}))
    assert (summary.n_good, summary.n_rejected, summary.n_pending) == (17, 1, 2)
    assert summary.rejected == (1,)
    assert json.loads(json.dumps(summary.as_dict()))["flags"] == {"pending": 2, "blank": 1}


def test_ranges_are_written_short() -> None:
    assert compact_ranges(()) == "none"
    assert compact_ranges((4,)) == "4"
    assert compact_ranges(tuple(range(100))) == "0-99"


# ----------------------------------------------------------------- from a store


@pytest.fixture
def stored_run(tmp_path: Path) -> Path:
    """A finished run on the disk, made without any kernel."""
    path = tmp_path / "tuesday.zarr"
    raw = frames(8)
    np.save(tmp_path / "raw.npy", raw)
    rows = table(8, {3: Status.BLANK})
    config = make_config(
        {"input": {"path": str(tmp_path / "raw.npy")}, "output": {"path": str(path)}}
    )
    with lock_run(path) as lock:
        store = RunStore.create(
            lock,
            RunTemplate(
                n_frames=8,
                frame_shape=SHAPE,
                config_digest="c",
                source_fingerprint=fingerprint_of(config, open_source(config.input.path), None),
                reference=raw.mean(axis=0).astype("f4"),
                reference_valid=np.ones(SHAPE, bool),
                valid=np.ones(SHAPE, bool),
                aligned_dtype="uint16",
                block_frames=4,
                attrs={
                    "config": {"input": {"path": str(tmp_path / "raw.npy"), "variable": None}},
                    "reference_std": [0.001, 0.002],
                    "versions": {"stillstack": "9.9.9"},
                },
            ),
            durable=False,
        )
        with store.ledger("align") as ledger:
            for block, (start, stop) in enumerate(store.blocks()):
                objects = store.write_block(start, raw[start:stop])
                ledger.append(
                    BlockRecord(block, start, stop, rows[start:stop], objects, seconds=0.5)
                )
        store.write_table(rows)
        store.write_note(
            "attempts", [{"began": 100.0, "ended": 104.0, "host": "pc", "outcome": "complete"}]
        )
        store.finish()
    return path


def test_the_report_lies_beside_the_run_and_says_how_to_make_it_again(stored_run: Path) -> None:
    page = write_report(stored_run)
    assert page == report_path(stored_run) == stored_run.with_name("tuesday.html")
    text = Page(page.read_text("utf-8")).text
    assert "7 of 8 frames are good" in text
    assert "stillstack run tuesday.yaml" in text
    assert f"path: {stored_run}" in text
    assert "9.9.9" in text
    assert "What did it cost? 4.0 s 2 frames per second." in text
    assert "common origin is known to 0.001 and 0.002 px" in text
    assert "Mean as recorded" in text
    assert not list(stored_run.parent.glob(".*part"))


def test_the_config_on_the_page_can_be_loaded(stored_run: Path, tmp_path: Path) -> None:
    from stillstack.config import load_config
    from stillstack.report.provenance import read_provenance

    again = tmp_path / "again.yaml"
    again.write_text(read_provenance(stored_run).config_yaml)
    config = load_config(again)
    assert config.input.path == str(tmp_path / "raw.npy")
    assert config.output.path == str(stored_run)


def test_a_report_replaces_a_report_but_no_other_file(stored_run: Path, tmp_path: Path) -> None:
    write_report(stored_run)
    write_report(stored_run)
    thesis = tmp_path / "thesis.html"
    thesis.write_text("<h1>years of work</h1>")
    with pytest.raises(InputError, match="is not a report of stillstack"):
        write_report(stored_run, thesis)
    assert thesis.read_text() == "<h1>years of work</h1>"
    assert GENERATOR in write_report(stored_run, tmp_path / "new" / "page.html").read_text("utf-8")


def test_the_source_may_be_gone_or_changed(stored_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "raw.npy", frames(5))
    assert (
        "raw.npy has the shape (5, 24, 32), and the run"
        in Page(write_report(stored_run).read_text("utf-8")).text
    )
    (tmp_path / "raw.npy").unlink()
    assert "Frames as recorded are not shown" in write_report(stored_run).read_text("utf-8")


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_report(tmp_path / "nothing.zarr")
    assert list(tmp_path.iterdir()) == []


def opened(run_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`stillstack report RUN --open` on a machine with this environment."""
    return subprocess.run(
        [sys.executable, "-m", "stillstack", "report", str(run_path), "--open"],
        env={"HOME": str(run_path.parent), **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_report_open_shows_the_page_in_the_browser(stored_run: Path, tmp_path: Path) -> None:
    browser, seen = tmp_path / "browser", tmp_path / "seen.txt"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{seen}"\n')
    browser.chmod(0o755)
    done = opened(stored_run, PATH=os.environ["PATH"], BROWSER=str(browser))
    page = report_path(stored_run)
    assert done.stdout.split() == [str(page)]
    assert seen.read_text().strip() == page.as_uri()


def test_report_open_says_where_there_is_no_browser(stored_run: Path, tmp_path: Path) -> None:
    done = opened(stored_run, PATH=str(tmp_path))
    assert done.stdout.split() == [str(report_path(stored_run))]
    assert "No browser could be started here" in done.stderr


# ------------------------------------------------------------------ planned and taken


def test_the_page_shows_what_was_planned_beside_what_it_took() -> None:
    attempt = {**KNOWN.attempts[0], "workers": 2, "worker_peak_bytes": 600_000_000}
    known = replace(KNOWN, planned=PLANNED, attempts=(attempt,))
    text = Page(render_report(run_dataset(), known, None)).text
    assert "Expected and taken Planned Taken Taken / planned" in text
    assert "time 50.0 s 40.0 s 0.80" in text
    assert "workers 2 2 1.00" in text
    assert "memory of a worker 800 MB 600 MB 0.75" in text
    assert "aligned frames 1.25 MB 1 MB 0.80" in text
    assert "coordinator" not in text  # it did not say
    # what a plan counts with where the kernels are not there yet is no excess
    memory = {**PLANNED["memory"], "needed_coordinator_bytes": 1_200_000_000}
    known = replace(
        known,
        planned={**PLANNED, "memory": memory},
        attempts=({**attempt, "coordinator_peak_bytes": 1_080_000_000},),
    )
    text = Page(render_report(run_dataset(), known, None)).text
    assert "memory of the coordinator 1.2 GB 1.08 GB 0.90" in text


def test_without_a_plan_nothing_is_compared() -> None:
    assert "Expected and taken" not in Page(render_report(run_dataset(), KNOWN, None)).text


@pytest.mark.parametrize(
    "other",
    [
        {"began": 0.0, "host": "pc", "outcome": "killed"},
        {"began": 50.0, "ended": 60.0, "outcome": "OSError: full"},
    ],
)
def test_the_time_of_a_run_is_compared_only_where_all_of_it_is_known(other: dict[str, Any]) -> None:
    complete = {**KNOWN.attempts[0], "worker_peak_bytes": 700_000_000}
    attempts = (other, complete) if other["outcome"] == "killed" else (complete, other)
    found = {e.what: e for e in expectations(PLANNED, attempts, 0)}
    assert set(found) == {"memory of a worker"}
    both = (complete, {**complete, "ended": 20.0, "worker_peak_bytes": 1})
    found = {e.what: e for e in expectations(PLANNED, both, 0)}
    assert found["time"].taken == 60.0
    assert found["memory of a worker"].taken == 700_000_000


def followed() -> xr.Dataset:
    """A run with a trajectory and groups, one of which could not be tied to the others."""
    run = run_dataset(20)
    run.attrs["trajectory"] = {
        "drift_rms": [1.5, 0.25],
        "jitter_std": [0.1, 0.0625],
        "jumps": [{"frame": 7, "size": [3.0, 0.0], "std": [0.1, 0.1]}],
        "gaps": [],
        "notes": ["No time coordinate: frame numbers stand for seconds."],
    }
    shift = np.array([[0.0, 0.0], [0.5, -2.0], [np.nan, np.nan]])
    run = run.assign_coords(group=("group", ["template", "-1.0", "2.0"]))
    run["group_shift"] = (("group", "axis"), shift)
    run["group_shift_std"] = (("group", "axis"), 0.01 * np.ones_like(shift))
    run["loop_closure"] = ("group", [0.0, 0.03, np.nan])
    run["group_index"] = ("frame", 1 + np.arange(20) // 15)
    return run


def test_the_report_tells_drift_from_jitter_and_what_became_of_groups() -> None:
    text = Page(render_report(followed(), KNOWN, None)).text
    assert "1.5, 0.25 px rms is drift" in text
    assert "0.1, 0.0625 px rms is jitter" in text
    assert "1 jumps of the sample, before frame 7" in text
    assert "pauses" not in text
    assert "frame numbers stand for seconds" in text
    assert "up to 2 px from their common template" in text
    assert "at worst to 0.03 px (group -1.0)" in text
    assert "1 groups could not be tied to the others: their 5 frames have no shift (2.0)" in text


def test_the_report_has_checks_that_do_not_rest_on_the_registration() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:96, :96]
    scene = 60 + 50 * np.cos(0.5 * x) * np.cos(0.4 * y)
    aligned = rng.poisson(scene, (24, 96, 96)).astype("f4")
    rows = table(24, {})
    run = xr.Dataset({c.name: (c.dims, rows[c.name]) for c in COLUMNS})
    everywhere = np.ones((96, 96), bool)
    run["reference"] = (("y", "x"), scene.astype("f4"))
    run["reference_valid"] = run["valid"] = (("y", "x"), everywhere)
    run["aligned"] = (("frame", "y", "x"), aligned)
    found = compare(run, None).checks
    assert found is not None
    assert found.rings.resolution_half_bit_px < 13  # the scene's own period is 12.6 px
    assert found.residual is not None
    assert found.residual.rms_px < 0.05
    moved = run.copy()
    moved["aligned"] = (
        ("frame", "y", "x"),
        np.concatenate([aligned[:12], np.roll(aligned[12:], 1, axis=2)]),
    )
    left = compare(moved, None).checks
    assert left is not None
    assert left.residual is not None
    assert left.residual.rms_px > 0.2
    text = Page(render_report(run, KNOWN, None)).text
    assert "Independent checks" in text
    assert "by another method" in text


# ------------------------------------------------------------------ what each pass took


def test_the_page_says_what_each_pass_took_where_the_run_kept_it(stored_run: Path) -> None:
    with lock_run(stored_run) as lock:
        store = RunStore.resume(lock)
        passes = [{"name": "align", "began": 101.5, "ended": 103.75, "worker_peak_bytes": 250e6}]
        attempt = {"began": 100.0, "ended": 104.0, "host": "pc", "outcome": "complete"}
        known = {**attempt, "passes": passes, "worker_peak_bytes": 250e6}
        store.write_note("attempts", [{**known, "coordinator_peak_bytes": 300e6}])
        text = Page(write_report(stored_run).read_text("utf-8")).text
        assert "align 8 2 1 2.2 s 1.0 s 125 ms 250 MB" in text
        assert "Before the first pass, with the reference: 1.5 s." in text
        assert "pc 250 MB 300 MB complete" in text
        store.write_note("attempts", [attempt, known])  # of a run that was killed and taken up
        text = Page(write_report(stored_run).read_text("utf-8")).text
        assert "align 8 2 1 not known 1.0 s 125 ms 250 MB" in text


# ------------------------------------------------------------------ thumbnails and flags


def test_each_status_bit_has_a_thumbnail_and_links_to_it() -> None:
    bad = BAD | dict.fromkeys(range(20, 40, 2), Status.SATURATED) | {50: Status.CLIPPED}
    bad |= dict.fromkeys(range(60, 100, 3), Status.STRUCK)
    run = run_dataset(120, bad)
    run["n_struck"][81] = 50
    shown = {one.index: one for one in thumbnails(run, FramesInMemory(frames(120)), {}, None)}
    assert {3, 7, 11, 50, 81} <= set(shown)
    assert "hit by an X-ray" in shown[81].why
    assert shown[11].picture is None  # it could not be read
    rows = {row.word: row for row in flag_rows(run, summarise(run), list(shown))}
    struck = rows["struck"]
    assert struck.count == 15
    assert struck.more
    assert [link.words for link in struck.links if link.shown] == ["81"]
    assert [link.words for link in struck.links][:3] == ["12", "60", "63"]
    assert rows["blank"].links[0].shown
    assert not rows["blank"].more


@given(st.sets(st.integers(0, 60)))
def test_intervals_hold_just_what_they_were_made_of(numbers: set[int]) -> None:
    parts = intervals(np.array(sorted(numbers), int))
    assert {k for start, stop in parts for k in range(start, stop)} == numbers
    assert (parts[1:, 0] > parts[:-1, 1]).all()  # at least one is missing between two


# ------------------------------------------------------------------ are the error bars right


def walk(n_frames: int, std: float, jitter: float = 0.0, seed: int = 0) -> xr.Dataset:
    """A slow drift, known to `std`, with jitter that no error bar knows of."""
    rng = np.random.default_rng(seed)
    rows = table(n_frames, {})
    truth = np.stack([np.sin(np.arange(n_frames) / 90), np.arange(n_frames) / 500], axis=1)
    noise = rng.normal(0, 1, (2, n_frames, 2))
    rows["shift"] = truth + std * noise[0] + jitter * noise[1]
    rows["shift_std"], rows["chi2"] = std, rng.normal(1, 0.02, n_frames)
    return xr.Dataset({c.name: (c.dims, rows[c.name]) for c in COLUMNS})


@pytest.mark.parametrize("wrong", [0.5, 1.0, 2.0])
def test_pulls_of_neighbours_tell_how_wrong_the_error_bars_are(wrong: float) -> None:
    widths = []
    for seed in range(40):
        run = walk(600, 0.02, seed=seed)
        run["shift_std"] = run["shift_std"] / wrong
        found = pulls_of(run)
        assert len(found.pull) == 598
        widths.append(found.width / wrong)
    assert np.mean(widths) == pytest.approx(1, abs=0.02)
    assert np.std(widths) == pytest.approx(found.width_std, rel=0.25)
    meaning = {0.5: "Less than 1", 1.0: "account for the scatter", 2.0: "More than 1"}
    assert meaning[wrong] in pulls_sentences(found)[0]


def test_jitter_is_not_taken_for_wrong_error_bars() -> None:
    found = pulls_of(walk(2000, 0.005, jitter=0.3))
    np.testing.assert_allclose(found.beyond, 0.3, rtol=0.06)
    said = " ".join(pulls_sentences(found))
    assert "jitters by 0.3" in said or "jitters by 0.29" in said or "jitters by 0.31" in said
    assert "cannot be seen" in said


def test_pulls_are_not_taken_across_bad_frames_jumps_and_groups() -> None:
    run = walk(300, 0.02)
    run["shift"][100:] += 50.0
    run["shift"][200] = 1000.0
    run["status"][200] = Status.OUTLIER | Status.NOT_CONVERGED
    assert np.abs(pulls_of(run).pull).max() > 500
    run["segment"] = ("frame", (np.arange(300) >= 100).astype("i4"))
    assert np.abs(pulls_of(run).pull).max() < 6
    assert len(pulls_of(run).pull) == 298 - 2 - 3


def test_pulls_are_of_shifts_as_estimated_where_a_trajectory_changed_them() -> None:
    run = walk(1000, 0.02)
    smooth = run.copy()
    smooth["shift_raw"], smooth["shift_raw_std"] = run["shift"], run["shift_std"]
    smooth["status_raw"] = run["status"]
    smooth["shift"] = run["shift"] * 0
    np.testing.assert_array_equal(pulls_of(smooth).pull, pulls_of(run).pull)


def test_too_few_frames_say_nothing_of_error_bars() -> None:
    found = pulls_of(walk(12, 0.02))
    assert np.isnan(found.width).all()
    assert "Too few frames" in pulls_sentences(found)[0]
    assert plot_pulls(found).axes


# ------------------------------------------------------------------ a long run


def long_run(saturated: bool) -> tuple[xr.Dataset, FramesInMemory]:
    """40,000 drifting frames of 640x640, noisy, some rejected and struck; or all saturated too."""
    n_frames, side = 40_000, 640
    rng = np.random.default_rng(8)
    noise = rng.poisson(60, (n_frames + side - 1, side)).astype(np.uint16)
    windows = np.lib.stride_tricks.sliding_window_view(noise, side, axis=0)  # takes no memory
    stack = windows.transpose(0, 2, 1)
    rows = table(n_frames, {})
    rows["shift"] = np.cumsum(rng.normal(0, 0.01, (n_frames, 2)), axis=0)
    rows["shift_std"] = rng.uniform(0.01, 0.02, (n_frames, 2))
    rows["ncc"], rows["chi2"] = rng.normal([[0.9], [1.0]], 0.01, (2, n_frames))
    bad, struck = np.split(rng.choice(n_frames, 3000, replace=False), [800])
    rows["status"][bad[:400]], rows["status"][bad[400:]] = Status.LOW_NCC, Status.BLANK
    rows["shift"][bad], rows["shift_std"][bad] = np.nan, np.nan
    rows["status"][struck] = Status.STRUCK
    if saturated:
        rows["status"] |= np.uint16(Status.SATURATED)
    run = xr.Dataset({c.name: (c.dims, rows[c.name]) for c in COLUMNS})
    everywhere = np.ones((side, side), bool)
    run["reference"] = (("y", "x"), stack[0].astype("f4"))
    run["reference_valid"] = run["valid"] = (("y", "x"), everywhere)
    run["aligned"] = (("frame", "y", "x"), stack)
    return run, FramesInMemory(stack)


@pytest.mark.parametrize("every", ["a few", "saturated", "rejected"])
def test_the_page_of_40_000_frames_is_under_5_mb(every: str) -> None:
    run, raw = long_run(saturated=every == "saturated")
    if every == "rejected":  # what weighs most: nearly as many as are drawn, no two in a row
        run["status"][:18_000:2] = Status.LOW_NCC | Status.SATURATED
    page = render_report(run, KNOWN, raw)
    assert 1_500_000 < len(page.encode()) < 5_000_000


def test_frames_that_are_drawn_hold_every_flagged_one_and_every_extreme() -> None:
    run, _ = long_run(saturated=False)
    kept = kept_frames(run)
    status, shift = run["status"].values, run["shift"].values
    assert set(np.flatnonzero(status)) <= set(kept)
    good = status & REJECTING == 0
    for k in range(2):
        _, least, _, most = envelope(np.where(good, shift[:, k], np.nan))
        assert set(least) <= set(shift[kept, k])
        assert set(most) <= set(shift[kept, k])
    assert len(kept) < 12_000
    np.testing.assert_array_equal(kept_frames(run_dataset(5000, {})), np.arange(5000))
    saturated, _ = long_run(saturated=True)
    rejected = np.flatnonzero(saturated["status"].values & REJECTING)
    assert set(rejected) <= set(kept_frames(saturated))
