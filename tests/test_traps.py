"""Where other programs answer silently wrong: each case with the right answer, or a refusal.

A single crystal behind a beam-block that stands still, Poisson noise, one true shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.registration import phase_cross_correlation

from fisher import shift_bound
from stillstack.errors import InputError
from stillstack.kernels.registration import (
    Reference,
    Registration,
    prepare_reference,
    register_frame,
)
from stillstack.model import REJECTING, Status
from stillstack.simulation import Scene, beam_block, beam_block_valid, crystal_scene

SHAPE = (256, 256)
SHIFT = np.array([-3.37, 2.61])
MAX_SHIFT_PX = 32
TOLERANCE_PX = 0.02
BLOCKED_COUNTS = 5.0
HOT = 60_000
# In the open, near corners and in them, beside the beam-block.
PLACES = [(100, 200), (60, 60), (5, 5), (0, 0), (255, 255), (128, 40), (90, 128), (140, 133)]
PEDESTALS = [1e4, 2e4, 5e4, 1e5]
REAL_TYPES = ["int16", "int32", "int64", "uint16", "uint32", "uint64", "float32", "float64"]


@dataclass(frozen=True, eq=False)
class Pair:
    """A reference image and a frame of one crystal, where they are valid, and the bound."""

    scene: Scene
    image: NDArray[np.uint16]
    frame: NDArray[np.uint16]
    valid: NDArray[np.bool_]
    bound: NDArray[np.float64]


def draw(scene: Scene, shift: NDArray[np.float64], seed: int) -> NDArray[np.uint16]:
    through = beam_block(SHAPE)
    expected = scene.expected(shift) * through + BLOCKED_COUNTS * (1 - through)
    counts = np.random.default_rng(seed).poisson(expected).astype(np.uint16)
    counts.setflags(write=False)
    return counts


@pytest.fixture(scope="module")
def pair() -> Pair:
    scene = crystal_scene(SHAPE, dose=100.0, seed=1)
    valid = beam_block_valid(SHAPE)
    valid.setflags(write=False)
    return Pair(
        scene,
        draw(scene, np.zeros(2), seed=10),
        draw(scene, SHIFT, seed=11),
        valid,
        shift_bound(scene, SHIFT, valid, valid),
    )


@pytest.fixture(scope="module")
def reference(pair: Pair) -> Reference:
    return prepare_reference(pair.image, pair.valid, max_shift_px=MAX_SHIFT_PX)


def with_values(image: NDArray[Any], where: Any, value: float) -> NDArray[Any]:
    changed = image.copy()
    changed[where] = value
    changed.setflags(write=False)
    return changed


def peer_shift(*images: NDArray[Any], **options: Any) -> NDArray[np.float64]:
    """What scikit-image answers."""
    answer: Any = phase_cross_correlation(*images, **options)
    return np.asarray(answer[0])


def assert_right(found: Registration, pair: Pair) -> None:
    """The true shift, with an error bar that photon noise explains."""
    assert found.good
    # One noisy image against another: neither may claim more than photons tell.
    assert np.all(found.shift_std > 0.8 * pair.bound)
    assert np.all(found.shift_std < 3.0 * pair.bound)
    np.testing.assert_allclose(found.shift, SHIFT, atol=TOLERANCE_PX)
    assert np.all(np.abs(found.shift - SHIFT) < 5.0 * np.sqrt(2.0) * found.shift_std)


def assert_refused(found: Registration) -> None:
    assert found.status & REJECTING
    assert not found.good
    assert np.isnan(found.shift).all()
    assert np.isnan(found.shift_std).all()


# ------------------------------------------------------------------ the beam-block and the fraction


def test_the_scene_is_a_trap_for_an_ordinary_cross_correlation(pair: Pair) -> None:
    pinned = peer_shift(pair.image, pair.frame, upsample_factor=100)
    np.testing.assert_allclose(pinned, 0.0, atol=0.1)


def test_the_shift_is_found_to_a_fraction_of_a_pixel(pair: Pair, reference: Reference) -> None:
    assert_right(register_frame(pair.frame, reference), pair)


def test_the_whole_pixel_is_that_of_the_exact_masked_correlation(
    pair: Pair, reference: Reference
) -> None:
    exact = peer_shift(
        pair.image.astype(float),
        pair.frame.astype(float),
        reference_mask=pair.valid,
        moving_mask=pair.valid,
    )
    np.testing.assert_array_equal(np.rint(register_frame(pair.frame, reference).shift), exact)


def test_the_fraction_is_no_rounding_of_a_whole_number(pair: Pair, reference: Reference) -> None:
    found = register_frame(pair.frame, reference)
    assert np.all(np.abs(found.shift - np.rint(found.shift)) > 0.3)


@pytest.mark.parametrize("counts", [0, 500, HOT])
def test_what_shines_through_the_beam_block_does_not_matter(
    pair: Pair, reference: Reference, counts: int
) -> None:
    blocked = with_values(pair.frame, ~pair.valid, counts)
    found, plain = register_frame(blocked, reference), register_frame(pair.frame, reference)
    np.testing.assert_array_equal(found.shift, plain.shift)
    np.testing.assert_array_equal(found.shift_std, plain.shift_std)


# ------------------------------------------------------------------ the quality tells


def test_the_quality_tells_the_same_scene_from_noise(pair: Pair, reference: Reference) -> None:
    itself = register_frame(pair.image, reference)
    other = register_frame(pair.frame, reference)
    noise = np.random.default_rng(3).poisson(100.0, SHAPE)
    unlike = register_frame(noise, reference)
    # Weighted by how well each pixel is known, bright spots count less than in a plain one.
    assert itself.ncc > 0.95
    assert other.ncc > 0.95
    assert_refused(unlike)
    assert not unlike.ncc > 0.2  # a frame that never converged has none


def test_an_image_does_not_move_against_itself(pair: Pair, reference: Reference) -> None:
    found = register_frame(pair.image, reference)
    assert found.good
    np.testing.assert_allclose(found.shift, 0.0, atol=TOLERANCE_PX)


@pytest.mark.parametrize("seed", range(12))
def test_noise_alone_is_refused(pair: Pair, reference: Reference, seed: int) -> None:
    through = beam_block(SHAPE)
    mean = float(pair.frame[pair.valid].mean()) * through + BLOCKED_COUNTS * (1 - through)
    noise = np.random.default_rng(seed).poisson(mean).astype(np.uint16)
    assert_refused(register_frame(noise, reference))


@pytest.mark.parametrize("level", [0, 1, 7, 4095])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_blank_frame_is_refused_as_blank(reference: Reference, level: int, dtype: str) -> None:
    found = register_frame(np.full(SHAPE, level, dtype), reference)
    assert found.status & Status.BLANK
    assert_refused(found)


def test_a_frame_that_is_blank_where_it_counts_is_refused_as_blank(
    pair: Pair, reference: Reference
) -> None:
    found = register_frame(with_values(pair.frame, pair.valid, 3), reference)
    assert found.status & Status.BLANK
    assert_refused(found)


@pytest.mark.parametrize("shift", [(60.0, 10.0), (-50.0, -50.0), (45.0, 0.0), (80.0, 80.0)])
def test_a_frame_that_jumped_out_of_range_is_refused(
    pair: Pair, reference: Reference, shift: tuple[float, float]
) -> None:
    assert_refused(register_frame(draw(pair.scene, np.array(shift), seed=4), reference))


# ------------------------------------------------------------------ single pixels


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", PLACES[:4])
def test_one_pixel_that_is_no_number_changes_nothing(
    pair: Pair, reference: Reference, place: tuple[int, int], value: float
) -> None:
    found = register_frame(with_values(pair.frame.astype("f4"), place, value), reference)
    assert_right(found, pair)
    assert found.status & Status.NON_FINITE


def test_many_pixels_that_are_no_numbers_change_little(pair: Pair, reference: Reference) -> None:
    out = np.random.default_rng(6).random(SHAPE) < 0.05
    found = register_frame(with_values(pair.frame.astype("f8"), out, np.nan), reference)
    assert_right(found, pair)
    assert found.overlap < 0.97 * register_frame(pair.frame, reference).overlap


def test_a_frame_without_a_number_is_refused(reference: Reference) -> None:
    found = register_frame(np.full(SHAPE, np.nan), reference)
    assert found.status & Status.NON_FINITE
    assert_refused(found)


@pytest.mark.parametrize("place", PLACES)
def test_one_hot_pixel_in_the_frame_changes_nothing(
    pair: Pair, reference: Reference, place: tuple[int, int]
) -> None:
    assert_right(register_frame(with_values(pair.frame, place, HOT), reference), pair)


def test_a_hit_on_the_brightest_spot_changes_nothing(pair: Pair, reference: Reference) -> None:
    brightest = np.unravel_index(np.argmax(pair.frame * pair.valid), SHAPE)
    found = register_frame(with_values(pair.frame, brightest, HOT), reference)
    assert_right(found, pair)
    assert found.n_struck == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_static_hot_pixel_does_not_pin_the_shift(pair: Pair, place: tuple[int, int]) -> None:
    reference = prepare_reference(
        with_values(pair.image, place, HOT), pair.valid, max_shift_px=MAX_SHIFT_PX
    )
    assert_right(register_frame(with_values(pair.frame, place, HOT), reference), pair)


def test_a_hot_pixel_in_the_reference_alone_changes_nothing(pair: Pair) -> None:
    image = with_values(pair.image, PLACES[0], HOT)
    reference = prepare_reference(image, pair.valid, max_shift_px=MAX_SHIFT_PX)
    assert_right(register_frame(pair.frame, reference), pair)


def test_a_detector_full_of_static_hot_pixels_does_not_pin_the_shift(pair: Pair) -> None:
    hot = np.random.default_rng(7).random(SHAPE) < 1e-3
    reference = prepare_reference(
        with_values(pair.image, hot, HOT), pair.valid, max_shift_px=MAX_SHIFT_PX
    )
    assert_right(register_frame(with_values(pair.frame, hot, HOT), reference), pair)


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (3, 3)])
def test_a_static_hot_cluster_never_answers_no_shift(pair: Pair, size: tuple[int, int]) -> None:
    hot = (slice(60, 60 + size[0]), slice(60, 60 + size[1]))
    reference = prepare_reference(
        with_values(pair.image, hot, HOT), pair.valid, max_shift_px=MAX_SHIFT_PX
    )
    found = register_frame(with_values(pair.frame, hot, HOT), reference)
    if found.good:
        # What the cluster costs shows in the error bar.
        assert np.all(np.abs(found.shift - SHIFT) < 5.0 * found.shift_std)
        np.testing.assert_allclose(found.shift, SHIFT, atol=0.1)
    else:
        assert_refused(found)


@pytest.mark.parametrize("seed", range(3))
def test_a_thousandth_of_struck_pixels_changes_little(
    pair: Pair, reference: Reference, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    struck = pair.frame.astype(np.float64)
    where = rng.choice(struck.size, struck.size // 1000, replace=False)
    struck.flat[where] += 100.0 * 10 ** rng.uniform(np.log10(20), 3, where.size)
    found = register_frame(np.minimum(struck, 65_000).astype(np.uint16), reference)
    assert_right(found, pair)
    assert found.status & Status.STRUCK


# ------------------------------------------------------------------ pedestals and types


@pytest.mark.parametrize("pedestal", PEDESTALS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pedestal_of_the_frame_changes_nothing(
    pair: Pair, reference: Reference, pedestal: float, dtype: str
) -> None:
    found = register_frame((pair.frame + pedestal).astype(dtype), reference)
    assert_right(found, pair)
    np.testing.assert_allclose(found.background, pedestal, atol=2.0)


@pytest.mark.parametrize("pedestal", PEDESTALS)
def test_a_pedestal_of_both_that_drifts_by_a_twentieth_changes_nothing(
    pair: Pair, pedestal: float
) -> None:
    reference = prepare_reference(
        (pair.image + pedestal).astype(np.float32), pair.valid, max_shift_px=MAX_SHIFT_PX
    )
    frame = (pair.frame + 1.05 * pedestal).astype(np.float32)
    assert_right(register_frame(frame, reference), pair)


@pytest.mark.parametrize("dtype", REAL_TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_of_number_gives_one_answer(
    pair: Pair, reference: Reference, dtype: str, order: str
) -> None:
    kind = np.dtype(dtype).newbyteorder(order)  # type: ignore[arg-type]
    typed = prepare_reference(pair.image.astype(kind), pair.valid, max_shift_px=MAX_SHIFT_PX)
    plain = register_frame(pair.frame, reference)
    found = register_frame(pair.frame.astype(kind), typed)
    assert_right(found, pair)
    np.testing.assert_allclose(found.shift, plain.shift, atol=1e-6)
    np.testing.assert_allclose(found.shift_std, plain.shift_std, rtol=1e-5)


def test_eight_bits_are_enough_and_their_largest_value_is_saturated(pair: Pair) -> None:
    frame = np.minimum(pair.frame, 255).astype(np.uint8)
    image = np.minimum(pair.image, 255).astype(np.uint8)
    reference = prepare_reference(
        image, pair.valid & (image < 255), frame_valid=pair.valid, max_shift_px=MAX_SHIFT_PX
    )
    found = register_frame(frame, reference)
    assert found.good
    assert found.status & Status.SATURATED
    assert np.all(np.abs(found.shift - SHIFT) < 0.05)
    assert np.all(np.abs(found.shift - SHIFT) < 5.0 * np.sqrt(2.0) * found.shift_std)


# ------------------------------------------------------------------ the valid arrays


def test_valid_pixels_of_the_frames_alone_are_enough(pair: Pair) -> None:
    reference = prepare_reference(pair.image, frame_valid=pair.valid, max_shift_px=MAX_SHIFT_PX)
    assert_right(register_frame(pair.frame, reference), pair)


def test_valid_pixels_of_the_reference_alone_are_enough(pair: Pair) -> None:
    reference = prepare_reference(pair.image, pair.valid, max_shift_px=MAX_SHIFT_PX)
    np.testing.assert_array_equal(reference.frame_valid, pair.valid)
    assert_right(register_frame(pair.frame, reference), pair)


def test_valid_pixels_that_are_inverted_are_refused(pair: Pair) -> None:
    with pytest.raises(InputError, match="inverted"):
        prepare_reference(pair.image, ~pair.valid, max_shift_px=MAX_SHIFT_PX)
    with pytest.raises(InputError, match="inverted"):
        prepare_reference(
            pair.image, pair.valid, frame_valid=~pair.valid, max_shift_px=MAX_SHIFT_PX
        )


def test_inverted_valid_pixels_that_were_insisted_on_give_no_shift(pair: Pair) -> None:
    reference = prepare_reference(
        pair.image, ~pair.valid, max_shift_px=MAX_SHIFT_PX, allow_small=True
    )
    assert_refused(register_frame(pair.frame, reference))


def test_a_frame_of_inverted_valid_pixels_gives_no_shift(pair: Pair, reference: Reference) -> None:
    assert_refused(register_frame(pair.frame, reference, ~pair.valid))
