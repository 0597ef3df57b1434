"""The main job, from the command line, on real diffraction frames.

The frames are no part of the project: ``STILLSTACK_REAL_FRAMES`` names their folder, and without
one these tests skip.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from numpy.typing import NDArray
from scipy import fft, ndimage
from skimage.registration import phase_cross_correlation

import stillstack

Image = NDArray[np.float64]

CHROMIUM_BLOCK = [0, "61%", "46%", "61%"]


def run_from_command_line(folder: Path, config: dict[str, Any]) -> Any:
    """Run a config as a user does, and open what it wrote."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "stillstack", "run", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return stillstack.open_run(folder / config["output"]["path"])


def chromium_valid(shape: tuple[int, int]) -> NDArray[np.bool_]:
    valid = np.ones(shape, bool)
    rows, columns = shape
    valid[: int(0.61 * rows), int(0.46 * columns) : int(0.61 * columns)] = False
    return valid


@pytest.fixture(scope="module")
def chromium(real_frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("chromium")
    return run_from_command_line(
        folder,
        {
            "input": {"path": str(real_frames / "chromium_*.tif"), "pattern": "chromium_{n:d}.tif"},
            "output": {"path": "aligned.zarr"},
            "valid": {"frames": {"exclude": [{"rectangle": CHROMIUM_BLOCK}]}},
            "reference": {"kind": "first", "refine": 0},
            "registration": {"max_shift_px": 24},
            "cluster": {"workers": 1},
        },
    )


def test_chromium_moves_where_the_masked_correlation_says(chromium: Any, real_frames: Path) -> None:
    first, second = (tifffile.imread(real_frames / f"chromium_{k}.tif") for k in (1, 2))
    valid = chromium_valid(first.shape)
    whole, _, _ = phase_cross_correlation(first, second, reference_mask=valid, moving_mask=valid)
    shift = chromium["shift"].values[1]
    assert np.all(np.abs(shift - whole) < 1.0), (shift, whole)
    np.testing.assert_allclose(chromium["shift"].values[0], 0.0, atol=0.05)
    assert chromium["shift_std"].values[1].max() < 0.3


def test_an_unmasked_correlation_is_held_by_the_beam_block(real_frames: Path) -> None:
    first, second = (tifffile.imread(real_frames / f"chromium_{k}.tif") for k in (1, 2))
    unmasked, _, _ = phase_cross_correlation(first, second, normalization="phase")
    np.testing.assert_allclose(unmasked, 0.0)


def test_the_chromium_difference_loses_its_rings(chromium: Any, real_frames: Path) -> None:
    first, second = (
        tifffile.imread(real_frames / f"chromium_{k}.tif").astype(float) for k in (1, 2)
    )
    aligned = chromium["aligned"].values.astype(float)
    scene = chromium_valid(first.shape) & np.isfinite(aligned[1])
    scene &= ndimage.binary_erosion(scene, iterations=8)
    # Rings are wider than 2 px: smoothing leaves them and takes the noise away.
    before = ndimage.gaussian_filter(first - second, 2.0)[scene].std()
    after = ndimage.gaussian_filter(np.nan_to_num(aligned[0] - aligned[1]), 2.0)[scene].std()
    assert after < 0.45 * before


def test_chromium_file_names_become_coordinates(chromium: Any) -> None:
    np.testing.assert_array_equal(chromium["n"].values, [1, 2])


def moved(scene: Image, shift: NDArray[np.float64]) -> Image:
    """The frame whose registering shift is ``shift``: the scene displaced by its opposite."""
    frequencies = (fft.fftfreq(scene.shape[0])[:, None], fft.rfftfreq(scene.shape[1])[None])
    phase = 2j * np.pi * (frequencies[0] * shift[0] + frequencies[1] * shift[1])
    return np.asarray(fft.irfft2(fft.rfft2(scene) * np.exp(phase), scene.shape))


@pytest.fixture(scope="module")
def graphite(
    real_frames: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, NDArray[np.float64]]:
    """A run on a real pattern, moved by known shifts behind its own beam-block."""
    folder = tmp_path_factory.mktemp("graphite")
    pattern = tifffile.imread(real_frames / "graphite.tif").astype(float)
    valid = tifffile.imread(real_frames / "graphite_valid.tif") > 0
    weight = ndimage.gaussian_filter(valid.astype(float), 8.0)
    around = ndimage.gaussian_filter(np.where(valid, pattern, 0.0), 8.0) / np.maximum(weight, 1e-3)
    scene = ndimage.gaussian_filter(np.where(valid, pattern, around), 1.0)
    rng = np.random.default_rng(7)
    shifts = np.cumsum(rng.normal(0.0, 0.8, (16, 2)), axis=0)
    border = int(np.ceil(np.abs(shifts).max())) + 1
    (folder / "frames").mkdir()
    for i, shift in enumerate(shifts):
        expected = np.where(valid, moved(scene, shift), pattern)
        counts = rng.poisson(np.clip(expected, 0.0, None)).astype(np.uint16)
        tifffile.imwrite(folder / "frames" / f"frame_{i}.tif", counts)
    inside = np.zeros_like(valid)
    inside[border:-border, border:-border] = valid[border:-border, border:-border]
    tifffile.imwrite(folder / "valid.tif", (255 * inside).astype(np.uint8))
    run = run_from_command_line(
        folder,
        {
            "input": {"path": "frames/frame_*.tif"},
            "output": {"path": "aligned.zarr", "aligned": False},
            "valid": {"frames": {"image": "valid.tif"}},
            "registration": {"max_shift_px": 24},
            "cluster": {"workers": 1},
        },
    )
    return run, shifts


def test_graphite_shifts_are_found_within_their_error_bars(
    graphite: tuple[Any, NDArray[np.float64]],
) -> None:
    run, truth = graphite
    assert stillstack.is_good(run["status"]).all(), run["status"].values
    error = run["shift"].values - truth
    error -= error.mean(axis=0)  # the origin is a convention
    pull = error / run["shift_std"].values
    assert np.sqrt(np.mean(error**2)) < 0.05
    assert 0.6 < np.sqrt(np.mean(pull**2)) < 1.5


def test_graphite_is_registered_though_the_beam_block_stands_still(
    graphite: tuple[Any, NDArray[np.float64]], real_frames: Path
) -> None:
    run, truth = graphite
    assert np.ptp(truth, axis=0).min() > 1.0
    assert np.abs(np.corrcoef(run["shift"].values[:, 0], truth[:, 0])[0, 1]) > 0.999
