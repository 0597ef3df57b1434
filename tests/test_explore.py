"""The explorer's model: what is shown of which frame, how much is read of it, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import stillstack
from stillstack.config import make_config
from stillstack.errors import InputError, MissingExtraError, UnreadableFrameError
from stillstack.explore import FrameBrowser, Frames, browse, frames_of_run, plot_frame
from stillstack.explore.browser import THIRD
from stillstack.explore.drift_panel import DriftPanel
from stillstack.explore.frames import caption, choices, nearest
from stillstack.explore.opened import frames_of_table
from stillstack.explore.plots import MAX_BARS
from stillstack.explore.screen import Window, outline, tile_of
from stillstack.inspection import fingerprint_of
from stillstack.model import COLUMNS, Status, empty_table
from stillstack.simulation import beam_block_figure, simulate_stack
from stillstack.sources import open_source, open_stack
from stillstack.storage import RunStore, RunTemplate, lock_run

SCREEN = 1280 * 800


def settings(folder: Path, **output: Any) -> dict[str, Any]:
    block = beam_block_figure((128, 96), margin_px=3.0)
    return {
        "input": {"path": str(folder / "frames.npy")},
        "output": {"path": str(folder / "out.zarr"), "block_frames": 4, **output},
        "valid": {"frames": {"exclude": [{"rectangle": block.rod}, {"circle": block.disc}]}},
        "registration": {"max_shift_px": 16},
        "cluster": {"workers": 1},
    }


def written(folder: Path) -> Path:
    stack = simulate_stack(40, (128, 96), seed=4, drift_px=4.0)
    np.save(folder / "frames.npy", stack.read(0, 40))
    return folder


@pytest.fixture(scope="module", params=["stored", "virtual"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose aligned frames were written, or are made when asked for."""
    folder = written(tmp_path_factory.mktemp(request.param))
    stillstack.run(settings(folder, aligned=request.param == "stored"))
    return folder / "out.zarr"


def frames_in_memory(
    n_frames: int = 6,
    shape: tuple[int, int] = (24, 32),
    bad: dict[int, Status] | None = None,
    raw: Any = None,
) -> Frames:
    """Frames that are all their own number, aligned ones a hundred more."""
    rows = empty_table(n_frames, Status(0))
    rows["shift"], rows["shift_std"], rows["intensity"] = 1.0, 0.1, 2.0
    rows["background"] = 3.0
    for number, status in (bad or {}).items():
        rows["status"][number], rows["shift"][number] = status, np.nan
    valid = np.ones(shape, bool)
    valid[:4, :5] = False
    return Frames(
        name="memory",
        shape=(n_frames, *shape),
        table={column.name: rows[column.name] for column in COLUMNS},
        valid=valid,
        references=np.full((1, *shape), 7, np.float32),
        raw=raw or (lambda number: np.full(shape, number, np.uint16)),
        aligned=lambda number: np.full(shape, number + 100, np.float32),
    )


def pixels(picture: Any) -> NDArray[Any]:
    assert picture.pixels is not None, picture.why
    found: NDArray[Any] = picture.pixels
    return found


def test_a_frame_is_shown_as_it_was_recorded_and_as_the_run_has_it(run: Path) -> None:
    frames, opened = frames_of_run(run), stillstack.open_run(run)
    raw = np.load(run.parent / "frames.npy")
    good = np.flatnonzero(stillstack.is_good(opened.status.values))
    for number in good[[0, 7, -1]]:
        assert np.array_equal(pixels(frames.before(number)), raw[number])
        wanted = opened.aligned[number].values
        assert np.array_equal(pixels(frames.after(number)), wanted, equal_nan=True)


def test_a_rejected_frame_has_no_image_after_and_says_why(run: Path) -> None:
    frames = frames_of_run(run)
    bad = choices(frames.status)["blank"][0]
    assert pixels(frames.before(bad)).shape == (128, 96)
    assert frames.after(bad).pixels is None
    assert "blank" in frames.after(bad).why
    assert frames.difference(bad, "after").pixels is None


