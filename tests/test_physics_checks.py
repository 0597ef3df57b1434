"""Checks after a run: what they must see, and what must not deceive them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import fft, ndimage

from arrays import frozen
from stillstack.errors import InputError
from stillstack.physics.checks import Halves, Stretches, check_alignment
from stillstack.physics.residual_shift import residual_shift
from stillstack.physics.ring_correlation import ring_correlation
from stillstack.physics.sharpness import sharpness
from stillstack.physics.windows import soft_window
from stillstack.report.independence import independent_section
from stillstack.simulation import (
    Scene,
    beam_block_valid,
    crystal_scene,
    powder_scene,
    textured_scene,
)

Array = NDArray[np.float64]
SHAPE = (160, 176)
VALID = beam_block_valid(SHAPE)
SCENES = [powder_scene, crystal_scene, textured_scene]


def counted(scene: Scene, rng: np.random.Generator, n_frames: float, shift: Any = (0, 0)) -> Array:
    """Mean of Poisson frames at a shift, NaN behind the block."""
    counts = rng.poisson(n_frames * scene.expected(shift)) / n_frames
    return frozen(np.where(VALID, counts, np.nan))


def drifting(scene: Scene, rng: np.random.Generator, path: Array, n_frames: float) -> Array:
    """Mean of frames all over a path, as recorded."""
    expected = np.mean([scene.expected(shift) for shift in path], axis=0)
    counts = rng.poisson(n_frames * expected) / n_frames
    return frozen(np.where(VALID, counts, np.nan))


# ------------------------------------------------------------------ Fourier ring correlation


@pytest.mark.parametrize("make", SCENES)
@pytest.mark.parametrize("n_frames", [1, 16])
def test_rings_correlate_by_the_ratio_of_signal_and_noise(make: Any, n_frames: int) -> None:
    """S / (S + N), S the power of the scene itself. A ring of 100 coefficients knows it to 0.1."""
    scene, rng = make(SHAPE, 10.0, seed=1), np.random.default_rng(1)
    found = ring_correlation(counted(scene, rng, n_frames), counted(scene, rng, n_frames))
    window = soft_window(VALID, min(SHAPE) / 12)
    level = np.average(scene.expected(), weights=window)
    power = np.abs(fft.fft2((scene.expected() - level) * window)) ** 2
    noise = (window**2 * scene.expected()).sum() / n_frames
    frequency = np.hypot(fft.fftfreq(SHAPE[0])[:, None], fft.fftfreq(SHAPE[1]))
    ring = np.rint(frequency * min(SHAPE)).astype(int)
    signal = ndimage.mean(power, ring, np.arange(1, min(SHAPE) // 2 + 1))
    # Holes of the valid area are filled here and not there: the lowest rings differ by that.
    apart = (found.correlation - signal / (signal + noise))[4:]
    assert np.sqrt(np.mean(apart**2)) < 0.08
    assert np.abs(apart.mean()) < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_noise_behind_a_static_block_does_not_correlate(seed: int) -> None:
    """The block is the same in both halves. Were it not left out, it would correlate to 1."""
    rng = np.random.default_rng(seed)
    level = np.where(VALID, 60.0, 5.0)
    one, other = (rng.poisson(level).astype(float) for _ in range(2))
    found = ring_correlation(one, other, VALID)
    assert np.abs(found.correlation[10:]).mean() < 0.1
    assert found.resolution_half_bit_px > 30
    seen = ring_correlation(one, other)
    assert seen.resolution_half_bit_px < 15


def test_a_hard_edge_of_the_valid_area_does_not_correlate_either() -> None:
    """Bright pixels along the edge, equal in both: without a soft window they agree to 4 px."""
    rng = np.random.default_rng(5)
    edge = ndimage.binary_dilation(~VALID, iterations=2) & VALID
    level = np.where(VALID, 60.0 + 200.0 * edge, 5.0)
    one, other = (rng.poisson(level).astype(float) for _ in range(2))
    assert ring_correlation(one, other, VALID).resolution_one_seventh_px > 8
    hard = [np.where(VALID, half - half[VALID].mean(), 0.0) for half in (one, other)]
    cross = fft.fft2(hard[0]) * fft.fft2(hard[1]).conj()
    power = np.abs(fft.fft2(hard[0])) ** 2
    frequency = np.hypot(fft.fftfreq(SHAPE[0])[:, None], fft.fftfreq(SHAPE[1]))
    band = (frequency > 1 / 8) & (frequency < 1 / 4)
    assert cross.real[band].sum() / power[band].sum() > 0.3


def test_more_frames_agree_down_to_smaller_sizes() -> None:
    scene, rng = powder_scene(SHAPE, 10.0), np.random.default_rng(2)
    sizes = [
        ring_correlation(counted(scene, rng, n), counted(scene, rng, n)).resolution_half_bit_px
        for n in (0.5, 8, 128)
    ]
    assert sizes[0] > sizes[1] > sizes[2] > 2.0


def test_equal_images_agree_down_to_a_pixel_and_opposite_ones_nowhere() -> None:
    image = np.random.default_rng(0).normal(size=(64, 80))
    assert ring_correlation(image, image).resolution_half_bit_px == 2.0
    opposite = ring_correlation(image, -image)
    np.testing.assert_allclose(opposite.correlation, -1.0)
    assert opposite.resolution_one_seventh_px == np.inf


# ------------------------------------------------------------------ sharpness


@pytest.mark.parametrize("n_frames", [0.5, 4, 64])
def test_sharpness_is_that_of_the_scene_whatever_the_dose(n_frames: float) -> None:
    """Noise has 50 times the squared gradient of the scene at the lowest dose."""
    scene = powder_scene(SHAPE, 10.0, ring_width_px=4.0, seed=1)
    rng = np.random.default_rng(3)
    found = [
        sharpness(counted(scene, rng, n_frames), counted(scene, rng, n_frames)) for _ in range(30)
    ]
    slope_y, slope_x = scene.gradient()
    truth = (slope_y**2 + slope_x**2)[VALID].mean() / scene.expected()[VALID].mean() ** 2
    values = np.array([one.value for one in found])
    # A central difference sees 1 - 1 / (3 sigma^2) of a slope, squared: 4 % less of it at 4 px.
    assert values.mean() == pytest.approx(truth, rel=0.06, abs=4 * values.std() / np.sqrt(30))
    believed = np.mean([one.std for one in found])
    assert 0.7 < believed / values.std(ddof=1) < 2.5


def test_a_mean_of_drifting_frames_is_less_sharp() -> None:
    scene, rng = powder_scene(SHAPE, 10.0), np.random.default_rng(4)
    path = rng.normal(0, 3, (40, 2))
    aligned = sharpness(counted(scene, rng, 40), counted(scene, rng, 40))
    recorded = sharpness(drifting(scene, rng, path, 40), drifting(scene, rng, path, 40))
    assert aligned.value > recorded.value + 10 * (aligned.std + recorded.std)


# ------------------------------------------------------------------ residual shift


@pytest.mark.parametrize("make", SCENES)
def test_shifts_that_are_left_are_found_with_their_error(make: Any) -> None:
    """60 pulls: their spread is known to a tenth, and nine tiles make tails."""
    rng = np.random.default_rng(6)
    scene = make(SHAPE, 60.0, seed=1)
    pulls, slopes = [], []
    for _ in range(3):
        shift = rng.normal(0, 0.3, (10, 2))
        parts = np.stack([counted(scene, rng, 20, one) for one in shift])
        found = residual_shift(parts)
        truth = np.array([one - np.delete(shift, k, 0).mean(0) for k, one in enumerate(shift)])
        pulls.append((found.shift - truth) / found.shift_std)
        slopes.append(np.polyfit(truth.ravel(), found.shift.ravel(), 1)[0])
        assert found.rms_px == pytest.approx(np.sqrt(np.mean(truth**2)), rel=0.1)
    assert 0.6 < np.std(pulls) < 1.7
    assert np.mean(slopes) == pytest.approx(1.0, abs=0.03)


def test_where_nothing_is_left_the_rest_is_noise() -> None:
    scene, rng = powder_scene(SHAPE, 60.0), np.random.default_rng(7)
    found = residual_shift(np.stack([counted(scene, rng, 20) for _ in range(10)]))
    assert found.rms_px == pytest.approx(found.noise_px, rel=0.5)
    assert found.excess_px < 0.02


def test_a_region_keeps_all_else_out() -> None:
    """Outside the region every part is moved otherwise, and it does not show."""
    rng = np.random.default_rng(8)
    scene = textured_scene(SHAPE, 60.0, seed=2)
    region = np.zeros(SHAPE, bool)
    region[:, :88] = True
    shift = np.array([0.0, 0.0, 0.6])
    parts = np.stack(
        [
            np.where(region, counted(scene, rng, 20, (one, 0)), counted(scene, rng, 20, (2, 9)))
            for one in shift
        ]
    )
    found = residual_shift(parts, region=region)
    assert found.shift[2, 0] == pytest.approx(0.6, abs=0.05)
    assert np.abs(found.shift[:, 1]).max() < 0.05


def test_parts_count_by_their_frames() -> None:
    rng = np.random.default_rng(9)
    scene = crystal_scene(SHAPE, 60.0)
    parts = np.stack([counted(scene, rng, 400, (one, 0)) for one in (0.0, 0.4, -0.4)])
    found = residual_shift(parts, n_frames=[1, 3, 1])
    # The others of part 0 lie at the mean of 0.4 (three times) and -0.4 (once).
    assert found.shift[0, 0] == pytest.approx(-0.2, abs=0.02)


def test_a_part_without_a_scene_is_nan_and_no_other() -> None:
    rng = np.random.default_rng(10)
    scene = powder_scene(SHAPE, 60.0)
    parts = [counted(scene, rng, 20) for _ in range(4)]
    parts[2] = np.where(VALID, 7.0, np.nan)
    found = residual_shift(np.stack(parts))
    np.testing.assert_array_equal(np.isnan(found.shift).any(axis=1), [False, False, True, False])


# ------------------------------------------------------------------ all together


def all_checks(region: Any = None) -> Any:
    rng = np.random.default_rng(11)
    scene = powder_scene(SHAPE, 20.0)
    path = rng.normal(0, 2, (40, 2))
    return check_alignment(
        Halves(counted(scene, rng, 40), counted(scene, rng, 40)),
        recorded=Halves(drifting(scene, rng, path, 40), drifting(scene, rng, path, 40)),
        stretches=Stretches(
            np.stack([counted(scene, rng, 8) for _ in range(10)]), n_frames=[8] * 10
        ),
        valid=VALID,
        region=region,
    )


def test_all_checks_come_as_plain_numbers_and_as_a_section_of_the_report() -> None:
    checks = all_checks()
    numbers = json.loads(json.dumps(checks.as_dict()))
    assert len(numbers) == 14
    held = {name: numbers.pop(name) for name in list(numbers) if name.startswith("held_out")}
    assert all(np.isfinite(value) for value in numbers.values())
    assert len(held) == 3
    assert all(np.isnan(value) for value in held.values())
    assert numbers["sharpness_gain"] > 1.5
    assert numbers["sharpness_gain_std"] < 0.1
    section = independent_section(checks)
    assert section.title == "Independent checks"
    assert len(section.figure.axes) == 2
    assert "times as sharp" in section.sentence
    assert "px rms along an axis" in section.sentence


def test_the_ring_correlation_alone_can_be_had() -> None:
    rng = np.random.default_rng(12)
    scene = powder_scene(SHAPE, 20.0)
    checks = check_alignment(Halves(counted(scene, rng, 4), counted(scene, rng, 4)))
    assert np.isnan(checks.as_dict()["sharpness_gain"])
    assert np.isnan(checks.as_dict()["residual_rms_px"])
    section = independent_section(checks)
    assert len(section.figure.axes) == 1
    assert "agree down to" in section.sentence
    assert "sharp" not in section.sentence


def test_halves_of_noise_are_called_noise() -> None:
    rng = np.random.default_rng(13)
    image = rng.normal(50, 5, SHAPE)
    section = independent_section(check_alignment(Halves(image, 100 - image)))
    assert "noise alone" in section.sentence


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ring_correlation(np.ones((9, 9)), np.ones((9, 8))), "images have the shapes"),
        (
            lambda: ring_correlation(np.full((40, 40), np.nan), np.ones((40, 40))),
            "Only 0 pixels of 1600",
        ),
        (lambda: sharpness(np.ones(9), np.ones(9)), "images have the shapes"),
        (lambda: residual_shift(np.ones((1, 40, 40))), r"parts have the shape \(1, 40, 40\)"),
        (
            lambda: residual_shift(np.ones((2, 40, 40)), n_frames=[1, 0]),
            r"n_frames is \[1, 0\] for 2 parts",
        ),
        (
            lambda: residual_shift(np.ones((2, 40, 40)), region=np.zeros((40, 40), bool)),
            "Only 0 pixels",
        ),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
