"""One frame onto a reference: what the answer holds, what must not change it, what is refused."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from arrays import frozen
from fisher import shift_bound, shift_covariance
from stillstack.errors import InputError
from stillstack.kernels.registration import (
    Reference,
    Registration,
    frame_validity,
    prepare_reference,
    register_frame,
)
from stillstack.model import REJECTING, Status
from stillstack.simulation import (
    Scene,
    beam_block,
    beam_block_valid,
    crystal_scene,
    powder_scene,
    textured_scene,
)
from stillstack.simulation.scene import Halo, Spots

Valid = NDArray[np.bool_]
SHAPE = (160, 192)
SHIFT = (3.3, -4.2)
FIELDS = (
    "shift",
    "shift_std",
    "shift_corr",
    "ncc",
    "peak_ratio",
    "overlap",
    "chi2",
    "intensity",
    "background",
)
N_FRAMES = 16
SCENES: dict[str, Any] = {
    "powder": powder_scene,
    "crystal": crystal_scene,
    "textured": textured_scene,
}
# The reference's values within this of an invalid pixel or of the border are not compared.
MARGIN_PX = 10


def frame_of(
    scene: Scene,
    shift: tuple[float, float] = SHIFT,
    *,
    seed: int = 0,
    intensity: float = 1.0,
    background: float = 0.0,
) -> NDArray[np.uint16]:
    """Poisson counts of a scene behind its beam-block."""
    expected = (scene.expected(shift) * intensity + background) * beam_block(scene.shape)
    return frozen(np.random.default_rng(seed).poisson(expected).astype(np.uint16))


def mean_image(scene: Scene, n_frames: int = N_FRAMES, seed: int = 99) -> NDArray[np.float64]:
    """Mean of frames that stand still."""
    expected = scene.expected() * beam_block(scene.shape)
    return frozen(np.random.default_rng(seed).poisson(expected * n_frames) / n_frames)


def reference_of(scene: Scene, **options: Any) -> Reference:
    return prepare_reference(
        mean_image(scene),
        beam_block_valid(scene.shape),
        **{"max_shift_px": 16, "n_frames": N_FRAMES, **options},
    )


@pytest.fixture(scope="module")
def scene() -> Scene:
    return powder_scene(SHAPE, dose=60.0, seed=2)


@pytest.fixture(scope="module")
def frame(scene: Scene) -> NDArray[np.uint16]:
    return frame_of(scene)


@pytest.fixture(scope="module")
def reference(scene: Scene) -> Reference:
    return reference_of(scene)


def same(one: Registration, other: Registration, rtol: float = 0.0, atol: float = 0.0) -> None:
    for name in FIELDS:
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=rtol, atol=atol, err_msg=name
        )
    assert one.n_struck == other.n_struck


def assert_near(found: Registration, shift: Any, sigmas: float = 5.0) -> None:
    """Good, and off by no more than both noises explain."""
    assert found.good, Status(found.status)
    assert np.all(found.shift_std < 0.5)
    assert np.all(np.abs(found.shift - np.asarray(shift)) < sigmas * found.shift_std)


def assert_refused(found: Registration, *bits: Status) -> None:
    assert not found.good
    for bit in bits:
        assert found.status & bit, Status(found.status)
    assert np.isnan(found.shift).all()
    assert np.isnan(found.shift_std).all()


# ------------------------------------------------------------------ what the answer holds


def test_the_answer_holds_everything_that_the_table_holds(
    frame: NDArray[np.uint16], reference: Reference
) -> None:
    found = register_frame(frame, reference)
    names = {field.name for field in dataclasses.fields(found)}
    assert names == {*FIELDS, "n_struck", "status"}
    assert found.status == 0
    assert found.good
    assert found.shift.shape == found.shift_std.shape == (2,)
    assert 0.95 < found.ncc <= 1.0
    assert 0.0 <= found.peak_ratio < 0.5
    assert 0.7 < found.overlap < 1.0
    assert found.chi2 == pytest.approx(1.0, abs=0.05)
    assert found.intensity == pytest.approx(1.0, abs=0.02)
    assert found.background == pytest.approx(0.0, abs=1.0)
    assert found.n_struck == 0
    assert_near(found, SHIFT)


def test_the_answer_cannot_be_changed(frame: NDArray[np.uint16], reference: Reference) -> None:
    found = register_frame(frame, reference)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.status = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.5), (-7.25, 11.0), (12.9, 13.1)])
def test_every_kind_of_scene_is_registered(name: str, shift: tuple[float, float]) -> None:
    scene = SCENES[name](SHAPE, dose=60.0, seed=2)
    assert_near(register_frame(frame_of(scene, shift), reference_of(scene)), shift)


@pytest.mark.parametrize("shape", [(97, 131), (64, 400), (333, 250), (40, 40), (700, 350)])
@pytest.mark.parametrize("width", [2.0, 8.0])
def test_every_size_of_frame_is_registered(shape: tuple[int, int], width: float) -> None:
    scene = textured_scene(shape, dose=60.0, grain_px=width, seed=2)
    reference = reference_of(scene, max_shift_px=8)
    assert_near(register_frame(frame_of(scene), reference), SHIFT)


def test_wide_features_are_registered_on_a_coarser_level() -> None:
    """Nine tests of ten see full resolution: here bins of several pixels must be right too."""
    scene = textured_scene((512, 384), dose=60.0, grain_px=12.0, seed=2)
    reference = reference_of(scene)
    assert reference.levels[-1].factor > 1
    for seed, shift in enumerate([(0.0, 0.0), (0.5, -0.5), (1.3, 2.6), (-5.2, 3.9)]):
        found = register_frame(frame_of(scene, shift, seed=seed), reference)
        assert_near(found, shift)
        valid = beam_block_valid(scene.shape)
        bound = shift_bound(scene, np.array(shift), valid, valid)
        assert np.all(found.shift_std < 1.3 * bound)


def test_shifts_of_a_third_of_the_frame_are_found() -> None:
    scene = textured_scene((240, 256), dose=60.0, seed=3)
    reference = reference_of(scene, max_shift_px=90)
    assert_near(register_frame(frame_of(scene, (80.6, -70.3)), reference), (80.6, -70.3))


def test_intensity_and_background_are_told_apart(scene: Scene, reference: Reference) -> None:
    for intensity, background in ((0.5, 20.0), (1.05, 0.0), (2.0, 50.0), (5.0, 100.0)):
        found = register_frame(
            frame_of(scene, intensity=intensity, background=background), reference
        )
        assert_near(found, SHIFT)
        assert found.intensity == pytest.approx(intensity, rel=0.02)
        assert found.background == pytest.approx(background, abs=2.0)


def test_a_ramp_across_the_frame_does_not_move_it(scene: Scene, reference: Reference) -> None:
    ramp = 60.0 * 0.4 * (np.arange(SHAPE[0]) / SHAPE[0])[:, None] * np.ones(SHAPE)
    frame = frame_of(scene) + np.random.default_rng(8).poisson(ramp)
    found = register_frame(frame, reference)
    assert_near(found, SHIFT)
    assert found.chi2 == pytest.approx(1.0, abs=0.1)


def test_the_errors_of_y_and_x_correlate_as_the_photons_say() -> None:
    """A ridge on the diagonal: along it the shift is known less well than across."""
    along = np.arange(30.0, 130.0, 2.0)
    ridge = Spots(
        tuple(along), tuple(along + 16.0), (8.0,) * along.size, tuple(np.full(along.size, 4.0))
    )
    scene = Scene(SHAPE, (Halo((80.0, 96.0), 20.0, 300.0), ridge))
    everywhere = np.ones(SHAPE, bool)
    image = np.random.default_rng(0).poisson(scene.expected() * 400) / 400
    reference = prepare_reference(image, max_shift_px=8, n_frames=400)
    frame = np.random.default_rng(1).poisson(scene.expected((1.4, -0.7)))
    found = register_frame(frame, reference)
    bound = shift_covariance(scene, np.array([1.4, -0.7]), everywhere, everywhere)
    correlation = bound[0, 1] / np.sqrt(bound[0, 0] * bound[1, 1])
    assert abs(correlation) > 0.5
    assert found.shift_corr == pytest.approx(correlation, abs=0.1)
    np.testing.assert_allclose(found.shift_std, np.sqrt(np.diag(bound)), rtol=0.2)
    assert_near(found, (1.4, -0.7))


def test_the_overlap_shrinks_with_the_distance(scene: Scene, reference: Reference) -> None:
    near, far = (register_frame(frame_of(scene, s), reference) for s in ((1.0, 1.0), (14.0, 14.0)))
    assert 0.0 < far.overlap < near.overlap - 0.05


def test_chi2_tells_that_the_model_does_not_hold(scene: Scene, reference: Reference) -> None:
    intruder = Spots((40.0, 110.0), (50.0, 150.0), (60.0, 60.0), (6.0, 6.0))
    grown = dataclasses.replace(scene, parts=(*scene.parts, intruder))
    assert register_frame(frame_of(grown), reference).chi2 > 1.5


# ------------------------------------------------------------------ noise


def test_counts_in_other_units_need_another_gain_and_give_the_same_answer(
    scene: Scene, frame: NDArray[np.uint16], reference: Reference
) -> None:
    amplified = prepare_reference(
        mean_image(scene) * 40.0,
        beam_block_valid(SHAPE),
        max_shift_px=16,
        n_frames=N_FRAMES,
        gain=40.0,
    )
    found = register_frame(frame * 40.0, amplified)
    plain = register_frame(frame.astype(float), reference)
    np.testing.assert_allclose(found.shift, plain.shift, atol=1e-4)
    np.testing.assert_allclose(found.shift_std, plain.shift_std, rtol=1e-3)
    assert found.chi2 == pytest.approx(plain.chi2, rel=1e-3)


@pytest.mark.parametrize("gain", [0.5, 4.0])
def test_error_bars_hold_where_the_gain_is_not_known(scene: Scene, gain: float) -> None:
    """The residuals tell how large the noise is, whatever the gain was thought to be."""
    reference = reference_of(scene, gain=gain)
    pulls = []
    for seed in range(20):
        found = register_frame(frame_of(scene, seed=seed), reference)
        assert found.good
        pulls.append((found.shift - SHIFT) / found.shift_std)
    assert 0.65 < np.sqrt(np.mean(np.square(pulls))) < 1.45


def test_chi2_tells_that_the_gain_is_larger_than_was_thought(scene: Scene) -> None:
    for seed in range(3):
        frame = frame_of(scene, seed=seed)
        assert register_frame(frame, reference_of(scene, gain=0.5)).chi2 == pytest.approx(
            2.0, abs=0.1
        )


def test_read_noise_is_expected_where_it_is_stated(scene: Scene) -> None:
    rng = np.random.default_rng(3)
    noisy = frame_of(scene) + rng.normal(0.0, 10.0, SHAPE)
    image = mean_image(scene) + rng.normal(0.0, 10.0 / 4.0, SHAPE)
    valid = beam_block_valid(SHAPE)
    stated = prepare_reference(image, valid, max_shift_px=16, n_frames=N_FRAMES, read_noise=10.0)
    silent = prepare_reference(image, valid, max_shift_px=16, n_frames=N_FRAMES)
    assert_near(register_frame(noisy, stated), SHIFT)
    assert register_frame(noisy, stated).chi2 == pytest.approx(1.0, abs=0.1)
    assert register_frame(noisy, silent).chi2 > 1.8


def test_the_origin_of_a_mean_of_more_frames_is_known_better(scene: Scene) -> None:
    valid = beam_block_valid(SHAPE)
    few, many = (
        prepare_reference(mean_image(scene, n), valid, max_shift_px=16, n_frames=n).reference_std
        for n in (4, 64)
    )
    np.testing.assert_allclose(few / many, 4.0, rtol=0.3)
    np.testing.assert_allclose(many, shift_bound(scene, np.zeros(2), valid, valid) / 8.0, rtol=0.3)


# ------------------------------------------------------------------ what must not change it


@given(seed=st.integers(0, 10_000), value=st.sampled_from([0, 1, 4095, 65_534, 65_535]))
@settings(max_examples=12, deadline=None)
def test_values_of_invalid_pixels_never_matter(seed: int, value: int) -> None:
    scene = powder_scene(SHAPE, dose=60.0, seed=2)
    valid = beam_block_valid(SHAPE)
    holes = valid & (np.random.default_rng(seed).random(SHAPE) > 0.01)
    image, frame = mean_image(scene), frame_of(scene)
    options: dict[str, Any] = {"frame_valid": holes, "max_shift_px": 16, "n_frames": N_FRAMES}
    plain = register_frame(frame, prepare_reference(image, valid, **options))
    changed = register_frame(
        np.where(holes, frame, np.uint16(value)),
        prepare_reference(np.where(valid, image, float(value)), valid, **options),
    )
    same(changed, plain)
    assert changed.status == plain.status


@given(seed=st.integers(0, 10_000), value=st.sampled_from([np.nan, np.inf, -np.inf, -1e30, 1e30]))
@settings(max_examples=12, deadline=None)
def test_floating_values_of_invalid_pixels_never_matter(seed: int, value: float) -> None:
    scene = textured_scene(SHAPE, dose=60.0, grain_px=8.0, seed=2)
    valid = beam_block_valid(SHAPE)
    own = np.random.default_rng(seed).random(SHAPE) > 0.01
    image, frame = mean_image(scene), frame_of(scene).astype(np.float32)
    plain_reference = prepare_reference(image, valid, max_shift_px=16, n_frames=N_FRAMES)
    other_reference = prepare_reference(
        np.where(valid, image, value), valid, max_shift_px=16, n_frames=N_FRAMES
    )
    plain = register_frame(frame, plain_reference, own)
    changed = register_frame(np.where(valid & own, frame, np.float32(value)), other_reference, own)
    same(changed, plain)
    assert changed.status == plain.status


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
)
@pytest.mark.parametrize("shape", [SHAPE, (151, 163)])
def test_values_that_one_frame_says_are_invalid_never_matter(
    dtype: str, shape: tuple[int, int]
) -> None:
    """Lone ones, pairs, whole rows, on sides that bins divide and on others."""
    scene = powder_scene(shape, dose=30.0, seed=2)
    reference = reference_of(scene)
    own = np.random.default_rng(3).random(shape) > 0.02
    own[40:43], own[80:90, 20:25] = False, False
    frame = np.minimum(frame_of(scene), 250).astype(dtype)
    plain = register_frame(frame, reference, own)
    assert_near(plain, SHIFT)
    assert plain.status == 0
    largest = [0, np.iinfo(dtype).max] if frame.dtype.kind in "iu" else [np.nan, -np.inf, 1e30]
    for value in largest:
        broken = np.where(own & reference.frame_valid, frame, np.array(value, dtype))
        changed = register_frame(frozen(broken), reference, frozen(own))
        same(changed, plain)
        assert changed.status == 0


def test_a_hot_pixel_that_does_not_count_says_nothing_about_those_that_do(
    scene: Scene, frame: NDArray[np.uint16], reference: Reference
) -> None:
    """Only the rows of a high value are looked at again."""
    own = np.random.default_rng(1).random(SHAPE) > 0.01
    y, x = np.argwhere(~own & reference.frame_valid)[7]
    hot = frame.copy()
    hot[y, x] = 65_535
    same(register_frame(hot, reference, own), register_frame(frame, reference, own))
    assert register_frame(hot, reference, own).status == 0
    assert register_frame(hot, reference).status == Status.SATURATED


def test_pixels_left_out_by_hand_and_as_nan_are_left_out_alike(
    frame: NDArray[np.uint16], reference: Reference
) -> None:
    own = np.random.default_rng(1).random(SHAPE) > 0.01
    by_hand = register_frame(frame, reference, own)
    as_nan = register_frame(np.where(own, frame, np.nan), reference)
    same(by_hand, as_nan, rtol=1e-5, atol=1e-6)
    assert by_hand.status == 0
    assert as_nan.status == Status.NON_FINITE
    assert by_hand.overlap < register_frame(frame, reference).overlap


def test_valid_pixels_of_one_frame_are_combined_with_those_of_all(
    scene: Scene, frame: NDArray[np.uint16]
) -> None:
    """A frame's own valid array that knows nothing of the beam-block does not open it again."""
    own = np.random.default_rng(1).random(SHAPE) > 0.01
    reference = reference_of(scene)
    together = reference_of(scene, frame_valid=beam_block_valid(SHAPE) & own)
    same(
        register_frame(frame, reference, own),
        register_frame(frame, together),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_frame_of_all_valid_pixels_is_like_one_without_any_said(
    frame: NDArray[np.uint16], reference: Reference
) -> None:
    plain = register_frame(frame, reference)
    said = register_frame(frame, reference, np.ones(SHAPE, bool))
    same(said, plain)


@pytest.mark.parametrize("kind", ["uint8", "int64", "float64"])
def test_valid_pixels_may_be_numbers(
    frame: NDArray[np.uint16], reference: Reference, kind: str
) -> None:
    own = np.random.default_rng(1).random(SHAPE) > 0.01
    same(
        register_frame(frame, reference, own.astype(kind)),
        register_frame(frame, reference, own),
    )


@given(move=st.tuples(st.integers(-2, 2), st.integers(-2, 2)))
@settings(max_examples=12, deadline=None)
def test_a_frame_moved_by_whole_pixels_is_found_moved_by_as_many(move: tuple[int, int]) -> None:
    """The reference counts only in its middle, so that all of it stays within every frame.

    By an even number: bins of 2x2 then hold the same pixels.
    """
    move = (2 * move[0], 2 * move[1])
    detector = textured_scene((200, 216), dose=60.0, seed=5)
    counts = np.random.default_rng(1).poisson(detector.expected(SHIFT))
    image = np.random.default_rng(2).poisson(detector.expected() * 16) / 16
    middle = np.zeros(SHAPE, bool)
    middle[30:-30, 30:-30] = True
    window = (slice(20, 20 + SHAPE[0]), slice(12, 12 + SHAPE[1]))
    moved = (
        slice(20 - move[0], 20 - move[0] + SHAPE[0]),
        slice(12 - move[1], 12 - move[1] + SHAPE[1]),
    )
    reference = prepare_reference(
        image[window], middle, frame_valid=np.ones(SHAPE, bool), max_shift_px=16, n_frames=16
    )
    here, there = (register_frame(counts[w], reference) for w in (window, moved))
    np.testing.assert_allclose(there.shift, here.shift - move, atol=1e-4)
    np.testing.assert_allclose(there.shift_std, here.shift_std, rtol=1e-3)


def test_turning_the_images_turns_the_answer(frame: NDArray[np.uint16], scene: Scene) -> None:
    image, valid = mean_image(scene), beam_block_valid(SHAPE)

    def found(turn: Any) -> Registration:
        reference = prepare_reference(turn(image), turn(valid), max_shift_px=16, n_frames=16)
        return register_frame(turn(frame), reference)

    plain = found(lambda a: a)
    np.testing.assert_allclose(found(lambda a: a.T).shift, plain.shift[::-1], atol=1e-3)
    np.testing.assert_allclose(found(lambda a: a[::-1]).shift, plain.shift * (-1, 1), atol=1e-3)
    np.testing.assert_allclose(found(lambda a: a[:, ::-1]).shift, plain.shift * (1, -1), atol=1e-3)


def test_two_frames_registered_to_each_other_are_shifted_in_opposite_ways(scene: Scene) -> None:
    valid = beam_block_valid(SHAPE)
    one, other = frame_of(scene, (0.0, 0.0), seed=1), frame_of(scene, SHIFT, seed=2)
    there = register_frame(other, prepare_reference(one, valid, max_shift_px=16))
    back = register_frame(one, prepare_reference(other, valid, max_shift_px=16))
    assert_near(there, SHIFT, sigmas=7.0)
    np.testing.assert_allclose(there.shift, -back.shift, atol=2.0 * there.shift_std.max())


def test_arguments_are_never_changed(scene: Scene) -> None:
    image, frame = mean_image(scene).copy(), frame_of(scene).copy()
    valid, own = beam_block_valid(SHAPE), np.random.default_rng(0).random(SHAPE) > 0.01
    frame[30, 40] = 60_000
    given_arrays: tuple[NDArray[Any], ...] = (image, valid, frame, own)
    before = [array.copy() for array in given_arrays]
    reference = prepare_reference(image, valid, frame_valid=valid, max_shift_px=16)
    found = register_frame(frame, reference, own)
    frame_validity(frame, reference, found.shift, found.status, own)
    for array, kept in zip(given_arrays, before, strict=True):
        np.testing.assert_array_equal(array, kept)
        assert array.flags.writeable
    digest = pickle.dumps(reference)
    register_frame(frame, reference, own)
    assert pickle.dumps(reference) == digest


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "list"])
def test_the_order_in_memory_does_not_matter(
    frame: NDArray[np.uint16], reference: Reference, layout: str
) -> None:
    arranged: Any = {
        "fortran": np.asfortranarray(frame),
        "strided": np.repeat(frame, 2, axis=1)[:, ::2],
        "reversed": frame[::-1].copy()[::-1],
        "list": frame.tolist(),
    }[layout]
    same(register_frame(arranged, reference), register_frame(frame, reference), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "longdouble"])