def test_an_aligned_frame_that_was_lost_is_not_shown_as_a_good_one() -> None:
    whole = frames_in_memory()
    lost = replace(whole, aligned=lambda _: np.full((24, 32), np.nan, np.float32))
    assert "stillstack verify" in lost.after(1).why
    assert not whole.after(1).why
    assert "stillstack verify" in FrameBrowser(lost).after.figure.title.text


def test_what_is_left_after_is_noise_and_before_is_the_drift(run: Path) -> None:
    frames = frames_of_run(run)
    shift = np.linalg.norm(np.nan_to_num(frames.table["shift"]), axis=1)
    number = int(np.argmax(shift))
    before, after = (frames.difference(number, side) for side in ("before", "after"))
    assert np.nanstd(pixels(after)) < 0.7 * np.nanstd(pixels(before))
    valid = frames.valid
    assert valid is not None
    assert np.isnan(pixels(before)[~valid]).all()


def test_the_difference_takes_the_scaled_reference_away() -> None:
    left = pixels(frames_in_memory().difference(2, "after"))
    assert np.array_equal(np.unique(left), [102 - (2 * 7 + 3)])


def test_the_difference_to_another_frame_takes_that_frame_away() -> None:
    frames = frames_in_memory(bad={4: Status.BLANK})
    assert np.unique(pixels(frames.difference(5, "after", other=2))) == [3]
    assert "blank" in frames.difference(5, "after", other=4).why


def test_aligned_frames_of_another_canvas_meet_the_reference_where_they_lie() -> None:
    whole = frames_in_memory(shape=(10, 12))
    reference = np.arange(120, dtype=np.float32).reshape(1, 10, 12)
    frames = replace(
        whole,
        references=reference,
        aligned=lambda _: np.zeros((3, 4), np.float32),
        origin=(2, 5),
    )
    assert np.array_equal(pixels(frames.difference(1, "after")), -2 * reference[0, 2:5, 5:9] - 3)


def test_filters_are_the_status_bits_that_some_frame_has() -> None:
    status = np.array([0, Status.STRUCK, Status.BLANK, Status.PENDING, Status.LOW_NCC], "u2")
    found = {name: numbers.tolist() for name, numbers in choices(status).items()}
    assert found == {
        "all": [0, 1, 2, 3, 4],
        "good": [0, 1],
        "rejected": [2, 3, 4],
        "pending": [3],
        "blank": [2],
        "low_ncc": [4],
        "struck": [1],
    }


@given(st.lists(st.integers(0, 1000), min_size=1, unique=True), st.floats(-50, 1050))
def test_a_click_finds_the_nearest_frame_that_is_left(numbers: list[int], wanted: float) -> None:
    left = np.sort(np.array(numbers))
    found = left[nearest(left, wanted)]
    assert all(abs(found - wanted) <= abs(other - wanted) for other in left)


def test_the_slider_moves_among_the_frames_of_the_filter_alone() -> None:
    browser = FrameBrowser(frames_in_memory(8, bad={2: Status.BLANK, 5: Status.LOW_NCC}))
    browser.choose_near(3.2)
    assert browser.number == 3
    browser.filter("rejected")
    assert browser.number == 2
    assert browser.slider.end == 1
    browser.slider.value = 1
    assert browser.number == 5
    browser.choose_near(0)
    assert browser.number == 2
    browser.filter("good")
    assert browser.numbers.tolist() == [0, 1, 3, 4, 6, 7]


def test_a_filter_that_leaves_nothing_is_said_and_not_taken() -> None:
    browser = FrameBrowser(frames_in_memory(3))
    browser.filter("rejected")
    assert "No frame" in browser.notice.object
    assert browser.filter_box.value == "all"
    assert len(browser.numbers) == 3


@pytest.mark.parametrize("third", THIRD)
def test_the_third_image_is_what_was_asked_for(third: str) -> None:
    frames = frames_in_memory()
    browser = FrameBrowser(frames)
    browser.slider.value = 4
    browser.third_box.value = third
    values = {"before": 4, "after": 104, "reference": 7}
    wanted = [values.get(side.removeprefix("difference ")) for side in third.split(" / ")]
    if third.startswith("difference"):
        sides = third.removeprefix("difference ").split(" / ")
        wanted = [values[side] - (2 * 7 + 3) for side in sides]
    shown = [s.data["image"] for s in browser.third._sources if s.data["image"]]
    assert [np.unique(image[0][np.isfinite(image[0])]).tolist() for image in shown] == [
        [value] for value in wanted
    ]
    assert browser.blink_button.disabled == (len(wanted) == 1)


