"""The report in a real browser: what it draws, what it does, and that it needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from browser import Browser, Pixels, Tab, colours
from stillstack.explore import COLOURS, INFORM_COLOUR, REJECT_COLOUR
from stillstack.model import Status
from stillstack.report.page import render_report
from test_report import KNOWN, FramesInMemory, frames, long_run, run_dataset

pytestmark = pytest.mark.browser

ALONE = {3: Status.BLANK, 7: Status.LOW_NCC, 11: Status.UNREADABLE, 12: Status.STRUCK}
BAD = ALONE | dict.fromkeys(range(30, 36), Status.STRUCK) | dict.fromkeys((40, 41), Status.BLANK)
N_FRAMES = 60
RISE = 0.1  # px of y from frame to frame, as in the table of test_report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Report of 60 frames in which the scene moves, and no more after alignment."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:24, :32]
    scene = 60 + 50 * np.cos(0.5 * x) * np.cos(0.4 * y)
    aligned = rng.poisson(scene, (N_FRAMES, 24, 32)).astype("f4")
    raw = np.stack([np.roll(frame, -(k // 10), axis=0) for k, frame in enumerate(aligned)])
    run = run_dataset(N_FRAMES, BAD, aligned=aligned)
    path = tmp_path_factory.mktemp("report") / "page.html"
    path.write_text(render_report(run, KNOWN, FramesInMemory(raw.astype("u2"))), encoding="utf-8")
    return path


def drawn(tab: Tab, selector: str = "#plots") -> Pixels:
    """Screenshot of the plots once all of them are drawn."""
    tab.page.wait_for_function("document.querySelector('#plots').childElementCount > 0")
    tab.page.wait_for_function("Bokeh.documents.every((document) => document.is_idle)")
    return tab.picture("plots", selector)


def close_to(picture: Pixels, colour: str) -> NDArray[np.bool_]:
    """Where a picture (y, x, 3) has about this colour."""
    wanted = np.rint(np.array(to_rgb(colour)) * 255)
    close: NDArray[np.bool_] = np.abs(picture.astype(int) - wanted).max(axis=-1) < 24
    return close


def centre(where: NDArray[np.bool_]) -> tuple[float, float]:
    """Middle of the rightmost spot: x, y."""
    columns = np.flatnonzero(where.any(axis=0))
    spot = columns[columns > columns[-1] - 6]
    y, x = np.nonzero(where[:, spot])
    return float(spot[x].mean()), float(y.mean())


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_draws_without_a_complaint_or_a_request(
    browser: Browser, page: Path, width: int
) -> None:
    tab = browser.open(page, width=width)
    plots = drawn(tab)
    for colour in (COLOURS["y"], COLOURS["x"], REJECT_COLOUR, INFORM_COLOUR):
        assert np.count_nonzero(close_to(plots, colour)) > 30
    assert tab.overflow() == 0
    assert not tab.page.locator(".still").is_visible()
    for image in tab.page.locator("img:visible").all():
        assert image.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    assert colours(tab.picture("means", "#means ~ .pair")) > 1000
    tab.picture("page")
    tab.assert_quiet()


def test_a_point_tells_its_frame(browser: Browser, page: Path) -> None:
    tab = browser.open(page)
    points = close_to(drawn(tab), COLOURS["y"])
    points[: len(points) // 20] = False  # the legend
    points[len(points) // 3 :] = False  # the plots below
    told = tooltip_at(tab, *centre(points))
    last = N_FRAMES - 1
    assert f"Frame {last}: good" in told
    assert f"shift y {RISE * last:.4f} ± 0.0200 px" in told
    assert told.endswith(f"picture: frame {last}")  # of 60 good frames each has a picture
    assert colours(tab.picture("tooltip", ".bk-Tooltip")) > 200  # it has an image in it
    tab.assert_quiet()


def test_the_tick_of_a_rejected_frame_tells_why(browser: Browser, page: Path) -> None:
    tab = browser.open(page)
    ticks = close_to(drawn(tab), REJECT_COLOUR)
    ticks[len(ticks) // 2 :] = False
    told = tooltip_at(tab, *centre(ticks))
    assert "Frame 41: blank no shift; ncc 0.8000" in told
    assert "NaN" not in told
    tab.assert_quiet()


def tooltip_at(tab: Tab, x: float, y: float) -> str:
    """What the one tooltip says where the mouse is at (x, y) of the plots."""
    box = tab.page.locator("#plots").bounding_box()
    assert box is not None
    tab.page.mouse.move(box["x"] + x, box["y"] + y)
    tooltip = tab.page.locator(".bk-Tooltip:visible")
    tooltip.first.wait_for()
    assert tooltip.count() == 1
    return " ".join(tooltip.evaluate("(tooltip) => tooltip.shadowRoot.textContent").split())


def test_the_slider_uncovers_one_image_over_the_other(browser: Browser, page: Path) -> None:
    tab = browser.open(page)
    for heading in ("#means", "#difference"):
        slider = tab.page.locator(f"{heading} ~ .slider input").first
        pictures = {}
        for place in ("0", "50", "100"):
            slider.fill(place)
            pictures[place] = tab.picture(f"at-{place}", f"{heading} ~ .pair").astype(int)
        after, half, before = pictures.values()
        middle = half.shape[1] // 2
        assert changed(before, after) > 0.1
        assert changed(half[:, : middle - 4], before[:, : middle - 4]) < 0.001
        assert changed(half[:, middle + 4 :], after[:, middle + 4 :]) < 0.001
        slider.press("ArrowLeft")
        assert slider.input_value() == "99.5"
    tab.assert_quiet()


def changed(one: NDArray[np.int_], other: NDArray[np.int_]) -> float:
    """Share of pixels that differ by more than rounding."""
    return float(np.mean(np.abs(one - other).max(axis=-1) > 8))


def test_links_lead_to_frames(browser: Browser, page: Path) -> None:
    tab = browser.open(page)
    drawn(tab)
    flags = tab.page.locator("#flags ~ .scroll").first
    for frame in ALONE:
        flags.get_by_role("link", name=str(frame), exact=True).click()
        assert tab.page.url.endswith(f"#frame-{frame}")
        assert in_view(tab, f"#frame-{frame}")
    tab.page.locator("#frame-12").get_by_role("link").click()
    assert in_view(tab, "#drift")
    told = tab.page.locator("#frame-told").inner_text()
    assert told.startswith("Frame 12: y 1.2000 ± 0.0200 px, x -0.6000 ± 0.0300 px, ncc 0.8000")
    assert told.endswith("struck.")
    low, high = tab.page.evaluate(
        "(({start, end}) => [start, end])(Bokeh.documents[0].get_model_by_name('frames'))"
    )
    assert low < 12 < high
    tab.page.locator("#frame-3").get_by_role("link").click()
    assert "Frame 3: no shift in y, no shift in x" in tab.page.locator("#frame-told").inner_text()
    tab.assert_quiet()


def in_view(tab: Tab, selector: str) -> bool:
    box = tab.page.locator(selector).bounding_box()
    return box is not None and -1 <= box["y"] < 900


@pytest.mark.parametrize("touch", [False, True])
def test_fingers_scroll_the_page_where_they_touch_a_plot(
    browser: Browser, page: Path, touch: bool
) -> None:
    tab = browser.open(page, width=390, touch=touch)
    drawn(tab)
    surfaces = tab.page.locator(".bk-Canvas")
    assert surfaces.count() == 4
    for surface in surfaces.all():
        events = "canvas.shadowRoot.querySelector('.bk-events')"
        found = surface.evaluate(f"(canvas) => getComputedStyle({events}).touchAction")
        assert (found == "auto") == touch  # with a mouse, dragging zooms
    tab.assert_quiet()


def test_the_page_can_be_read_without_javascript(browser: Browser, page: Path) -> None:
    tab = browser.open(page, javascript=False)
    assert_stands_still(tab)
    tab.assert_quiet()


def assert_stands_still(tab: Tab) -> None:
    assert tab.page.locator(".still").is_visible()
    assert not tab.page.locator(".plots").is_visible()
    assert not tab.page.locator("input").first.is_visible()
    means = tab.page.locator("#means ~ .pair").first.locator("figure")
    boxes = [figure.bounding_box() for figure in means.all()]
    assert [box["y"] for box in boxes if box] == [boxes[0]["y"]] * 2  # type: ignore[index]
    for picture in ("#drift ~ .still img", "#means ~ .pair img"):
        assert colours(tab.picture("still", picture)) > 100


def test_print_has_the_still_twin(browser: Browser, page: Path) -> None:
    tab = browser.open(page)
    drawn(tab)
    printed = tab.printed("print").read_bytes()
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12
    tab.page.emulate_media(media="print")
    assert_stands_still_in_print(tab)
    tab.assert_quiet()


def assert_stands_still_in_print(tab: Tab) -> None:
    assert tab.page.locator(".still").is_visible()
    assert not tab.page.locator(".plots").is_visible()
    assert tab.page.locator("input:visible").count() == 0
    boxes = tab.page.locator("#means ~ .pair").first.locator("figure").all()
    left, right = (box.bounding_box() for box in boxes)
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]


@pytest.mark.parametrize(
    ("whole", "broken"),
    [("Bokeh.embed.embed_item(", "Bokeh.embed.nothing("), ('"doc": {', '"dock": {')],
)
def test_plots_that_cannot_be_drawn_leave_the_still_twin(
    browser: Browser, page: Path, tmp_path: Path, whole: str, broken: str
) -> None:
    html = page.read_text("utf-8")
    assert whole in html
    damaged = tmp_path / "damaged.html"
    damaged.write_text(html.replace(whole, broken), encoding="utf-8")
    tab = browser.open(damaged)
    tab.page.locator(".still").wait_for(state="visible")
    assert not tab.page.locator(".plots").is_visible()
    assert tab.complaints


def test_what_a_run_is_called_does_not_run(browser: Browser, tmp_path: Path) -> None:
    from stillstack.report.provenance import Provenance

    hostile = "</script><script>document.title='run'</script><img src=x onerror=alert(1)>"
    run = run_dataset(aligned=frames() / 1.0)
    provenance = Provenance(name=hostile, path=hostile, config_yaml=hostile, title=hostile)
    page = tmp_path / "page.html"
    page.write_text(render_report(run, provenance, FramesInMemory(frames())), encoding="utf-8")
    tab = browser.open(page)
    drawn(tab)
    assert tab.page.title().startswith("</script>")
    tab.assert_quiet()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_long_run_is_drawn_and_zoomed(browser: Browser, tmp_path: Path, width: int) -> None:
    run, raw = long_run(saturated=False)
    page = tmp_path / "long.html"
    page.write_text(render_report(run, KNOWN, raw), encoding="utf-8")
    tab = browser.open(page, width=width)
    before = drawn(tab)
    assert np.count_nonzero(close_to(before, COLOURS["y"])) > 300
    flagged = np.flatnonzero(run["status"].values)
    neighbours = zip(flagged[:-2], flagged[1:-1], flagged[2:], strict=True)
    alone = next(b for a, b, c in neighbours if b - a > 1 and c - b > 1)
    tab.page.locator(f"a[data-frame='{alone}']").first.click()
    assert f"Frame {alone}: " in tab.page.locator("#frame-told").inner_text()
    after = drawn(tab)
    assert before.shape == after.shape
    assert changed(before.astype(int), after.astype(int)) > 0.02
    assert tab.overflow() == 0
    tab.assert_quiet()
