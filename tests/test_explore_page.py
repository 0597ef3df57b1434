"""The explorer's pages in a real browser: they draw, they answer, and let in nobody else."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

import stillstack
from browser import Browser, Tab, colours
from stillstack.config import load_config
from stillstack.simulation import beam_block_figure, simulate_stack
from stillstack.sources import image_of
from stillstack.valid import valid_from_config

pytestmark = pytest.mark.browser
SHAPE = (96, 128)
Serve = Callable[[Path], str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with some rejected frames, and its config beside it."""
    folder = tmp_path_factory.mktemp("page")
    stack = simulate_stack(40, SHAPE, seed=4, drift_px=4.0)
    np.save(folder / "frames.npy", stack.read(0, 40))
    block = beam_block_figure(SHAPE, margin_px=3.0)
    (folder / "run.yaml").write_text(
        "input: {path: frames.npy}\noutput: {path: out.zarr}\n"
        f"valid: {{frames: {{exclude: [{{rectangle: {list(block.rod)}}}, "
        f"{{circle: {list(block.disc)}}}]}}}}\n"
        "registration: {max_shift_px: 16}\ncluster: {workers: 1}\n",
        encoding="utf-8",
    )
    stillstack.run(folder / "run.yaml")
    return folder / "out.zarr"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serve]:
    """Serves the explorer of a run or a config in a process of its own, and ends it by Ctrl-C."""
    started: list[subprocess.Popen[str]] = []
    errors = tmp_path / "stderr"

    def serve(path: Path) -> str:
        with errors.open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "stillstack", "explore", str(path)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        started.append(process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), errors.read_text("utf-8")
        return url

    yield serve
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, errors.read_text("utf-8")
        if process.stdout is not None:
            process.stdout.close()
    told = errors.read_text("utf-8")
    assert "Traceback" not in told
    assert "Ended." in told


def changed(tab: Tab, name: str, selector: str, before: NDArray[Any]) -> NDArray[Any]:
    """Picture of an element as soon as it is another one than before."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        picture = tab.picture(name, selector)
        if picture.shape != before.shape or not np.array_equal(picture, before):
            return picture
        tab.page.wait_for_timeout(200)
    pytest.fail(f"{selector} did not change in a minute: {name}")


def drawn(tab: Tab, name: str, selector: str) -> NDArray[Any]:
    """Picture of an element as soon as there is an image in it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if tab.page.locator(selector).count():
            picture = tab.picture(name, selector)
            if colours(picture) > 100:
                return picture
        tab.page.wait_for_timeout(200)
    pytest.fail(f"nothing was drawn in {selector} in a minute")


def settled(tab: Tab, text: str) -> None:
    """Wait until the page says something."""
    tab.page.get_by_text(text).first.wait_for()


def press(tab: Tab, name: str) -> None:
    tab.page.get_by_role("button", name=name, exact=True).click()


def test_frames_are_drawn_and_the_slider_the_filter_and_a_click_choose_them(
    browser: Browser, run: Path, served: Serve
) -> None:
    tab = browser.open(served(run))
    before = drawn(tab, "before", ".before")
    after, third = drawn(tab, "after", ".after"), drawn(tab, "third", ".third")
    assert not np.array_equal(before, after)
    assert not np.array_equal(after, third)
    settled(tab, "frame 0")

    tab.page.get_by_role("slider").first.focus()
    tab.page.keyboard.press("ArrowRight")
    settled(tab, "frame 1")
    second = changed(tab, "second", ".before", before)

    opened = stillstack.open_run(run)
    rejected = np.flatnonzero(~stillstack.is_good(opened.status.values))
    tab.page.get_by_label("frames", exact=True).select_option(label=f"rejected ({len(rejected)})")
    settled(tab, f"frame {rejected[0]}")
    changed(tab, "rejected", ".before", second)
    settled(tab, "rejected: ")
    tab.page.get_by_label("frames", exact=True).select_option(label="all (40)")

    plot = tab.page.locator(".drift").bounding_box()
    assert plot is not None
    tab.page.mouse.click(plot["x"] + 0.5 * plot["width"], plot["y"] + 0.6 * plot["height"])
    deadline = time.monotonic() + 60
    number = int(rejected[0])
    while time.monotonic() < deadline and not 17 <= number <= 23:
        told = tab.page.get_by_label("frame", exact=True).input_value()
        number = int(told)
        tab.page.wait_for_timeout(100)
    assert 17 <= number <= 23  # the middle of forty
    settled(tab, f"frame {number}")
    drawn(tab, "clicked", ".after")
    assert tab.overflow() == 0
    tab.picture("page")
    tab.assert_quiet()


def test_two_images_blink_in_one_place(browser: Browser, run: Path, served: Serve) -> None:
    tab = browser.open(served(run))
    third = drawn(tab, "difference", ".third")
    tab.page.get_by_label("third image").select_option("before / after")
    first = changed(tab, "chosen", ".third", third)
    press(tab, "Blink")
    second = changed(tab, "blinked", ".third", first)
    again = changed(tab, "again", ".third", second)
    assert colours(second) > 100
    assert not np.array_equal(second, again)
    tab.assert_quiet()


