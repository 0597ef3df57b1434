"""Error of the shift against the photon-noise bound: ``python tests/benchmarks/precision.py``.

Poisson frames with a beam-block at random shifts, by scene and dose. The bound is the inverse
Fisher information of (shift, gain, offset, slopes) from the analytic scene, by code of its own.
``--short`` takes fewer frames, ``--out FILE`` writes the table as Markdown.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fisher import shift_bound
from stillstack import prepare_reference, register_frame
from stillstack.simulation import (
    beam_block,
    beam_block_valid,
    crystal_scene,
    powder_scene,
    textured_scene,
)

SHAPE = (512, 512)
MAX_SHIFT_PX = 32


def row(name: str, scene: Any, n_reference: int, n_frames: int, seed: int) -> str:
    """Register frames of one scene; rms over bound, pull, and their standard errors."""
    rng = np.random.default_rng(seed)
    valid, through = beam_block_valid(SHAPE), beam_block(SHAPE)
    errors, pulls, bounds, rejected = [], [], [], 0
    reference = None
    for i in range(n_frames):
        if reference is None or (n_reference == 1 and i % 10 == 0):
            image = rng.poisson(scene.expected() * through * n_reference) / n_reference
            reference = prepare_reference(
                image, valid, max_shift_px=MAX_SHIFT_PX, n_frames=n_reference
            )
        shift = rng.uniform(-30.0, 30.0, 2)
        found = register_frame(rng.poisson(scene.expected(shift) * through), reference)
        if not found.good:
            rejected += 1
            continue
        errors.append(found.shift - shift)
        pulls.append(errors[-1] / found.shift_std)
        if i % 10 == 0:
            bounds.append(shift_bound(scene, shift, valid, valid))
    assert rejected <= 0.01 * n_frames, f"{rejected} frames of {n_frames} were rejected"
    bound = np.mean(bounds, axis=0) * np.sqrt(1.0 + 1.0 / n_reference)
    rms = np.sqrt(np.mean(np.square(errors), axis=0))
    ratio, pull = rms / bound, np.std(pulls, axis=0)
    spread = 1.0 / np.sqrt(2 * len(errors))
    return (
        f"| {name} | {'one frame' if n_reference == 1 else f'mean of {n_reference}'} "
        f"| {rms[0]:.4f}, {rms[1]:.4f} | {ratio[0]:.2f}, {ratio[1]:.2f} | {pull[0]:.2f}, "
        f"{pull[1]:.2f} | {spread:.2f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    n_frames = 150 if options.short else 1250
    lines = [
        f"`python tests/benchmarks/precision.py{' --short' if options.short else ''}`, "
        f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, {n_frames} frames of "
        f"{SHAPE[0]}x{SHAPE[1]} a row, y and x. With one noisy frame as reference, a fresh one "
        "for every 10 frames, its own noise is part of the bound.",
        "",
        "| scene, mean counts a pixel | reference | rms error, px | rms / bound | pull | +- |",
        "|---|---|---|---|---|---|",
    ]
    for dose in (1.0, 10.0, 60.0, 1000.0):
        scene = powder_scene(SHAPE, dose=dose)
        lines.append(row(f"powder, {dose:g}", scene, 64, n_frames, 1))
    for name, made in (("crystal", crystal_scene), ("textured", textured_scene)):
        lines.append(row(f"{name}, 60", made(SHAPE, dose=60.0), 64, n_frames, 2))
    for dose in (10.0, 60.0):
        scene = powder_scene(SHAPE, dose=dose)
        lines.append(row(f"powder, {dose:g}", scene, 1, n_frames, 3))
    table = "\n".join(lines) + "\n"
    sys.stdout.write(table)
    if options.out:
        options.out.write_text(table)


if __name__ == "__main__":
    main()