@pytest.mark.parametrize(
    "frames",
    [
        frames_in_memory(1),
        frames_in_memory(1, bad={0: Status.PENDING}),
        frames_in_memory(5, bad=dict.fromkeys(range(5), Status.BLANK)),
        frames_in_memory(5, bad=dict.fromkeys(range(5), Status.PENDING)),
        frames_in_memory(3, raw=lambda _: np.full((24, 32), np.nan, np.float32)),
        frames_in_memory(3, raw=lambda _: np.where(np.eye(24, 32), np.inf, -1.5)),
        frames_in_memory(2, shape=(1, 1)),
        frames_in_memory(2, shape=(3, 900)),
    ],
    ids=["one", "one pending", "all bad", "all pending", "NaN", "inf", "one pixel", "flat"],
)
def test_odd_runs_can_be_browsed(frames: Frames) -> None:
    browser = FrameBrowser(frames)
    for third in THIRD:
        browser.third_box.value = third
    for scale in ("linear", "log", "auto"):
        browser.scale_box.value = scale
    browser.choose_near(1e9)
    assert browser.number == frames.shape[0] - 1


def test_what_cannot_be_read_is_said_in_its_place() -> None:
    def broken(number: int) -> NDArray[Any]:
        raise UnreadableFrameError(f"frame_{number}.tif is cut off")

    browser = FrameBrowser(frames_in_memory(raw=broken))
    assert "frame_0.tif is cut off" in browser.before.figure.title.text
    assert browser.after._sources[0].data["image"]


def test_large_frames_come_down_to_a_screen_and_zooming_in_shows_their_pixels() -> None:
    def ramp(number: int) -> NDArray[Any]:
        return np.arange(4096, dtype=np.float32) + 5000 * np.arange(4096)[:, None] + number

    frames = frames_in_memory(2, shape=(4096, 4096), raw=ramp)
    browser = FrameBrowser(frames)
    panels = (browser.before, browser.after, browser.third)
    assert all(panel.sent_pixels() > 200 * 200 for panel in panels)
    assert sum(panel.sent_pixels() for panel in panels) <= SCREEN
    browser._looked({"x": [999.5, 1099.5], "y": [2099.5, 1999.5]})
    image = browser.before._sources[0].data["image"][0]
    place = browser.before._sources[0].data
    first = int(place["y"][0] + 0.5), int(place["x"][0] + 0.5)
    assert np.array_equal(
        image, ramp(0)[first[0] :, first[1] :][: image.shape[0], : image.shape[1]]
    )
    assert first[0] <= 2000
    assert first[0] + image.shape[0] >= 2100
    assert sum(panel.sent_pixels() for panel in panels) <= SCREEN


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.floats(-9, 49), st.floats(-9, 49), st.floats(-9, 49), st.floats(-9, 49)),
    st.integers(1, 20),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_a_tile_covers_what_is_looked_at_with_means_of_whole_pixels(
    shape: tuple[int, int], edges: tuple[float, ...], limit: int, origin: tuple[int, int]
) -> None:
    image = np.random.default_rng(3).normal(size=shape)
    (y0, y1), (x0, x1) = sorted(edges[:2]), sorted(edges[2:])
    tile = tile_of(image, Window(y0, y1, x0, x1), origin=origin, limit=limit)
    assert max(tile.pixels.shape) <= limit
    top, left = round(tile.y + 0.5) - origin[0], round(tile.x + 0.5) - origin[1]
    size = round(tile.height / tile.pixels.shape[0])
    assert tile.height == size * tile.pixels.shape[0]
    assert tile.width == size * tile.pixels.shape[1]
    first = image[top : top + size, left : left + size]
    if tile.pixels.shape[0] > 1 and tile.pixels.shape[1] > 1:
        assert np.isclose(tile.pixels[0, 0], first.mean())
    if -0.5 + origin[0] <= y0 <= shape[0] - 1 + origin[0]:
        assert tile.y <= y0


