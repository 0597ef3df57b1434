"""Dask's own report on what the cluster did, as a page that needs no network."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import distributed
from distributed import Client

from stillstack.errors import MissingExtraError

_LOG: Final = logging.getLogger(__name__)
_FOREIGN: Final = re.compile(r"<script[^>]*\ssrc=[^>]*>\s*</script>|<link[^>]*stylesheet[^>]*>")


def check_performance_report() -> None:
    """Raise MissingExtraError where the report cannot be drawn: before anything is started."""
    if find_spec("bokeh") is None:
        raise MissingExtraError("bokeh", "dashboard", "The performance report")


@contextlib.contextmanager
def performance_report(client: Client, path: Path | None) -> Iterator[None]:
    """Gather what the cluster does as long as this lasts, and write the page at the end.

    It is written also where the work stopped with an error. What goes wrong with the page itself is
    logged and stops nothing.

    Parameters
    ----------
    client
        Of the cluster.
    path
        The HTML file; None: no report.
    """
    if path is None:
        yield
        return
    report = distributed.performance_report(filename=str(path), mode="inline")
    with client.as_current():
        report.__enter__()
        try:
            yield
        finally:
            try:
                report.__exit__(None, None, None)
                _without_foreign_files(path)
            # a scheduler that is lost, or has no bokeh; a disk that is full
            except Exception as error:  # noqa: BLE001
                _LOG.warning(
                    "no performance report was written: %s: %s", type(error).__name__, error
                )


def _without_foreign_files(page: Path) -> None:
    """Take out of a page what it would load: Bokeh adds what any library in this process asks for.

    The page itself needs none of it: all that it uses is inside.
    """
    text = page.read_text("utf-8")
    own = _FOREIGN.sub("", text)
    if own != text:
        page.write_text(own, "utf-8")