def test_unusual_real_numbers_are_registered_too(
    frame: NDArray[np.uint16], reference: Reference, dtype: str
) -> None:
    assert_near(register_frame(frame.astype(dtype), reference), SHIFT)


@pytest.mark.parametrize("dtype", ["complex64", "object"])
def test_what_is_no_real_number_is_refused_in_words(
    frame: NDArray[np.uint16], reference: Reference, dtype: str
) -> None:
    with pytest.raises(InputError):
        register_frame(frame.astype(dtype), reference)


# ------------------------------------------------------------------ what is refused


def test_a_shift_just_beyond_the_limit_is_refused_as_such(scene: Scene) -> None:
    reference = reference_of(scene, max_shift_px=6)
    assert_near(register_frame(frame_of(scene, (5.6, 0.0)), reference), (5.6, 0.0))
    assert_refused(register_frame(frame_of(scene, (6.6, 0.0)), reference), Status.AT_LIMIT)
    assert_refused(register_frame(frame_of(scene, (0.0, -6.6)), reference), Status.AT_LIMIT)


def test_too_small_an_overlap_is_refused_as_such(scene: Scene) -> None:
    frame = frame_of(scene)
    assert register_frame(frame, reference_of(scene, min_overlap=0.8)).good
    assert_refused(register_frame(frame, reference_of(scene, min_overlap=0.95)), Status.LOW_OVERLAP)