def test_the_outline_runs_along_the_edge_of_the_pixels() -> None:
    valid = np.zeros((9, 9), bool)
    valid[2:5, 3:8] = True
    (line,) = outline(valid)
    assert line.min(axis=0).tolist() == [1.5, 2.5]
    assert line.max(axis=0).tolist() == [4.5, 7.5]
    assert outline(~np.ones((3, 3), bool)) == []


def test_a_long_drift_is_drawn_as_medians_until_one_looks_closer() -> None:
    n_frames = 300_000
    rows = empty_table(n_frames, Status(0))
    rows["shift"] = np.arange(n_frames)[:, None]
    rows["status"][::3] = Status.BLANK
    clicked: list[float] = []
    drift = DriftPanel({n: rows[n] for n in rows.dtype.names or ()}, clicked.append, 1220)
    sent = sum(len(s.data["frame"]) for s in [*drift._sources.values(), drift._rejected])
    assert sent < 10_000
    drift._moved({"x": [1000.2, 1499.7], "y": [0, 1]})
    data = drift._sources["y"].data
    assert len(data["frame"]) <= MAX_BARS
    good = np.isfinite(data["value"])
    assert np.array_equal(data["value"][good], data["frame"][good])
    assert good.sum() == 2 * len(good) // 3 or abs(good.sum() - 2 * len(good) / 3) < 1


