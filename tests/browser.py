"""A real browser for tests: Debian's chromium, headless, driven by Playwright.

A test with the mark ``browser`` takes the fixture ``browser`` (in conftest) and opens pages in it:

    @pytest.mark.browser
    def test_the_page_draws(browser: Browser, tmp_path: Path) -> None:
        tab = browser.open(tmp_path / "page.html", width=390)
        tab.page.get_by_role("slider").press("ArrowRight")
        assert colours(tab.picture("after", "#means canvas")) > 20
        assert tab.overflow() == 0
        tab.assert_quiet()

- `Browser.open(page, width=1280, height=900, javascript=True, touch=False)` takes a file, or an
  address of a server on loopback, waits until it is loaded, and gives a `Tab`. That of a file is
  offline; one to touch has fingers instead of a mouse.
- `Tab.page` is Playwright's page: locators, mouse, keyboard, `evaluate`, `wait_for_function`.
- `Tab.picture(name, selector=None)` is a screenshot of an element, or of the whole page, an array
  (height, width, 3); it is kept under tests/screenshots, which git ignores.
- `Tab.printed(name)` is the path of a PDF, the page as printed on A4, kept there too.
- `Tab.overflow()` is by how many pixels the page is wider than the window.
- `Tab.complaints` are errors and warnings of the console and exceptions; `Tab.foreign` the
  addresses asked for beside the page's own (its file, its server). `Tab.assert_quiet()` wants none.
- `colours(picture)` is the number of colours in a picture: one drawn with nothing on it has few.

Without chromium such tests skip; where STILLSTACK_SERVERS_INSTALLED is set, they fail. Each test
has a browser of its own: while one lives, an event loop runs in the thread of the test.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import matplotlib.image
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from playwright.sync_api import Browser as Chromium
    from playwright.sync_api import Page

SCREENSHOTS: Final = Path(__file__).parent / "screenshots"
WAIT_MS: Final = 120_000
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS: Final = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_INLINE: Final = ("data", "blob", "about")

Pixels = NDArray[np.uint8]


def missing() -> str:
    """Say why there is no browser here; empty where there is one."""
    return "" if _program() else "chromium: not installed (Debian's chromium)"


def _program() -> str | None:
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


def colours(picture: Pixels) -> int:
    """Number of different colours in a picture (height, width, 3)."""
    return len(np.unique(picture.reshape(-1, 3), axis=0))


@dataclass(eq=False)
class Tab:
    """A page that was opened, and what it did since."""

    page: Page
    address: str
    test: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def foreign(self) -> list[str]:
        """Addresses asked for that are neither the page itself, nor of its server, nor in it."""
        own = urlsplit(self.address)

        def is_own(address: str) -> bool:
            asked = urlsplit(address)
            if own.scheme == "file":
                return (asked.scheme, asked.path) == (own.scheme, own.path)
            return asked.netloc == own.netloc

        return [a for a in self.requests if urlsplit(a).scheme not in _INLINE and not is_own(a)]

    def assert_quiet(self) -> None:
        """Nothing was complained of, and nothing was asked for elsewhere."""
        assert self.complaints == []
        assert self.foreign == []

    def picture(self, name: str, selector: str | None = None) -> Pixels:
        """Screenshot of the first element that fits, or of the whole page; kept under `name`."""
        if selector is None:
            png = self.page.screenshot(full_page=True)
        else:
            png = self.page.locator(selector).first.screenshot()
        _kept(self.test, name, "png").write_bytes(png)
        return _pixels(png)

    def printed(self, name: str) -> Path:
        """The page as printed on A4: a PDF, kept under `name`."""
        path = _kept(self.test, name, "pdf")
        self.page.pdf(path=path, format="A4", print_background=False)
        return path

    def overflow(self) -> int:
        """By how many pixels the page can be scrolled sideways."""
        element = "document.scrollingElement"
        return int(self.page.evaluate(f"{element}.scrollWidth - {element}.clientWidth"))


@dataclass(frozen=True, eq=False)
class Browser:
    """A chromium that a test has for itself."""

    chromium: Chromium
    test: str

    def open(
        self,
        page: Path | str,
        *,
        width: int = 1280,
        height: int = 900,
        javascript: bool = True,
        touch: bool = False,
    ) -> Tab:
        """Open a file, or the address of a server on loopback, in a window of this size."""
        address = page.absolute().as_uri() if isinstance(page, Path) else page
        context = self.chromium.new_context(
            viewport={"width": width, "height": height},
            java_script_enabled=javascript,
            has_touch=touch,
            offline=address.startswith("file:"),
        )
        context.set_default_timeout(WAIT_MS)
        tab = Tab(context.new_page(), address, self.test)
        tab.page.on("request", lambda request: tab.requests.append(request.url))
        tab.page.on("websocket", lambda socket: tab.requests.append(socket.url))
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.page.on("console", lambda message: _heard(tab, message))
        tab.page.goto(address, wait_until="load")
        return tab


def _heard(tab: Tab, message: Any) -> None:
    if message.type in ("error", "warning"):
        tab.complaints.append(f"{message.type}: {message.text}")


def _kept(test: str, name: str, kind: str) -> Path:
    SCREENSHOTS.mkdir(exist_ok=True)
    return SCREENSHOTS / f"{re.sub(r'[^A-Za-z0-9]+', '_', test).strip('_')}-{name}.{kind}"


def _pixels(png: bytes) -> Pixels:
    values = matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]
    return np.asarray(np.rint(values * 255), np.uint8)


@contextlib.contextmanager
def running(test: str) -> Iterator[Browser]:
    """Start a browser for the test of that name, and end it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=_program(), args=list(_OPTIONS), timeout=WAIT_MS
        )
        try:
            yield Browser(chromium, test)
        finally:
            chromium.close()
