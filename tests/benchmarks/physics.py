"""Centres, profiles and checks against what is known: ``python tests/benchmarks/physics.py``.

Centres: of simulated patterns generated about known centres at random fractions of a pixel, behind
a beam-block, 60 counts, mean of 64 frames; error in px. Beside it scikit-ued's ``autocenter`` on
the same images, which finds halves of a pixel. Profiles: rms difference from the rings' formula,
counts of a mean of 60, for whole pixels in bins (ours, at the bin's mean radius), for pixels split
between two bins, and for scikit-ued's ``azimuthal_average``. Errors: what the answers scatter by,
over what is believed of it; 1 is best. ``--short`` takes fewer images, ``--out FILE`` writes the
tables as Markdown, ``--strict`` exits with 1 if a figure is missed.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scorecard import Row, finish, header, options, table

from stillstack.errors import InputError
from stillstack.physics.azimuthal import azimuthal_average
from stillstack.physics.centre import fit_centre
from stillstack.physics.residual_shift import residual_shift
from stillstack.simulation import Scene, beam_block_valid, crystal_scene, powder_scene

Array = NDArray[np.float64]
SHAPE = (256, 256)
N_FRAMES = 64
TARGET_PX = 0.05
PROFILE_COUNTS = 0.2
HAS_SKUED = importlib.util.find_spec("skued") is not None


def pattern(make: Any, seed: int, away: Array, n_frames: int = N_FRAMES) -> tuple[Array, Array]:
    """Mean of frames, and where its centre is."""
    scene: Scene = make(SHAPE, 60.0, seed=seed)
    rng = np.random.default_rng(seed)
    shift = away + rng.uniform(-8, 8, 2)
    halo: Any = scene.parts[0]
    counts = rng.poisson(n_frames * scene.expected(shift)) / n_frames
    return np.where(beam_block_valid(SHAPE), counts, 5.0), np.array(halo.centre) - shift


def their_centre(image: Array, valid: NDArray[np.bool_]) -> Array:
    """Centre that scikit-ued finds."""
    import skued

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(skued.autocenter(image, mask=valid), float)


def centre_rows(n_images: int) -> list[Row]:
    """Errors of the centre, and of its error bar."""
    valid = beam_block_valid(SHAPE)
    cases: list[tuple[str, Any, str, Array]] = [
        ("powder, symmetry", powder_scene, "symmetry", np.zeros(2)),
        ("powder, rings", powder_scene, "rings", np.zeros(2)),
        ("powder, arcs, centre outside", powder_scene, "auto", np.array([150.0, 20.0])),
        ("crystal of unequal pairs", crystal_scene, "auto", np.zeros(2)),
    ]
    rows = []
    for name, make, method, away in cases:
        errors, bars, theirs, refused = [], [], [], 0
        for seed in range(n_images):
            image, truth = pattern(make, seed, away)
            try:
                found = fit_centre(image, valid, method=method)
            except InputError:
                refused += 1
                continue
            errors.append(found.position - truth)
            bars.append([found.y_std, found.x_std])
            if HAS_SKUED and not away.any() and method != "rings":
                theirs.append(their_centre(image, valid) - truth)
        missed = np.array(errors)
        rms = float(np.sqrt(np.mean(missed**2)))
        pull = float((missed / np.array(bars)).std())
        peer = f"{np.sqrt(np.mean(np.square(theirs))):.3f}" if theirs else ""
        cells = (name, f"{rms:.4f}", f"{np.abs(missed).max():.4f}", f"{pull:.2f}", str(refused))
        good = bool(np.abs(missed).max() <= TARGET_PX * (2 if make is crystal_scene else 1))
        must = "max <= 0.10" if make is crystal_scene else "max <= 0.05"
        rows.append(Row((*cells, peer), must, good and not refused and pull < 1.5))
    return rows


def formula(scene: Scene, radius: Array) -> Array:
    """Profile of a powder."""
    halo: Any = scene.parts[0]
    rings: Any = scene.parts[1]
    profile = halo.height / (1 + radius**2 / halo.width_px**2)
    for ring, height in zip(rings.radius_px, rings.height, strict=True):
        profile = profile + height * np.exp(-0.5 * ((radius - ring) / rings.sigma_px) ** 2)
    return np.asarray(scene.scale * profile)


def split_profile(image: Array, valid: NDArray[np.bool_], centre: Array) -> tuple[Array, Array]:
    """Each pixel split linearly between the two nearest bins."""
    y, x = np.indices(image.shape)
    radius = np.hypot(y - centre[0], x - centre[1])[valid]
    first = np.floor(radius).astype(int)
    part = radius - first
    n_bins = int(first.max()) + 2
    weight = np.bincount(first, 1 - part, n_bins) + np.bincount(first + 1, part, n_bins)
    values = image[valid]
    total = np.bincount(first, (1 - part) * values, n_bins)
    total += np.bincount(first + 1, part * values, n_bins)
    return np.arange(n_bins, dtype=float), total / np.maximum(weight, 1e-12)


def profile_rows(n_images: int) -> list[Row]:
    """Errors of azimuthal averages, without noise and about the known centre."""
    valid = beam_block_valid(SHAPE)
    missed: dict[str, list[float]] = {}
    for seed in range(n_images):
        scene = powder_scene(SHAPE, 60.0, seed=seed)
        shift = np.random.default_rng(seed).uniform(-8, 8, 2)
        halo: Any = scene.parts[0]
        image, centre = scene.expected(shift), np.array(halo.centre) - shift
        found: dict[str, tuple[Array, Array]] = {}
        for step in (1.0, 0.5):
            average = azimuthal_average(
                xr.DataArray(image, dims=("y", "x")), tuple(centre), valid=valid, step_px=step
            )
            name = f"whole pixels, bins of {step:g} px"
            found[name] = average["mean_radius"].values, average["mean"].values
        found["pixels split between bins of 1 px"] = split_profile(image, valid, centre)
        if HAS_SKUED:
            import skued

            found["scikit-ued azimuthal_average"] = skued.azimuthal_average(
                image, center=(centre[1], centre[0]), mask=valid, trim=False
            )
        for name, (radius, profile) in found.items():
            inside = (radius > 30) & (radius < 110)
            off = profile[inside] - formula(scene, radius[inside])
            missed.setdefault(name, []).append(float(np.sqrt(np.mean(off**2))))
    rows = []
    for name, rms in missed.items():
        mean, ours = float(np.mean(rms)), name.startswith("whole")
        must = f"<= {PROFILE_COUNTS}" if ours else ""
        reached = mean <= PROFILE_COUNTS if ours else None
        rows.append(Row((name, f"{mean:.3f}"), must, reached))
    return rows


def residual_rows(n_images: int) -> list[Row]:
    """What the check of residual shifts finds of shifts that were put in."""
    valid = beam_block_valid(SHAPE)
    rows = []
    for left_px in (0.0, 0.02, 0.1, 0.3):
        errors, bars, put, seen = [], [], [], []
        for seed in range(max(1, n_images // 8)):
            scene = powder_scene(SHAPE, 60.0, seed=seed)
            rng = np.random.default_rng(seed)
            shift = rng.normal(0, left_px, (10, 2))
            parts = [rng.poisson(N_FRAMES * scene.expected(one)) / N_FRAMES for one in shift]
            found = residual_shift(np.stack([np.where(valid, part, np.nan) for part in parts]))
            truth = np.array([s - np.delete(shift, k, 0).mean(0) for k, s in enumerate(shift)])
            errors.append(found.shift - truth)
            bars.append(found.shift_std)
            put.append(float(np.sqrt(np.mean(truth**2))))
            seen.append(found.excess_px)
        pull = float((np.array(errors) / np.array(bars)).std())
        found_px, put_px = float(np.mean(seen)), float(np.mean(put))
        near = abs(found_px - put_px) <= max(0.1 * put_px, 0.005)
        cells = (f"{put_px:.3f}", f"{found_px:.3f}", f"{pull:.2f}")
        rows.append(Row(cells, "within 10 % or 0.005 px", near and 0.6 < pull < 1.5))
    return rows


def main() -> None:
    chosen = options(__doc__)
    n_images = 8 if chosen.short else 40
    centres, profiles = centre_rows(n_images), profile_rows(n_images)
    left = residual_rows(n_images)
    titles = ("pattern", "rms px", "max px", "error / bar", "refused", "scikit-ued rms px")
    lines = [
        header("physics.py", chosen),
        "",
        f"Centre, {n_images} images of {SHAPE[0]}x{SHAPE[1]}:",
        "",
        *table(titles, centres),
        "",
        "Azimuthal average, rings of 3 px, rms off the formula, counts:",
        "",
        *table(("method", "rms counts"), profiles),
        "",
        f"Shift left in tenths of a run, {N_FRAMES} frames each, rms along an axis, px:",
        "",
        *table(("put in", "found", "error / bar"), left),
    ]
    finish(lines, [*centres, *profiles, *left], chosen)


if __name__ == "__main__":
    main()