def test_a_run_that_goes_on_shows_what_is_there(tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.frames_done >= 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        stillstack.run(settings(written(tmp_path)), progress=stop)
    frames = frames_of_run(tmp_path / "out.zarr")
    pending = choices(frames.status)["pending"]
    assert len(pending) > 20
    number = int(pending[-1])
    assert pixels(frames.before(number)).shape == (128, 96)
    assert "not computed yet" in frames.after(number).why
    FrameBrowser(frames).filter("pending")


def test_without_its_raw_frames_a_run_shows_what_it_has(run: Path, tmp_path: Path) -> None:
    raw = run.parent / "frames.npy"
    number = int(choices(frames_of_run(run).status)["good"][0])
    raw.rename(tmp_path / "gone.npy")
    try:
        frames = frames_of_run(run)
        assert "not at" in frames.before(number).why
        after = frames.after(number)
        if "stored" in str(run):
            assert np.isfinite(pixels(after)).any()
        else:
            assert "not there any more" in after.why
        FrameBrowser(frames)
    finally:
        (tmp_path / "gone.npy").rename(raw)


def test_a_dataset_that_was_rearranged_is_refused(run: Path) -> None:
    opened = stillstack.open_run(run)
    assert frames_of_run(opened).shape == (40, 128, 96)
    for other in (opened.isel(frame=slice(3, 9)), opened.isel(frame=slice(None, None, -1))):
        with pytest.raises(InputError, match="beside the shifts of others"):
            frames_of_run(other)
    with pytest.raises(InputError, match="which run it is of"):
        frames_of_run(xr.Dataset())


def test_a_table_in_no_store_is_browsed_with_its_stack(run: Path) -> None:
    stack = open_stack(run.parent / "frames.npy")
    table = stillstack.open_run(run)[["shift", "shift_std", "status"]]
    browser = browse(table, stack)
    assert np.array_equal(pixels(browser.frames.before(3)), stack[3].values)
    good = int(choices(browser.frames.status)["good"][1])
    assert np.isfinite(pixels(browser.frames.after(good))).any()
    with pytest.raises(InputError, match="which row belongs to which frame"):
        frames_of_table(table.isel(frame=slice(4)), stack, stack)


def test_xarray_objects_can_be_asked(run: Path) -> None:
    opened = stillstack.open_run(run)
    good = opened.stillstack.good
    assert good.dims == ("frame",)
    assert good.sum() == stillstack.is_good(opened.status.values).sum()
    assert opened.stillstack.browse().frames.shape == (40, 128, 96)
    number = int(np.flatnonzero(good.values)[0])
    for figure in (
        opened.stillstack.plot_drift(),
        opened.stillstack.plot_status(),
        opened.stillstack.plot_frame(number),
        opened.stillstack.plot_frame(number, other=int(np.flatnonzero(good.values)[-1])),
    ):
        assert figure.axes


def test_a_frame_on_paper_has_three_images_or_says_why_not(tmp_path: Path) -> None:
    frames = frames_in_memory(4, bad={2: Status.BLANK})
    assert len([a for a in plot_frame(frames, 1).axes if a.get_images()]) == 3
    figure = plot_frame(frames, 2)
    assert len([a for a in figure.axes if a.get_images()]) == 1
    assert any("blank" in text.get_text() for a in figure.axes for text in a.texts)
    figure.savefig(tmp_path / "frame.pdf")
    with pytest.raises(InputError, match="no frame 9"):
        plot_frame(frames, 9)


def test_the_caption_says_shift_status_and_coordinates() -> None:
    frames = frames_in_memory(3, bad={1: Status.LOW_NCC})
    frames = replace(frames, table={**frames.table, "delay": np.array([0.5, 1.5, 2.5])})
    told = dict(caption(frames, 0))
    assert told["status"] == "good"
    assert told["shift y"] == "1.000 ± 0.1 px"
    assert told["delay"] == "0.5"
    assert dict(caption(frames, 1))["status"] == "rejected: low ncc"
    assert "shift y" not in dict(caption(frames, 1))


def bytes_read() -> int:
    """Bytes that this process has read from files so far, as the kernel counts them."""
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


HUGE = (36_000, 2048, 2048)
HUGE_FRAME = 2048 * 2048 * 2
MARKED = (17, 20_000, 35_990)


@pytest.fixture
def huge(tmp_path: Path) -> Iterator[Path]:
    """A run over 302 GB of frames, and as much of aligned ones, hardly any of it on the disk."""
    raw = tmp_path / "huge.npy"
    with raw.open("wb") as file:
        header = {"descr": "<u2", "fortran_order": False, "shape": HUGE}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        try:
            file.truncate(start + HUGE[0] * HUGE_FRAME)
        except OSError:
            pytest.skip("this file system holds no sparse file of 302 GB")
        for number in MARKED:
            file.seek(start + number * HUGE_FRAME)
            file.write(np.full(HUGE[1:], number, "<u2").tobytes())
    rows = empty_table(HUGE[0], Status(0))
    rows["shift"], rows["shift_std"] = 0.25, 0.01
    given = {"input": {"path": str(raw)}, "output": {"path": str(tmp_path / "huge.zarr")}}
    config = make_config(given)
    everywhere = np.ones(HUGE[1:], bool)
    template = RunTemplate(
        n_frames=HUGE[0],
        frame_shape=HUGE[1:],
        config_digest="c",
        source_fingerprint=fingerprint_of(config, open_source(raw), None),
        reference=np.full(HUGE[1:], 5, np.float32),
        reference_valid=everywhere,
        valid=everywhere,
        aligned_dtype="uint16",
        block_frames=1,
        attrs={"config": {"input": {"path": str(raw), "variable": None}}},
    )
    with lock_run(tmp_path / "huge.zarr") as lock:
        store = RunStore.create(lock, template, durable=False)
        for number in MARKED:
            store.write_block(number, np.full((1, *HUGE[1:]), number + 1, np.uint16))
        store.write_table(rows)
    yield tmp_path / "huge.zarr"
    raw.unlink()


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts bytes read")
def test_a_run_of_300_gb_is_browsed_by_reading_the_frames_that_are_shown(huge: Path) -> None:
    assert huge.with_name("huge.npy").stat().st_size > 300e9
    FrameBrowser(frames_in_memory())  # what is imported when first used is no reading of frames
    before = bytes_read()
    browser = FrameBrowser(frames_of_run(huge))
    for number in MARKED:
        browser.choose_near(number)
        assert browser.number == number
        for panel, value in ((browser.before, number), (browser.after, number + 1)):
            assert np.unique(panel._sources[0].data["image"][0]) == [value]
    used = bytes_read() - before
    shown = (1 + len(MARKED)) * HUGE_FRAME
    assert shown <= used <= shown + 16 * 2**20, f"{used:,} bytes for {shown:,} of raw frames"


def test_without_panel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "panel", None)
    with pytest.raises(MissingExtraError, match=r"stillstack\[explore\]"):
        browse("anything.zarr")
