"""The fitted centre of simulated patterns, generated about centres that are known exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr
from numpy.typing import NDArray

from arrays import frozen
from stillstack.errors import InputError
from stillstack.kernels.registration import prepare_reference, register_frame
from stillstack.physics.centre import fit_centre
from stillstack.simulation import (
    Scene,
    beam_block_valid,
    crystal_scene,
    powder_scene,
    textured_scene,
)

Array = NDArray[np.float64]
SHAPE = (160, 176)
N_FRAMES = 64
TARGET_PX = 0.05


def centre_of(scene: Scene, shift: Array) -> Array:
    """Where the scene's centre is in the frame whose registering shift is ``shift``."""
    halo: Any = scene.parts[0]
    return np.array(halo.centre) - shift


def mean_of_frames(scene: Scene, shift: Array, seed: int, n_frames: int = N_FRAMES) -> Array:
    """Mean of Poisson frames; behind the block lies what never was in the scene."""
    counts = np.random.default_rng(seed).poisson(n_frames * scene.expected(shift)) / n_frames
    return frozen(np.where(beam_block_valid(scene.shape), counts, 9e5))


def errors_and_bars(
    scene_of: Any, method: str, n_trials: int, n_frames: int = N_FRAMES, away: Any = (0.0, 0.0)
) -> tuple[Array, Array]:
    """What is missed in y and x, and the error bars, for centres all over a few pixels."""
    rng = np.random.default_rng(1)
    errors, bars = [], []
    for seed in range(n_trials):
        scene = scene_of(SHAPE, 60.0, seed=seed)
        shift = rng.uniform(-9, 9, 2) + away
        image = mean_of_frames(scene, shift, seed, n_frames)
        centre = fit_centre(image, frozen(beam_block_valid(SHAPE)), method=method)
        errors.append(centre.position - centre_of(scene, shift))
        bars.append([centre.y_std, centre.x_std])
    return np.array(errors), np.array(bars)


def test_the_centre_of_a_powder_behind_a_block_is_found_to_its_error_bar() -> None:
    """The spread of 2 x 24 pulls is known to a tenth: five of these are allowed for."""
    errors, bars = errors_and_bars(powder_scene, "auto", 24)
    assert np.abs(errors).max() < TARGET_PX
    assert 0.5 < (errors / bars).std() < 1.5
    assert np.abs((errors / bars).mean()) < 5 / np.sqrt(errors.size)


def test_the_centre_of_a_crystal_of_unequal_pairs_of_spots_is_found() -> None:
    """Spots are symmetric about many points; a wrong one would be 7 px off."""
    errors, bars = errors_and_bars(crystal_scene, "auto", 24)
    assert np.sqrt(np.mean(errors**2)) < TARGET_PX
    assert (errors / bars).std() < 1.5


def test_rings_give_the_centre_to_their_error_bar_as_well() -> None:
    errors, bars = errors_and_bars(powder_scene, "rings", 24)
    assert np.abs(errors).max() < TARGET_PX
    assert 0.5 < (errors / bars).std() < 1.5


def test_arcs_give_a_centre_that_lies_outside_the_image() -> None:
    """Nothing has an opposite then. Shifts of 90 px carry the centre 10 px past the first row."""
    errors, bars = errors_and_bars(powder_scene, "auto", 12, away=(90.0, 20.0))
    assert np.abs(errors).max() < TARGET_PX
    assert (errors / bars).std() < 2.0


@pytest.mark.parametrize("method", ["symmetry", "rings"])
def test_single_frames_give_longer_bars(method: str) -> None:
    few, few_bars = errors_and_bars(powder_scene, method, 8, n_frames=1)
    _, bars = errors_and_bars(powder_scene, method, 8)
    assert few_bars.mean() == pytest.approx(bars.mean() * np.sqrt(N_FRAMES), rel=0.5)
    assert np.abs(few / few_bars).max() < 5.0


def test_what_is_behind_the_block_does_not_matter() -> None:
    scene, shift = powder_scene(SHAPE, 60.0), np.array([3.3, -2.6])
    valid = beam_block_valid(SHAPE)
    image = mean_of_frames(scene, shift, 0)
    for value in (np.nan, -5.0, 1e30):
        changed = np.where(valid, image, value)
        assert fit_centre(changed, valid) == fit_centre(image, valid)
    assert fit_centre(np.where(valid, image, np.nan)) == fit_centre(image, valid)


