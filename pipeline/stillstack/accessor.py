"""``run.stillstack`` and ``stack.stillstack``: what xarray objects can be asked to show.

Importing this module is what makes xarray know them; whoever uses `stillstack.open_run` or
`stillstack.open_stack` need not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from stillstack.model import is_good

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stillstack.explore import FrameBrowser, ValidEditor
    from stillstack.kernels.registration import Reference


@xr.register_dataset_accessor("stillstack")
class RunAccessor:
    """What can be asked of a run.

    Parameters
    ----------
    run
        What `stillstack.open_run` returns; or, for some, the table that `stillstack.register` does.
    """

    def __init__(self, run: xr.Dataset) -> None:
        self._run = run

    @property
    def good(self) -> xr.DataArray:
        """True for frames that no status bit rejects."""
        good: xr.DataArray = is_good(self._run["status"])
        return good.rename("good")

    def browse(
        self, stack: xr.DataArray | None = None, *, reference: Reference | None = None
    ) -> FrameBrowser:
        """Frame browser; see `stillstack.explore.browse`."""
        from stillstack.explore import browse

        return browse(self._run, stack, reference=reference)

    def plot_drift(self) -> Figure:
        """Figure of the drift with error bars, by matplotlib."""
        from stillstack.explore import plot_drift

        return plot_drift(self._run)

    def plot_status(self) -> Figure:
        """Figure of the correlation coefficient and the status bits, by matplotlib."""
        from stillstack.explore import plot_status

        return plot_status(self._run)

    def plot_frame(self, number: int, *, other: int | None = None) -> Figure:
        """Figure of a frame before, after, and the difference, by matplotlib."""
        from stillstack.explore import frames_of_run, plot_frame

        return plot_frame(frames_of_run(self._run), number, other=other)


@xr.register_dataarray_accessor("stillstack")
class StackAccessor:
    """What can be asked of a stack of frames.

    Parameters
    ----------
    stack
        What `stillstack.open_stack` returns, or any array of dimensions frame, y, x.
    """

    def __init__(self, stack: xr.DataArray) -> None:
        self._stack = stack

    def edit_valid(self, config: str | Path | None = None) -> ValidEditor:
        """Editor of valid pixels; see `stillstack.explore.edit_valid`."""
        from stillstack.explore import edit_valid

        return edit_valid(config, self._stack)