def test_zooming_into_one_image_zooms_into_all(browser: Browser, run: Path, served: Serve) -> None:
    tab = browser.open(served(run))
    after = drawn(tab, "whole", ".after")
    place = tab.page.locator(".before").bounding_box()
    assert place is not None
    tab.page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    tab.page.mouse.wheel(0, -600)
    zoomed = changed(tab, "zoomed", ".after", after)
    assert colours(zoomed) > 50
    tab.assert_quiet()


def asked(port: int, path: str) -> http.client.HTTPResponse:
    """What the server answers to a request without a cookie."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer
    finally:
        connection.close()


def test_whoever_has_no_token_is_refused(run: Path, served: Serve) -> None:
    parts = urlsplit(served(run))
    port, token = parts.port, parts.query.removeprefix("token=")
    assert port is not None
    for path in (
        "/",
        "/?token=",
        f"/?token={token[:-1]}",
        "/ws",
        "/metadata",
        "/autoload.js?bokeh-autoload-element=1",
    ):
        assert asked(port, path).status == 403, path
    answer = asked(port, f"/?{parts.query}")
    assert answer.status == 200
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert "SameSite=Strict" in answer.headers["Set-Cookie"]
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for address in others - {"127.0.0.1", "::1"}:
        with socket.socket() as elsewhere:
            assert elsewhere.connect_ex((str(address), port)) != 0


@pytest.fixture
def config(run: Path, tmp_path: Path) -> Path:
    """A config that has not been run."""
    text = (run.parent / "run.yaml").read_text("utf-8")
    path = tmp_path / "new.yaml"
    path.write_text(text.replace("frames.npy", str(run.parent / "frames.npy")), encoding="utf-8")
    return path


def test_what_is_drawn_in_the_editor_is_in_the_saved_config(
    browser: Browser, config: Path, served: Serve
) -> None:
    before = load_config(config).valid.frames.exclude
    tab = browser.open(served(config))
    image = drawn(tab, "empty", ".canvas")
    place = tab.page.locator(".canvas canvas").first.bounding_box()
    assert place is not None

    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag from one part of the figure to another."""
        nonlocal image
        (x0, y0), (x1, y1) = (
            (place["x"] + x * place["width"], place["y"] + y * place["height"])
            for x, y in (start, end)
        )
        tab.page.mouse.move(x0, y0)
        tab.page.mouse.down()
        tab.page.mouse.move(x1, y1, steps=8)
        tab.page.mouse.up()

    press(tab, "Rectangle")
    settled(tab, "from corner to corner")
    drag((0.2, 0.2), (0.35, 0.3))
    tab.page.get_by_role("textbox").nth(2).wait_for()
    image = changed(tab, "rectangle", ".canvas", image)
    press(tab, "Circle")
    settled(tab, "to the rim")
    drag((0.7, 0.25), (0.75, 0.25))
    tab.page.get_by_role("textbox").nth(3).wait_for()
    press(tab, "Polygon")
    settled(tab, "Click on each corner")
    for x, y in ((0.6, 0.7), (0.8, 0.7), (0.8, 0.8)):
        tab.page.mouse.click(place["x"] + x * place["width"], place["y"] + y * place["height"])
        tab.page.wait_for_timeout(600)  # two clicks that follow at once would be a double click
    tab.page.mouse.dblclick(place["x"] + 0.65 * place["width"], place["y"] + 0.78 * place["height"])
    tab.page.get_by_role("textbox").nth(4).wait_for()
    press(tab, "Brush")
    settled(tab, "what does not count")
    image = tab.picture("figures", ".canvas")
    drag((0.2, 0.6), (0.3, 0.75))
    settled(tab, "a file of painted pixels")
    changed(tab, "brushed", ".canvas", image)
    tab.picture("page")
    press(tab, "Save to config")
    settled(tab, "Saved to")
    tab.picture("saved")
    assert tab.overflow() == 0
    tab.assert_quiet()

    spec = load_config(config).valid.frames
    figures = spec.exclude[len(before) :]
    assert spec.exclude[: len(before)] == before
    assert [bool(f.rectangle) for f in figures] == [True, False, False]
    rectangle, circle, polygon = figures[0].rectangle, figures[1].circle, figures[2].polygon
    assert rectangle is not None
    assert circle is not None
    assert polygon is not None
    assert len(polygon) == 4
    y0, y1, x0, x1 = (float(edge) for edge in rectangle)
    # pixels of the screen for one of the detector
    scale = 640 / SHAPE[1]
    assert abs((x1 - x0) - 0.15 * place["width"] / scale) < 1.5
    assert abs((y1 - y0) - 0.1 * place["height"] / scale) < 1.5
    valid = valid_from_config(spec, SHAPE, image_of)
    assert not valid[int(y0) : int(y1), int(x0) : int(x1)].any()
    painted = image_of(config.with_name("new-valid.png"))
    assert 20 < (painted == 0).sum() < 0.2 * painted.size
    assert spec.image == str(config.with_name("new-valid.png"))
