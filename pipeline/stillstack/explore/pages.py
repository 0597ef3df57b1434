"""Which page belongs to a path: the browser of a run, or the editor of a config."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillstack.address import is_address
from stillstack.explore.browser import FrameBrowser
from stillstack.explore.needed import panel_here
from stillstack.explore.opened import frames_of_run

CONFIG_SUFFIXES = (".yaml", ".yml")


def page_of(path: str) -> tuple[Callable[[], Any], str]:
    """What makes the page of a run or a config, and its title.

    Parameters
    ----------
    path
        A run, or a YAML config.

    Raises
    ------
    InputError
        It is neither, or the frames of the config cannot be found.
    MissingExtraError
        Panel is not installed.
    """
    panel_here()
    if not is_address(path) and Path(path).suffix.lower() in CONFIG_SUFFIXES:
        from stillstack.explore.editor import ValidEditor
        from stillstack.explore.scenery import scenery_of_config

        scenery_of_config(path)  # what is wrong is said before anything is served
        return lambda: ValidEditor(scenery_of_config(path)).view, f"valid pixels of {path}"
    frames_of_run(path)
    return functools.partial(_browser, path), f"frames of {path}"


def _browser(path: str) -> Any:
    return FrameBrowser(frames_of_run(path)).view
