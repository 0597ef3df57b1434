"""The picture of an assessment: error against dose, and how many frames land."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stillstack.assess.ladder import ENOUGH_LANDED
from stillstack.assess.result import LANDED_PX, Assessment
from stillstack.model import AXES
from stillstack.picture_file import write_picture

_COLOURS: Final = ("#1f6fb2", "#d1662b")


def draw_assessment(found: Assessment, path: Path) -> Path:
    """Write the picture of an assessment as PNG, and say where it is.

    Parameters
    ----------
    found
        What to draw.
    path
        The file; one that is there is replaced.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    _draw_errors(upper, found)
    _draw_landed(lower, found)
    upper.set_title(found.sentence, fontsize="medium", loc="left", wrap=True)
    return write_picture(figure, path)


def _draw_errors(axes: Axes, found: Assessment) -> None:
    table = found.to_dataset()
    dose = table["dose"].values
    spread = np.array([row.rms_std for row in sorted(found.doses, key=lambda row: row.dose)])
    for k, (name, colour) in enumerate(zip(AXES, _COLOURS, strict=True)):
        rms, predicted = table["rms"].values[:, k], table["predicted"].values[:, k]
        axes.errorbar(dose, rms, rms * spread, fmt="o", color=colour, label=f"rms error in {name}")
        axes.plot(dose, predicted, color=colour, lw=1, label=f"predicted in {name}")
    axes.set(xscale="log", yscale="log", ylabel="error of shift (px)")
    axes.axvline(found.own.dose, color="0.6", lw=1, ls="dashed")
    axes.legend(frameon=False, fontsize="small")
    axes.grid(which="both", alpha=0.2)


def _draw_landed(axes: Axes, found: Assessment) -> None:
    table = found.to_dataset()
    axes.plot(table["dose"], 100 * table["good"], "o-", color="0.55", label="good")
    landed = f"within {LANDED_PX:g} px of the truth"
    axes.plot(table["dose"], 100 * table["landed"], "o-", color="#2a7d46", label=landed)
    axes.axhline(100 * ENOUGH_LANDED, color="0.6", lw=1, ls="dotted")
    axes.axvline(found.own.dose, color="0.6", lw=1, ls="dashed")
    axes.set(xlabel="mean counts of a valid pixel (dashed: the data's own)", ylabel="frames (%)")
    axes.set_ylim(0, 104)
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    axes.grid(alpha=0.2)