def test_a_frame_of_few_valid_pixels_is_refused_as_such(
    frame: NDArray[np.uint16], reference: Reference
) -> None:
    few = np.zeros(SHAPE, bool)
    few[40:80, 40:80] = True
    assert_refused(register_frame(frame, reference, few), Status.LOW_OVERLAP)
    none = register_frame(frame, reference, np.zeros(SHAPE, bool))
    assert_refused(none, Status.LOW_OVERLAP)
    assert none.overlap == 0.0


def test_a_correlation_below_what_was_asked_for_is_refused_as_such(scene: Scene) -> None:
    frame = frame_of(scene)
    ncc = register_frame(frame, reference_of(scene)).ncc
    assert register_frame(frame, reference_of(scene, min_ncc=ncc - 0.01)).good
    assert_refused(register_frame(frame, reference_of(scene, min_ncc=ncc + 0.01)), Status.LOW_NCC)


def test_another_scene_is_refused(reference: Reference) -> None:
    for seed in range(4):
        other = textured_scene(SHAPE, dose=60.0, seed=seed)
        assert_refused(register_frame(frame_of(other), reference))


def test_a_lattice_that_fits_in_many_places_is_refused_as_ambiguous() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]

    def counts(shift: tuple[float, float], seed: int) -> NDArray[Any]:
        wave = np.cos(2 * np.pi * (y + shift[0]) / 12) * np.cos(2 * np.pi * (x + shift[1]) / 12)
        return np.asarray(np.random.default_rng(seed).poisson(60.0 + 30.0 * wave))

    wide = prepare_reference(counts((0.0, 0.0), 0), max_shift_px=30)
    found = register_frame(counts((2.0, 1.0), 1), wide)
    assert_refused(found, Status.AMBIGUOUS)
    assert found.peak_ratio > 0.95
    # Within less than a period there is one place only: the same frame is then good.
    assert_near(
        register_frame(
            counts((2.0, 1.0), 1), prepare_reference(counts((0.0, 0.0), 0), max_shift_px=3)
        ),
        (2.0, 1.0),
        sigmas=7.0,
    )


