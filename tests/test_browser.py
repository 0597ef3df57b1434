"""What the tests' browser sees and hears: without this, "nothing was heard" would say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from browser import Browser, colours

PAGE = """<!DOCTYPE html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>t</title><div id="wide" style="width:{width}px;height:40px;background:#f00"></div>{more}"""


def page(folder: Path, width: int, more: str = "") -> Path:
    path = folder / "page.html"
    path.write_text(PAGE.format(width=width, more=more), encoding="utf-8")
    return path


@pytest.mark.browser
def test_a_quiet_page_is_quiet_and_its_pixels_are_seen(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(page(tmp_path, 300), width=390)
    tab.assert_quiet()
    assert tab.overflow() == 0
    red = tab.picture("red", "#wide")
    assert red.shape == (40, 300, 3)
    assert colours(red) == 1
    assert red[0, 0].tolist() == [255, 0, 0]
    assert tab.printed("red").read_bytes().startswith(b"%PDF")


@pytest.mark.browser
def test_what_a_page_gets_wrong_is_noticed(browser: Browser, tmp_path: Path) -> None:
    more = (
        "<img src='http://127.0.0.1:9/a.png' alt=''><img src='other.png' alt=''>"
        "<script>console.warn('hm'); throw new Error('broken')</script>"
    )
    tab = browser.open(page(tmp_path, 900, more), width=390)
    assert tab.overflow() > 500
    heard = " ".join(tab.complaints)
    assert "warning: hm" in heard
    assert "broken" in heard
    assert sorted(address.rsplit("/", 1)[1] for address in tab.foreign) == ["a.png", "other.png"]
    with pytest.raises(AssertionError):
        tab.assert_quiet()


@pytest.mark.browser
def test_a_page_without_javascript_runs_none(browser: Browser, tmp_path: Path) -> None:
    more = "<script>document.title = 'ran'</script>"
    tab = browser.open(page(tmp_path, 100, more), javascript=False)
    assert tab.page.title() == "t"
