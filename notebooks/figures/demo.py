"""Draw the picture of the README from a finished demo: ``python notebooks/figures/demo.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import stillstack
from stillstack.explore import COLOURS
from stillstack.pictures import difference_norm, draw_image


def main(folder: Path) -> None:
    """Two frames far apart, their difference before and after, and the drift."""
    run = stillstack.open_run(folder / "aligned.zarr")
    raw = stillstack.open_stack(folder / "frames.zarr")
    good = np.flatnonzero(stillstack.is_good(run["status"].values))
    shift, deviation = run["shift"].values, run["shift_std"].values
    one = good[0]
    other = good[np.linalg.norm(shift[good] - shift[one], axis=1).argmax()]
    before = raw[other].values.astype(float) - raw[one].values
    after = (run.aligned[other] - run.aligned[one]).values
    norm = difference_norm(before, after)

    figure = Figure(figsize=(13.5, 4.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    for axes, image, title in (
        (left, before, f"frame {other} less frame {one}, as recorded"),
        (middle, after, "the same, aligned"),
    ):
        draw_image(axes, image, norm=norm, colours="RdBu_r", valid=run["valid"].values)
        axes.set_title(title)
    for k, axis in enumerate(("y", "x")):
        right.errorbar(
            good,
            shift[good, k],
            deviation[good, k],
            fmt=".",
            markersize=3,
            color=COLOURS[axis],
            label=f"{axis}, 1 sigma = {np.median(deviation[good, k]):.4f} px",
        )
    bad = np.setdiff1d(np.arange(len(shift)), good)
    right.plot(bad, np.full(bad.size, np.nanmin(shift)), "x", color="0.3", label="rejected")
    right.set(xlabel="frame", ylabel="shift (px)", title="drift")
    right.legend(frameon=False)
    figure.savefig(Path(__file__).with_name("demo.png"), dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "stillstack-demo"))
