"""Panel and Bokeh, or an error that says how to install them."""

from __future__ import annotations

import sys
from typing import Any, Final

from stillstack.errors import MissingExtraError

PAGE_WIDTH: Final = 1250
NOTEBOOK_WIDTH: Final = 1040


def default_width() -> int:
    """Width of what is shown, px: that of a page, or of what JupyterLab leaves to an output."""
    return NOTEBOOK_WIDTH if _in_notebook() else PAGE_WIDTH


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def panel_here() -> Any:
    """Panel, ready for the notebook that this process is the kernel of, if it is one.

    Raises
    ------
    MissingExtraError
        Panel or Bokeh is not installed.
    """
    try:
        import bokeh  # noqa: F401
        import panel as pn
    except ImportError as error:
        package = (error.name or "panel").partition(".")[0]
        raise MissingExtraError(package, "explore", "The explorer") from error
    if _in_notebook() and not pn.extension._loaded:
        pn.extension(inline=True)  # a beamline's computers may have no network
    return pn