def test_the_mirrored_pattern_has_the_mirrored_centre() -> None:
    scene, shift = powder_scene(SHAPE, 60.0), np.array([3.3, -2.6])
    image, valid = mean_of_frames(scene, shift, 0), beam_block_valid(SHAPE)
    centre = fit_centre(image, valid)
    mirrored = fit_centre(image[:, ::-1].copy(), valid[:, ::-1].copy())
    assert mirrored.y == pytest.approx(centre.y, abs=0.005)
    assert mirrored.x == pytest.approx(SHAPE[1] - 1 - centre.x, abs=0.005)


def test_a_guess_chooses_among_the_points_of_a_lattice() -> None:
    scene = crystal_scene(SHAPE, 60.0, seed=2)
    image, valid = mean_of_frames(scene, np.zeros(2), 0), beam_block_valid(SHAPE)
    truth = centre_of(scene, np.zeros(2))
    centre = fit_centre(image, valid, guess=tuple(np.round(truth)))
    np.testing.assert_allclose(centre.position, truth, atol=TARGET_PX)


def test_a_labelled_image_is_taken_as_well() -> None:
    scene = powder_scene(SHAPE, 60.0)
    valid = beam_block_valid(SHAPE)
    image = xr.DataArray(mean_of_frames(scene, np.zeros(2), 0), dims=("y", "x"))
    centre = fit_centre(image, xr.DataArray(valid, dims=("y", "x")))
    assert centre == fit_centre(image.values, valid)
    assert centre.as_dict()["method"] == "symmetry"
    assert centre.agreement > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_an_image_without_a_centre_is_refused(seed: int) -> None:
    scene = textured_scene(SHAPE, 60.0, seed=seed)
    image = mean_of_frames(scene, np.zeros(2), seed)
    with pytest.raises(InputError, match="no centre that could be fitted") as caught:
        fit_centre(image, beam_block_valid(SHAPE))
    assert "rings explain" in caught.value.what or "settle" in caught.value.what
    assert "guess" in caught.value.cure


def test_noise_alone_is_refused() -> None:
    image = np.random.default_rng(0).poisson(60.0, SHAPE)
    with pytest.raises(InputError, match="no centre that could be fitted"):
        fit_centre(image, beam_block_valid(SHAPE))


def test_a_guess_without_symmetric_surroundings_is_refused_by_name() -> None:
    image = mean_of_frames(powder_scene(SHAPE, 60.0), np.zeros(2), 0)
    with pytest.raises(InputError, match="no symmetric area is inside"):
        fit_centre(image, beam_block_valid(SHAPE), method="symmetry", guess=(3.0, 80.0))


@pytest.mark.parametrize(
    ("image", "valid", "options", "message"),
    [
        (np.ones((64, 64)), None, {}, "all hold one value"),
        (np.full((64, 64), np.nan), None, {}, "0 pixels of the image are valid"),
        (np.ones((64, 64)), np.zeros((64, 64), bool), {}, "0 pixels of the image are valid"),
        (np.ones((64, 64)), np.ones((64, 65), bool), {}, "`valid` has the shape"),
        (np.ones((3, 64, 64)), None, {}, r"shape \(3, 64, 64\)"),
        (np.ones((8, 64)), None, {}, "at least 32 x 32"),
        (np.ones((64, 64)), None, {"method": "hough"}, "method is 'hough'"),
    ],
)
def test_bad_input_is_refused(image: Any, valid: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_centre(image, valid, **options)


def test_a_guess_that_is_no_number_is_refused() -> None:
    image = mean_of_frames(powder_scene(SHAPE, 60.0), np.zeros(2), 0)
    with pytest.raises(InputError, match="guess is"):
        fit_centre(image, guess=(np.nan, 3.0))


def test_the_centre_of_real_frames_moved_as_registration_says(real_frames: Path) -> None:
    """8-bit copies of two patterns hours apart; rings are cut by the block in other places."""
    first, second = [
        np.asarray(tifffile.imread(real_frames / f"chromium_{number}.tif")) for number in (1, 2)
    ]
    valid: NDArray[np.bool_] = np.ones(first.shape, bool)
    valid[: int(0.61 * valid.shape[0]), int(0.46 * valid.shape[1]) : int(0.61 * valid.shape[1])] = 0
    shift = register_frame(second, prepare_reference(first, valid, max_shift_px=16)).shift
    for method in ("symmetry", "rings"):
        ends = [np.array(fit_centre(f, valid, method=method).position) for f in (first, second)]
        moved = ends[0] - ends[1]
        np.testing.assert_allclose(moved, shift, atol=0.5)
