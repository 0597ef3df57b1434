"""Section of the report: what checks say that do not rest on the registration itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stillstack.explore import COLOURS
from stillstack.model import AXES
from stillstack.physics.checks import Checks
from stillstack.physics.residual_shift import ResidualShift
from stillstack.physics.ring_correlation import ONE_SEVENTH, RingCorrelation

_TITLE: Final = "Independent checks"
_INK: Final = "#3c6e47"
_FAINT: Final = "#8a8f98"


@dataclass(frozen=True, eq=False)
class Section:
    """A heading, a figure, and what is said under it."""

    title: str
    figure: Figure
    sentence: str


def independent_section(checks: Checks) -> Section:
    """Section of the report for the checks of `stillstack.physics.checks.check_alignment`."""
    residual = checks.residual
    figure = Figure(figsize=(9.6 if residual else 5.2, 3.2), layout="constrained")
    axes = figure.subplots(1, 2 if residual else 1, squeeze=False)[0]
    _draw_rings(axes[0], checks.rings)
    if residual is not None:
        _draw_residual(axes[1], residual, checks.held_out)
    return Section(_TITLE, figure, _sentence(checks))


def _draw_rings(axes: Axes, rings: RingCorrelation) -> None:
    axes.plot(rings.frequency, rings.correlation, color=_INK, linewidth=1.2, label="odd with even")
    axes.plot(rings.frequency, rings.half_bit, color=_FAINT, linewidth=0.9, label="half a bit")
    axes.axhline(ONE_SEVENTH, color=_FAINT, linewidth=0.9, linestyle="dashed", label="1/7")
    axes.set(
        xlabel="spatial frequency (cycles per px)",
        ylabel="Fourier ring correlation",
        xlim=(0, 0.5),
        ylim=(min(-0.1, float(rings.correlation.min())), 1.02),
    )
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_residual(axes: Axes, residual: ResidualShift, held_out: ResidualShift | None) -> None:
    part = np.arange(1, len(residual.shift) + 1)
    kinds = [(residual, "o", "full", ""), (held_out, "s", "none", ", held out")]
    for j, (found, marker, filled, words) in enumerate(kinds):
        if found is None:
            continue
        for k, axis in enumerate(AXES):
            axes.errorbar(
                part + 0.14 * (2 * j + k - 1.5),
                found.shift[:, k],
                found.shift_std[:, k],
                fmt=marker,
                fillstyle=filled,
                markersize=3.5,
                elinewidth=0.9,
                color=COLOURS[axis],
                label=axis + words,
            )
    axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    axes.set(xlabel="stretch of the run", ylabel="shift that is left (px)", xticks=part)
    # bars may be anywhere below
    axes.legend(
        frameon=False, fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1)
    )
    axes.spines[["top", "right"]].set_visible(False)


def _sentence(checks: Checks) -> str:
    said = [_of_rings(checks.rings)]
    if np.isfinite(checks.sharpness_gain):
        said.append(
            f"The mean is {checks.sharpness_gain:.3g} ± {checks.sharpness_gain_std:.2g} times as "
            "sharp (squared gradient, without noise) as it was recorded."
        )
    residual = checks.residual
    if residual is not None and np.isfinite(residual.rms_px):
        missing = int(np.isnan(residual.shift).any(axis=1).sum())
        said.append(
            f"Each stretch against the others, by another method, is left with "
            f"{residual.rms_px:.2g} px rms along an axis, where its noise alone gives "
            f"{residual.noise_px:.2g} px."
            + (f" For {missing} of {len(residual.shift)} it cannot be told." if missing else "")
        )
    elif residual is not None:
        said.append("What shift the stretches of the run are left with cannot be told.")
    held = checks.held_out
    if held is not None and np.isfinite(held.rms_px):
        said.append(
            "The same frames were also registered without four of nine parts of the image: there "
            f"the stretches are then left with {held.rms_px:.2g} px rms, where noise alone gives "
            f"{held.noise_px:.2g} px. Such parts share no pixel with what moved them."
        )
    return " ".join(said)


def _of_rings(rings: RingCorrelation) -> str:
    size = rings.resolution_half_bit_px
    if np.isinf(size):
        return "The means of odd and of even frames agree at no size: there is noise alone."
    if size <= 2.0:
        return "The means of odd and of even frames agree down to single pixels."
    return f"The means of odd and of even frames agree down to {size:.3g} px (half a bit)."