def test_how_ambiguous_a_frame_may_be_can_be_chosen() -> None:
    scene = crystal_scene(SHAPE, dose=60.0, seed=2)
    frame = frame_of(scene)
    ratio = register_frame(frame, reference_of(scene)).peak_ratio
    assert 0.3 < ratio < 0.9
    assert_refused(
        register_frame(frame, reference_of(scene, max_peak_ratio=ratio - 0.01)), Status.AMBIGUOUS
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_scene_without_structure_along_one_axis_gives_no_false_precision(seed: int) -> None:
    """Stripes tell nothing about the way along them: refused, or an error bar that says so."""
    stripes = 60.0 + 30.0 * np.cos(2 * np.pi * np.arange(SHAPE[0]) / 80.0)[:, None]
    rng = np.random.default_rng(seed)
    image, frame = (rng.poisson(stripes * np.ones(SHAPE)) for _ in range(2))
    try:
        found = register_frame(frame, prepare_reference(image, max_shift_px=16))
    except InputError as error:
        if "along one axis" not in str(error):
            raise
        return
    if found.good:
        assert np.all(np.abs(found.shift) < 5.0 * np.sqrt(2.0) * found.shift_std)
    else:
        assert_refused(found)


@pytest.mark.parametrize("shape", [(160, 190), (160,), (1, 160, 192), (192, 160), (0, 0)])
def test_a_frame_of_another_shape_is_refused_in_words(
    reference: Reference, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="shape"):
        register_frame(np.ones(shape), reference)


@pytest.mark.parametrize("shape", [(160, 190), (160,), (1, 192)])
def test_valid_pixels_of_another_shape_are_refused_in_words(
    frame: NDArray[np.uint16], reference: Reference, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="shape"):
        register_frame(frame, reference, np.ones(shape, bool))


# ------------------------------------------------------------------ saturated, excluded, struck


def test_saturated_pixels_are_left_out_and_told(scene: Scene, reference: Reference) -> None:
    frame = frame_of(scene).copy()
    frame[20:60, 20:90] = 65_535
    found = register_frame(frame, reference)
    assert_near(found, SHIFT)
    assert found.status == Status.SATURATED
    assert found.overlap < register_frame(frame_of(scene), reference).overlap - 0.05
    assert found.intensity == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
def test_a_wholly_saturated_frame_is_refused(reference: Reference, dtype: str) -> None:
    found = register_frame(np.full(SHAPE, np.iinfo(dtype).max, dtype), reference)
    assert_refused(found)
    assert found.status & Status.SATURATED


def test_a_saturation_below_the_largest_value_is_told_by_above(scene: Scene) -> None:
    frame = np.minimum(frame_of(scene), 150)
    blind, told = reference_of(scene), reference_of(scene, above=149)
    assert not register_frame(frame, blind).status & Status.SATURATED
    found = register_frame(frame, told)
    assert found.status & Status.SATURATED
    assert_near(found, SHIFT)


def test_excluded_values_are_left_out_like_nan(scene: Scene) -> None:
    """Dead pixels that read 0, and a marker that the camera writes."""
    rng = np.random.default_rng(5)
    dead, marked = rng.random(SHAPE) < 0.01, rng.random(SHAPE) < 0.01
    frame = frame_of(scene).astype(np.float32)
    coded = np.where(dead, -7.0, np.where(marked, 3e4, frame))
    plain = register_frame(np.where(dead | marked, np.nan, frame), reference_of(scene))
    for rules in ({"equal": (-7.0, 3e4)}, {"below": 0.0, "equal": (3e4,)}):
        found = register_frame(coded, reference_of(scene, **rules))
        same(found, plain, rtol=1e-5, atol=1e-6)
        assert found.status == 0


def test_frames_with_a_border_of_nan_are_registered(scene: Scene) -> None:
    frame = frame_of(scene).astype(np.float32)
    for border in (slice(None, 8), slice(-8, None)):
        frame[border], frame[:, border] = np.nan, np.nan
    reference = reference_of(scene)
    found = register_frame(frame, reference)
    assert_near(found, SHIFT)
    assert found.status == Status.NON_FINITE
    valid = frame_validity(frame, reference, found.shift, found.status)
    np.testing.assert_array_equal(valid, np.isfinite(frame) & reference.frame_valid)


def test_a_reference_with_a_border_of_nan_is_as_good(scene: Scene) -> None:
    image = mean_image(scene).copy()
    image[:8], image[-8:] = np.nan, np.nan
    reference = prepare_reference(image, beam_block_valid(SHAPE), max_shift_px=16, n_frames=16)
    assert not reference.valid[:8].any()
    assert np.isfinite(reference.image).all()
    assert_near(register_frame(frame_of(scene), reference), SHIFT)


def interior(valid: Valid, shift: tuple[float, float]) -> Valid:
    """Pixels of a frame whose surroundings are valid both there and in the reference."""
    y, x = np.nonzero(~valid)
    far = valid.copy()
    for margin, dy, dx in ((3, 0, 0), (MARGIN_PX, -round(shift[0]), -round(shift[1]))):
        for j, i in zip(y + dy, x + dx, strict=True):
            far[
                max(j - margin, 0) : max(j + margin + 1, 0),
                max(i - margin, 0) : max(i + margin + 1, 0),
            ] = False
    edge = MARGIN_PX + round(max(np.abs(shift)))
    far[:edge], far[-edge:], far[:, :edge], far[:, -edge:] = False, False, False, False
    return far


@pytest.mark.parametrize("name", SCENES)
def test_struck_pixels_are_found_exactly(name: str) -> None:
    scene = SCENES[name](SHAPE, dose=60.0, seed=2)
    reference = reference_of(scene)
    rng = np.random.default_rng(4)
    struck = rng.random(SHAPE) < 2e-3
    hits = np.rint(60.0 * np.exp(rng.uniform(np.log(20), np.log(1000), SHAPE)))
    # Hits count where they stand out from what is there: 20 times the mean, 5 times the pixel.
    expected = scene.expected(SHIFT)
    struck &= hits > 5.0 * expected
    frame = np.minimum(frame_of(scene) + struck * hits, 65_000).astype(np.uint16)
    found = register_frame(frame, reference)
    assert_near(found, SHIFT)
    assert found.status == Status.STRUCK
    inside = interior(beam_block_valid(SHAPE), SHIFT)
    assert np.count_nonzero(struck & inside) > 20
    valid = frame_validity(frame, reference, found.shift, found.status)
    np.testing.assert_array_equal(~valid & inside, struck & inside)
    # Nothing else is thrown away anywhere.
    assert not np.any(~valid & reference.frame_valid & ~struck)
    assert found.n_struck == np.count_nonzero(~valid & reference.frame_valid)


def test_struck_pixels_are_found_exactly_on_a_coarser_level() -> None:
    scene = textured_scene((512, 384), dose=60.0, grain_px=12.0, seed=2)
    reference = reference_of(scene)
    assert reference.levels[-1].factor > 1
    struck = np.random.default_rng(4).random(scene.shape) < 1e-3
    frame = (frame_of(scene) + 2000 * struck).astype(np.uint16)
    found = register_frame(frame, reference)
    assert_near(found, SHIFT)
    inside = np.zeros(scene.shape, bool)
    inside[32:-32, 32:-32] = True
    inside &= interior(beam_block_valid(scene.shape), SHIFT)
    valid = frame_validity(frame, reference, found.shift, found.status)
    np.testing.assert_array_equal(~valid & inside, struck & inside)


@pytest.mark.parametrize("name", SCENES)
def test_a_struck_pixel_beside_an_invalid_one_is_found_too(name: str) -> None:
    scene = SCENES[name](SHAPE, dose=60.0, seed=2)
    reference = reference_of(scene)
    frame = frame_of(scene).astype(np.float32)
    frame[40, 50], frame[41, 51] = 20_000.0, np.nan
    found = register_frame(frame, reference)
    assert_near(found, SHIFT)
    assert found.n_struck == 1
    valid = frame_validity(frame, reference, found.shift, found.status)
    assert not valid[40, 50]


def test_a_bright_hit_off_the_support_is_left_out_of_resampling(
    scene: Scene, reference: Reference
) -> None:
    """At the border no residual is taken, but nothing of the scene is so bright."""
    frame = frame_of(scene).copy()
    frame[2, 60] = 30_000
    found = register_frame(frame, reference)
    assert_near(found, SHIFT)
    assert found.status & Status.STRUCK
    expected = reference.frame_valid.copy()
    expected[2, 60] = False
    valid = frame_validity(frame, reference, found.shift, found.status)
    np.testing.assert_array_equal(valid, expected)


def test_validity_of_a_frame_is_that_of_all_frames_where_nothing_is_wrong(
    frame: NDArray[np.uint16], reference: Reference
) -> None:
    np.testing.assert_array_equal(frame_validity(frame, reference), reference.frame_valid)


def test_validity_of_a_frame_leaves_out_saturated_and_excluded_pixels_alone(scene: Scene) -> None:
    """A pixel near a saturated one is good enough for resampling."""
    reference = reference_of(scene, equal=(3.0,))
    frame = frame_of(scene).copy()
    frame[40, 50], frame[44, 60] = 65_535, 3
    expected = reference.frame_valid & (frame != 3) & (frame != 65_535)
    np.testing.assert_array_equal(frame_validity(frame, reference), expected)
    own = np.random.default_rng(0).random(SHAPE) > 0.1
    np.testing.assert_array_equal(frame_validity(frame, reference, valid=own), expected & own)


def test_validity_of_a_struck_frame_that_was_refused_is_that_of_its_values(
    frame: NDArray[np.uint16], reference: Reference
) -> None:
    nowhere = np.full(2, np.nan)
    valid = frame_validity(frame, reference, nowhere, int(Status.STRUCK | Status.LOW_NCC))
    np.testing.assert_array_equal(valid, reference.frame_valid)


def test_validity_of_a_blank_frame_that_is_said_to_be_struck_is_that_of_its_values(
    reference: Reference,
) -> None:
    valid = frame_validity(np.zeros(SHAPE), reference, np.zeros(2), int(Status.STRUCK))
    np.testing.assert_array_equal(valid, reference.frame_valid)


# ------------------------------------------------------------------ the reference


def test_a_reference_survives_pickling(frame: NDArray[np.uint16], reference: Reference) -> None:
    packed = pickle.dumps(reference)
    again: Reference = pickle.loads(packed)
    same(register_frame(frame, again), register_frame(frame, reference))
    assert again.digest == reference.digest
    assert len(packed) < 1.1 * reference.nbytes
    assert reference.nbytes < 16 * reference.image.nbytes


def test_a_reference_cannot_be_changed(reference: Reference) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        reference.digest = ""  # type: ignore[misc]
    for array in (reference.image, reference.valid, reference.frame_valid):
        assert not array.flags.writeable


def test_a_digest_tells_references_apart(scene: Scene, reference: Reference) -> None:
    image, valid = mean_image(scene), beam_block_valid(SHAPE)
    other_image, other_valid = image.copy(), valid.copy()
    other_image[20, 20] += 1.0
    other_valid[20, 20] = False
    options: dict[str, Any] = {"max_shift_px": 16, "n_frames": N_FRAMES}
    others = [
        prepare_reference(other_image, valid, **options),
        prepare_reference(image, other_valid, frame_valid=valid, **options),
        prepare_reference(image, valid, frame_valid=other_valid, **options),
        prepare_reference(image, valid, max_shift_px=15, n_frames=N_FRAMES),
        *(
            prepare_reference(image, valid, **{**options, **changed})
            for changed in (
                {"n_frames": 17},
                {"gain": 2.0},
                {"read_noise": 1.0},
                {"min_overlap": 0.4},
                {"min_ncc": 0.1},
                {"max_peak_ratio": 0.9},
                {"below": 0.0},
                {"above": 4095.0},
                {"equal": (7.0,)},
            )
        ),
    ]
    digests = [reference.digest, *(other.digest for other in others)]
    assert len(set(digests)) == len(digests)


def test_a_digest_is_the_same_for_the_same_values_in_another_process(
    scene: Scene, reference: Reference
) -> None:
    again = prepare_reference(
        mean_image(scene).astype(np.float32),
        beam_block_valid(SHAPE).astype(np.uint8),
        max_shift_px=16,
        n_frames=N_FRAMES,
    )
    assert again.digest == reference.digest
    assert tokenize(again) == tokenize(reference)
    program = (
        "import pickle, sys; import numpy as np;"
        "from stillstack.kernels.preparation import prepare_reference;"
        "image, valid = pickle.load(sys.stdin.buffer);"
        f"print(prepare_reference(image, valid, max_shift_px=16, n_frames={N_FRAMES}).digest)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps((mean_image(scene), beam_block_valid(SHAPE))),
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
    )
    assert answer.stdout.decode().strip() == reference.digest


@pytest.mark.parametrize("shape", [(160,), (2, 160, 192), (160, 192, 3)])
def test_a_reference_that_is_no_single_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="shape"):
        prepare_reference(np.ones(shape))


