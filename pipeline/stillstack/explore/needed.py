"""Panel and Bokeh, or an error that says how to install them."""

from __future__ import annotations

import sys
from typing import Any

from stillstack.errors import MissingExtraError


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
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is not None and not pn.extension._loaded:
        pn.extension()
    return pn
