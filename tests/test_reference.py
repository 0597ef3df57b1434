"""References made out of stacks: which frames enter, how sharp they are, and the noise's gain."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.base import compute

from stillstack.config import ReferenceConfig
from stillstack.errors import InputError
from stillstack.kernels.registration import Reference, register_frame
from stillstack.model import is_good
from stillstack.noise import estimate_gain
from stillstack.reference import ReferenceMaker
from stillstack.reference_image import ReferenceImage
from stillstack.sampling import SpreadSource, ordinary, spread_numbers, take_sample
from stillstack.simulation import SimulatedStack, powder_scene, simulate_stack
from stillstack.sources import open_source

SETTINGS: dict[str, Any] = {"max_shift_px": 16}
SHAPE = (160, 160)
SYNCHRONOUS = functools.partial(compute, scheduler="synchronous")


class Simulated:
    """A simulated stack as a source."""

    name = "simulated"
    chunk_frames = 1

    def __init__(self, stack: SimulatedStack) -> None:
        self.coords: dict[str, Any] = {}
        self.attrs: dict[str, Any] = {}
        self.stack = stack
        self.shape = stack.shape
        self.dtype = stack.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.stack.read(start, stop)

    def fingerprint(self) -> str:
        return f"{self.stack.seed}-{self.shape}"


def _maker(stack: SimulatedStack, settings: Any = SETTINGS, **config: Any) -> ReferenceMaker:
    return ReferenceMaker(
        Simulated(stack), ReferenceConfig(**config), stack.valid, None, settings, SYNCHRONOUS
    )


def _sharpness(made: ReferenceImage, valid: np.ndarray) -> float:
    """Energy of the image at scales of a few pixels, where blur shows and noise hardly."""
    from scipy.ndimage import binary_erosion, gaussian_filter

    image = gaussian_filter(np.where(made.valid, made.image, made.image[made.valid].mean()), 1.5)
    inside = binary_erosion(made.valid & valid, iterations=8)
    dy, dx = np.gradient(image)
    return float((dy**2 + dx**2)[inside].mean())


def _errors(stack: SimulatedStack, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """Registration errors of the good frames, less their mean, and the errors in sigmas."""
    found = [register_frame(stack.frame(i), reference) for i in range(len(stack))]
    good = [i for i, one in enumerate(found) if is_good(one.status)]
    errors = np.array([found[i].shift for i in good]) - stack.shift[good]
    errors -= errors.mean(axis=0)
    return np.array(good), errors / np.array([found[i].shift_std for i in good])


@pytest.fixture(scope="module")
def stack() -> SimulatedStack:
    return simulate_stack(48, SHAPE, seed=7, drift_px=4.0)


@pytest.fixture(scope="module")
def drifting() -> SimulatedStack:
    """Thin rings that drift by several times their width."""
    scene = powder_scene(SHAPE, 60.0, ring_width_px=4.0, seed=3)
    return simulate_stack(40, SHAPE, scene=scene, seed=3, planted=False, drift_px=14.0)


def test_first_and_index_are_the_frames_themselves(stack: SimulatedStack) -> None:
    for config, number in (({"kind": "first"}, 0), ({"kind": "index", "index": 7}, 7)):
        made = _maker(stack, **config).make()
        frame = stack.frame(number)
        np.testing.assert_array_equal(made.image[stack.valid], frame[stack.valid])
        np.testing.assert_array_equal(made.valid, stack.valid)
        assert made.n_frames == 1


def test_the_mean_without_refinement_is_the_mean_of_ordinary_frames() -> None:
    stack = simulate_stack(6, SHAPE, seed=1, planted={"blank": (2,), "saturated": (4,)})
    made = _maker(stack, kind="mean", refine=0).make()
    expected = np.mean([stack.frame(i) for i in (0, 1, 3, 5)], axis=0)
    np.testing.assert_allclose(made.image[stack.valid], expected[stack.valid], rtol=1e-6)
    assert made.n_frames == 4


def test_the_median_is_that_of_ordinary_frames() -> None:
    stack = simulate_stack(9, SHAPE, seed=1, planted={"saturated": (4,), "blank": (6,)})
    made = _maker(stack, kind="median", refine=0).make()
    expected = np.median([stack.frame(i) for i in (0, 1, 2, 3, 5, 7, 8)], axis=0)
    np.testing.assert_array_equal(made.image[stack.valid], expected[stack.valid])
    assert made.n_frames == 4  # a median of seven is as noisy as a mean of 4.5


def test_values_that_do_not_count_stay_out_of_the_mean() -> None:
    stack = simulate_stack(4, SHAPE, seed=1, planted=False)
    settings = {**SETTINGS, "above": 100.0}
    made = _maker(stack, settings, kind="mean", refine=0).make()
    frames = stack.read(0, 4).astype(float)
    counted = (frames <= 100) & stack.valid
    expected = np.where(counted, frames, 0).sum(axis=0) / np.maximum(counted.sum(axis=0), 1)
    assert (counted.sum(axis=0)[made.valid] < 4).any()
    np.testing.assert_allclose(made.image[made.valid], expected[made.valid], rtol=1e-6)
    assert made.image[made.valid].max() <= 100


def test_one_like_it_of_few_frames_is_as_sharp(drifting: SimulatedStack) -> None:
    maker = _maker(drifting, kind="mean", refine=2)
    like, made = maker.like(6), maker.make()
    blurred = _maker(drifting, kind="mean", refine=0, frames=6).make()
    assert like.n_frames <= 6 < made.n_frames
    sharp = _sharpness(made, drifting.valid)
    assert abs(_sharpness(like, drifting.valid) / sharp - 1) < 0.25
    assert _sharpness(blurred, drifting.valid) < 0.5 * sharp
    first = _maker(drifting, kind="first").like(6)
    np.testing.assert_array_equal(first.image, _maker(drifting, kind="first").make().image)


def test_planted_frames_do_not_enter_the_refined_mean(stack: SimulatedStack) -> None:
    made = _maker(stack, kind="mean", frames="all").make()
    # a struck frame is good, but odd enough to be left out of the reference
    n_clean = len(stack) - len(stack.rejects) - len(stack.planted["struck"])
    assert f"mean of {n_clean} of " in made.notes[-1]
    good, pulls = _errors(stack, _maker(stack).prepared(made))
    assert sorted(set(range(48)) - set(good.tolist())) == list(stack.rejects)
    assert 0.75 < np.sqrt((pulls**2).mean()) < 1.3


def test_alignment_keeps_what_a_plain_mean_blurs(drifting: SimulatedStack) -> None:
    sharp = _maker(drifting, kind="mean", frames="all", refine=1).make()
    blurred = _maker(drifting, kind="mean", frames="all", refine=0).make()
    clean = ReferenceImage(
        drifting.scene.expected(drifting.shift[20]).astype("f4"), drifting.valid, 1
    )
    ideal = _sharpness(clean, drifting.valid)
    assert _sharpness(blurred, drifting.valid) < 0.6 * ideal
    assert 0.85 * ideal < _sharpness(sharp, drifting.valid) < 1.15 * ideal


def test_refinement_sharpens_a_median(drifting: SimulatedStack) -> None:
    rough = _maker(drifting, kind="median", frames="all", refine=0).make()
    fine = _maker(drifting, kind="median", frames="all", refine=2).make()
    assert _sharpness(fine, drifting.valid) > 1.5 * _sharpness(rough, drifting.valid)


@pytest.mark.parametrize("kind", ["noise", "jumped", "blank"])
def test_a_bad_frame_in_the_middle_is_not_the_start(kind: str) -> None:
    stack = simulate_stack(21, SHAPE, seed=5, planted={kind: (10,)}, drift_px=3.0)
    made = _maker(stack, kind="mean", frames="all").make()
    assert "frame 10" not in made.notes
    assert "mean of 20 of " in made.notes[-1]


def test_the_reference_lies_in_the_middle_of_the_drift() -> None:
    stack = simulate_stack(30, SHAPE, seed=2, planted=False, drift_px=0.0, jitter_px=0.2)
    path = np.linspace(0, 26, 30)[:, None] * [1.0, 0.6] + stack.shift
    object.__setattr__(stack, "shift", path)
    maker = _maker(stack, kind="mean", frames="all")
    reference = maker.prepared(maker.make())
    shifts = np.array([register_frame(stack.frame(i), reference).shift for i in range(30)])
    assert np.isfinite(shifts).all()  # 26 px of drift, and no frame more than 16 px away
    assert abs(np.median(shifts, axis=0)).max() < 1.0


def test_the_mean_fills_in_what_the_beam_block_hides(drifting: SimulatedStack) -> None:
    made = _maker(drifting, kind="mean", frames="all").make()
    assert made.valid[~drifting.valid].any()


def test_a_reference_is_the_same_bit_for_bit_on_every_engine(
    engine: str, stack: SimulatedStack
) -> None:
    here = _maker(stack, kind="mean", frames=12)
    there = ReferenceMaker(here.source, here.config, here.valid, None, SETTINGS, compute)
    one, other = here.make(), there.make()
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.valid, other.valid)
    assert here.prepared(one).digest == there.prepared(other).digest


def test_an_image_from_a_file(stack: SimulatedStack, tmp_path: Path) -> None:
    image = stack.scene.expected().astype("f4")
    np.save(tmp_path / "image.npy", image)
    made = _maker(stack, kind="image", path=str(tmp_path / "image.npy")).make()
    np.testing.assert_array_equal(made.image, image)
    np.save(tmp_path / "small.npy", image[:10])
    with pytest.raises(InputError, match=r"shape \(10, 160\)"):
        _maker(stack, kind="image", path=str(tmp_path / "small.npy")).make()


def test_the_reference_can_have_valid_pixels_of_its_own(stack: SimulatedStack) -> None:
    own = np.zeros(SHAPE, bool)
    own[:80] = True
    maker = ReferenceMaker(
        Simulated(stack), ReferenceConfig(), stack.valid, own, SETTINGS, SYNCHRONOUS
    )
    made = maker.make()
    assert made.valid.any()
    assert not made.valid[80:].any()


def test_blank_references_are_refused(stack: SimulatedStack, tmp_path: Path) -> None:
    blank = stack.planted["blank"][0]
    with pytest.raises(InputError, match="The reference is blank"):
        _maker(stack, kind="index", index=blank).make()
    np.save(tmp_path / "zeros.npy", np.zeros((5, *SHAPE), "u2"))
    maker = _maker(stack)
    source = open_source(str(tmp_path / "zeros.npy"))
    nothing = ReferenceMaker(source, maker.config, maker.valid, None, SETTINGS, SYNCHRONOUS)
    with pytest.raises(InputError, match="none of the 5 frames"):
        nothing.make()


@pytest.mark.parametrize("dose", [1, 4, 60, 1000])
@pytest.mark.parametrize("scene", ["powder", "crystal", "textured"])
def test_the_gain_of_photon_counts_is_one(dose: float, scene: str) -> None:
    stack = simulate_stack(
        24, (256, 256), dose=dose, scene=scene, seed=1, planted=False, saturation=65535
    )
    frames = [stack.frame(i) for i in range(0, 24, 3)]
    assert estimate_gain(frames, stack.valid) == pytest.approx(1.0, abs=0.05)


def test_a_gain_of_40_is_found_beside_read_noise() -> None:
    stack = simulate_stack(8, (256, 256), dose=20, seed=1, planted=False)
    rng = np.random.default_rng(1)
    frames = [stack.frame(i) * 40.0 + rng.normal(0, 30.0, (256, 256)) for i in range(8)]
    assert estimate_gain(frames, stack.valid, read_noise=30.0) == pytest.approx(40.0, rel=0.05)


def test_struck_pixels_do_not_move_the_gain() -> None:
    stack = simulate_stack(8, (256, 256), seed=1, planted={"struck": (1, 3, 5, 7)})
    frames = [stack.frame(i) for i in range(8)]
    assert estimate_gain(frames, stack.valid) == pytest.approx(1.0, abs=0.05)


def test_too_few_pixels_give_no_gain() -> None:
    frame = np.random.default_rng(0).poisson(10, (40, 40))
    assert estimate_gain([frame], np.ones((40, 40), bool)) is None
    assert estimate_gain([], np.ones((400, 400), bool)) is None
    assert estimate_gain([np.zeros((400, 400))], np.ones((400, 400), bool)) is None


def test_spread_numbers_reach_both_ends_and_do_not_repeat() -> None:
    assert spread_numbers(0, 10, 10) == tuple(range(10))
    assert spread_numbers(5, 8, 100) == (5, 6, 7)
    numbers = spread_numbers(3, 1000, 17)
    assert numbers[0] == 3
    assert numbers[-1] == 999
    assert len(set(numbers)) == 17


def test_ordinary_frames_resemble_most_others() -> None:
    assert ordinary([(10, 3), (11, 3), (10, 0), (90, 3), (9, 3)]).tolist() == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert ordinary([(10, 0), (np.nan, np.nan)]).tolist() == [False, False]


def test_a_sample_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    from stillstack.errors import UnreadableFrameError

    class Torn(Simulated):
        def read(self, start: int, stop: int) -> np.ndarray:
            if start == 0:
                raise UnreadableFrameError("Frame 0 is torn.")
            return super().read(start, stop)

    torn = Torn(simulate_stack(5, (32, 32), planted=False))
    sample = take_sample(torn, 3)
    assert sample.numbers == (2, 4)
    assert sample.unreadable == {0: "Frame 0 is torn."}
    assert not SpreadSource(torn, (0, 2)).read(0, 1).any()


def test_refinement_ends_by_itself_when_it_changes_less_than_the_noise(
    drifting: SimulatedStack,
) -> None:
    for kind in ("mean", "median", "first"):
        made = _maker(drifting, kind=kind, frames="all", refine="auto").make()
        assert made.notes[-1].startswith("settled after ")
        more = _maker(drifting, kind=kind, frames="all", refine=8).make()
        shifts = [
            np.array(
                [register_frame(drifting.frame(i), prepared).shift for i in range(len(drifting))]
            )
            for prepared in (_maker(drifting).prepared(image) for image in (made, more))
        ]
        moved = shifts[0] - shifts[1]
        moved -= moved.mean(axis=0)
        _, pulls = _errors(drifting, _maker(drifting).prepared(made))
        # six rounds more would not have changed what matters: each moves frames by under a tenth
        # of their errors, and by less each time
        std = register_frame(drifting.frame(0), _maker(drifting).prepared(made)).shift_std
        assert np.sqrt((moved**2).mean(axis=0)).max() < 0.2 * std.min()
        assert 0.75 < np.sqrt((pulls**2).mean()) < 1.3


def test_a_blurred_start_is_not_taken_for_settled(drifting: SimulatedStack) -> None:
    blurred = _maker(drifting, kind="median", frames="all", refine=0).make()
    settled = _maker(drifting, kind="median", frames="all", refine="auto").make()
    assert _sharpness(settled, drifting.valid) > 1.5 * _sharpness(blurred, drifting.valid)
    assert "settled after 0" not in settled.notes[-1]


def test_refinement_that_does_not_end_says_so(
    drifting: SimulatedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillstack.reference.SETTLED", 0.0)
    monkeypatch.setattr("stillstack.config.registration.MOST_ROUNDS", 3)
    made = _maker(drifting, kind="first", frames=6, refine="auto").make()
    assert made.notes[-1].startswith("not settled after 3 rounds: the last one changed shifts by ")