def test_a_complex_reference_is_refused(scene: Scene) -> None:
    with pytest.raises(InputError, match="complex"):
        prepare_reference(mean_image(scene).astype(complex))


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_blank_reference_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="blank"):
        prepare_reference(np.full(SHAPE, value))


def test_a_reference_that_is_blank_where_it_counts_is_refused(scene: Scene) -> None:
    image, valid = mean_image(scene).copy(), beam_block_valid(SHAPE)
    image[valid] = 12.0
    with pytest.raises(InputError, match="blank"):
        prepare_reference(image, valid)


def test_a_reference_without_a_valid_pixel_is_refused(scene: Scene) -> None:
    nowhere, everywhere = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    for image, valid, frame_valid in (
        (mean_image(scene), nowhere, None),
        (mean_image(scene), everywhere, nowhere),
        (mean_image(scene), None, nowhere),
        (np.full(SHAPE, np.nan), everywhere, None),
    ):
        with pytest.raises(InputError, match="valid"):
            prepare_reference(image, valid, frame_valid=frame_valid)


def test_few_valid_pixels_are_refused_unless_they_are_meant(scene: Scene) -> None:
    few = np.zeros(SHAPE, bool)
    few[15:65, 20:75] = True
    options: dict[str, Any] = {"frame_valid": np.ones(SHAPE, bool), "max_shift_px": 8}
    with pytest.raises(InputError, match="allow_small"):
        prepare_reference(mean_image(scene), few, **options)
    meant = prepare_reference(mean_image(scene), few, allow_small=True, n_frames=16, **options)
    assert_near(register_frame(frame_of(scene), meant), SHIFT)


@pytest.mark.parametrize("max_shift_px", [0, -3, 160, 500])
def test_a_largest_shift_that_does_not_fit_the_frame_is_refused(
    scene: Scene, max_shift_px: int
) -> None:
    with pytest.raises(InputError, match=f"max_shift_px is {max_shift_px}"):
        prepare_reference(mean_image(scene), max_shift_px=max_shift_px)


@pytest.mark.parametrize("name", ["valid", "frame_valid"])
def test_valid_pixels_that_do_not_fit_the_reference_are_refused(scene: Scene, name: str) -> None:
    valids: dict[str, Any] = {name: np.ones((160, 190), bool)}
    with pytest.raises(InputError, match="shape"):
        prepare_reference(mean_image(scene), **valids)


def test_a_reference_of_noise_alone_is_refused_or_refuses_its_frames() -> None:
    rng = np.random.default_rng(0)
    try:
        reference = prepare_reference(rng.poisson(60.0, SHAPE), max_shift_px=16)
    except InputError:
        return
    for _ in range(4):
        found = register_frame(rng.poisson(60.0, SHAPE), reference)
        assert found.status & REJECTING
        assert_refused(found)
