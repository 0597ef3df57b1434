"""Simulated frames: exact at every displacement, static block, honest noise, planted faults."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillstack.errors import InputError
from stillstack.simulation import (
    PLANTED_KINDS,
    SCENES,
    Scene,
    beam_block,
    beam_block_figure,
    beam_block_valid,
    crystal_scene,
    drift_path,
    powder_scene,
    simulate_stack,
    textured_scene,
)
from stillstack.simulation.scene import Halo, Part, Rings, Spots

MAKERS: dict[str, Callable[..., Scene]] = {
    "powder": powder_scene,
    "crystal": crystal_scene,
    "textured": textured_scene,
}
pixel = st.floats(-6, 6, allow_nan=False)


def grid(shape: tuple[int, int], shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    return y + shift[0], x + shift[1]


def test_parts_follow_their_formulas() -> None:
    shape, shift = (40, 50), (1.3, -2.7)
    y, x = grid(shape, shift)
    r = np.hypot(y - 18.5, x - 25.2)
    parts: tuple[Part, ...] = (
        Halo((18.5, 25.2), 3.0, 9.0),
        Rings((18.5, 25.2), (8.0, 15.0), (2.0, 1.0), 1.7),
        Spots((10.0, 30.0), (20.0, 5.5), (7.0, 4.0), (1.5, 2.5)),
    )
    formulas = (
        3.0 / (1 + r**2 / 81),
        2 * np.exp(-((r - 8) ** 2) / (2 * 1.7**2)) + np.exp(-((r - 15) ** 2) / (2 * 1.7**2)),
        7 * np.exp(-((y - 10) ** 2 + (x - 20) ** 2) / (2 * 1.5**2))
        + 4 * np.exp(-((y - 30) ** 2 + (x - 5.5) ** 2) / (2 * 2.5**2)),
    )
    for part, formula in zip(parts, formulas, strict=True):
        made = Scene(shape, (part,), scale=2.0).expected(shift)
        np.testing.assert_allclose(made, 2 * formula, rtol=1e-12, atol=1e-12)
    together = Scene(shape, parts).expected(shift)
    np.testing.assert_allclose(together, sum(formulas), rtol=1e-12)


@pytest.mark.parametrize("kind", SCENES)
@given(shift=st.tuples(pixel, pixel))
@settings(max_examples=15, deadline=None)
def test_gradient_is_the_limit_of_differences(kind: str, shift: tuple[float, float]) -> None:
    scene = MAKERS[kind]((48, 56), seed=1)
    slope_y, slope_x = scene.gradient(shift)
    h = 1e-4
    for slope, step in ((slope_y, np.array([h, 0])), (slope_x, np.array([0, h]))):
        ahead, behind = scene.expected(shift + step), scene.expected(shift - step)
        difference = (ahead - behind) / (2 * h)
        np.testing.assert_allclose(slope, difference, rtol=0, atol=1e-5 * np.abs(slope).max())


@pytest.mark.parametrize("kind", SCENES)
def test_whole_displacements_are_slices(kind: str) -> None:
    scene = MAKERS[kind]((64, 80), seed=2)
    still, moved = scene.expected((0.25, 0.5)), scene.expected((3.25, -3.5))
    np.testing.assert_allclose(moved[:-3, 4:], still[3:, :-4], rtol=1e-12)


@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.parametrize("shape", [(64, 64), (60, 150)])
def test_scenes_are_positive_and_have_their_dose(kind: str, shape: tuple[int, int]) -> None:
    scene = MAKERS[kind](shape, dose=7.5, seed=3)
    assert scene.expected((40.2, -30.1)).min() > 0
    assert scene.expected()[beam_block_valid(shape)].mean() == pytest.approx(7.5)


@pytest.mark.parametrize("kind", SCENES)
def test_scenes_come_from_their_seed(kind: str) -> None:
    make = MAKERS[kind]
    assert make((64, 64), seed=4) == make((64, 64), seed=4)
    assert make((64, 64), seed=4) != make((64, 64), seed=5)
    assert pickle.loads(pickle.dumps(make((64, 64)))) == make((64, 64))


def test_ring_width_is_kept() -> None:
    narrow, wide = (powder_scene((128, 128), ring_width_px=w).parts[1] for w in (1.5, 9.0))
    assert isinstance(narrow, Rings)
    assert isinstance(wide, Rings)
    assert (narrow.sigma_px, wide.sigma_px) == (1.5, 9.0)


def test_beam_block_reaches_the_border_and_the_centre() -> None:
    dark = beam_block((100, 120)) == 0
    assert dark[50, 60]
    assert dark[-1].any()
    assert not dark[0].any()
    assert not dark[:, 0].any()
    assert 0.01 < dark.mean() < 0.1


def test_valid_leaves_the_block_and_its_margin_out() -> None:
    dark, valid = beam_block((100, 120)) == 0, beam_block_valid((100, 120))
    assert valid.dtype == np.bool_
    assert not valid[dark].any()
    # every neighbour of the block is within the margin of two pixels
    neighbour = np.zeros_like(dark)
    for step in (-1, 1):
        neighbour |= np.roll(dark, step, 0) | np.roll(dark, step, 1)
    assert not valid[neighbour & (np.arange(100) > 0)[:, None]].any()
    assert valid.mean() > 0.9


def test_beam_block_figure_draws_the_same_pixels() -> None:
    figure = beam_block_figure((90, 110), margin_px=2.0)
    y0, y1, x0, x1 = figure.rod
    y, x = grid((90, 110), (0, 0))
    drawn = np.hypot(y - figure.disc[0], x - figure.disc[1]) <= figure.disc[2]
    drawn[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(~drawn, beam_block_valid((90, 110), margin_px=2.0))


def test_drift_is_slow_with_jitter_and_starts_at_zero() -> None:
    slow = drift_path(400, seed=1, drift_px=6.0, jitter_px=0.0)
    path = drift_path(400, seed=1, drift_px=6.0, jitter_px=0.3)
    np.testing.assert_array_equal(path[0], 0)
    assert np.abs(slow).max() == pytest.approx(6.0)
    assert np.abs(np.diff(slow, axis=0)).max() < 0.5
    jitter = (path - slow)[1:]
    assert jitter.std() == pytest.approx(0.3, rel=0.15)
    assert not np.array_equal(path, drift_path(400, seed=2))


def test_one_frame_has_a_path() -> None:
    np.testing.assert_array_equal(drift_path(1), [[0, 0]])


def test_frames_do_not_depend_on_order_or_process() -> None:
    stack = simulate_stack(60, (64, 72), seed=9)
    again = pickle.loads(pickle.dumps(simulate_stack(60, (64, 72), seed=9)))
    backwards = [again.frame(i) for i in reversed(range(60))][::-1]
    for i in range(60):
        np.testing.assert_array_equal(stack.frame(i), backwards[i])
    np.testing.assert_array_equal(stack.read(3, 7), backwards[3:7])
    other = simulate_stack(60, (64, 72), seed=10)
    assert not np.array_equal(stack.frame(0), other.frame(0))
    assert not np.array_equal(stack.frame(0), stack.frame(1))


def test_frames_are_uint16_and_the_stack_says_so() -> None:
    stack = simulate_stack(8, (32, 40), planted=False)
    assert stack.frame(0).dtype == stack.dtype == np.uint16
    assert (stack.shape, len(stack)) == ((8, 32, 40), 8)
    assert stack.frame(0).shape == stack.valid.shape == (32, 40)


def test_a_long_stack_is_small_to_send() -> None:
    assert len(pickle.dumps(simulate_stack(40_000, (2048, 2048), planted=True))) < 2e6


def test_ordinary_frames_are_poisson_about_the_moved_scene() -> None:
    stack = simulate_stack(40, (96, 96), seed=5, planted=False)
    scores = []
    for i in range(40):
        bright = stack.scene.expected(stack.shift[i])
        expected = np.where(beam_block((96, 96)) == 0, 5.0, bright)
        np.testing.assert_allclose(stack.expected(i), expected)
        scores.append((stack.frame(i) - expected) / np.sqrt(expected))
    z = np.array(scores)
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert z.var() == pytest.approx(1, abs=0.02)
    # no pixel is bright or dark in all frames: the drift is all that is shared
    assert np.abs(z.mean(axis=0)).max() * np.sqrt(40) < 6


def test_brightness_follows_intensity() -> None:
    stack = simulate_stack(200, (32, 32), seed=5, planted=False, intensity_std=0.1)
    assert np.log(stack.intensity).std() == pytest.approx(0.1, rel=0.2)
    ratio = stack.expected(3) / (stack.scene.expected(stack.shift[3]))
    assert ratio[stack.valid] == pytest.approx(stack.intensity[3])


@given(n_frames=st.integers(6, 40_000), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_planted_frames_are_few_spread_and_never_the_first(n_frames: int, seed: int) -> None:
    planted = simulate_stack(n_frames, (16, 16), seed=seed).planted
    frames = [i for kind in PLANTED_KINDS for i in planted[kind]]
    assert len(frames) == len(set(frames))
    assert min(frames) >= 1
    assert max(frames) < n_frames
    assert {len(planted[kind]) for kind in PLANTED_KINDS} <= set(range(1, 6))


def test_a_few_hundred_frames_have_a_few_of_each_kind() -> None:
    stack = simulate_stack(300, (16, 16))
    assert {kind: len(frames) for kind, frames in stack.planted.items()} == dict.fromkeys(
        PLANTED_KINDS, 3
    )
    assert len(stack.rejects) == 12
    assert not set(stack.rejects) & set(stack.planted["struck"])
    assert stack.kind(stack.planted["noise"][0]) == "noise"
    assert stack.kind(0) is None


PLANTED = {"blank": (1, 2), "saturated": (3,), "noise": (4,), "jumped": (5, 6), "struck": (7,)}


def test_blank_and_saturated_frames_are_flat() -> None:
    stack = simulate_stack(9, (64, 64), planted=PLANTED, saturation=1023)
    assert [set(np.unique(stack.frame(i))) for i in (1, 2, 3)] == [{0}, {7}, {1023}]


def test_noise_frames_show_no_scene() -> None:
    stack = simulate_stack(9, (64, 64), planted=PLANTED)
    noise, valid = stack.frame(4)[stack.valid].astype(float), stack.valid
    scene = stack.scene.expected()[valid]
    assert noise.mean() == pytest.approx(60, rel=0.02)
    assert noise.var() == pytest.approx(60, rel=0.1)
    assert abs(np.corrcoef(noise, scene)[0, 1]) < 0.07


def test_jumped_frames_are_out_of_range_and_the_truth_says_where() -> None:
    stack = simulate_stack(9, (64, 64), planted=PLANTED, jumped_px=30.0, drift_px=1, jitter_px=0)
    assert np.abs(stack.shift[[5, 6], 0]).min() > 28
    assert np.sign(stack.shift[5, 0]) != np.sign(stack.shift[6, 0])
    expected = stack.scene.expected(stack.shift[5])[stack.valid]
    z = (stack.frame(5)[stack.valid] - expected) / np.sqrt(expected)
    assert z.var() == pytest.approx(1, abs=0.1)


def test_only_frames_without_a_scene_have_no_shift() -> None:
    stack = simulate_stack(9, (64, 64), planted=PLANTED)
    missing = np.isnan(stack.shift).all(axis=1)
    assert set(np.flatnonzero(missing)) == {1, 2, 3, 4}
    assert np.isfinite(stack.shift[~missing]).all()
    with pytest.raises(InputError, match="shift"):
        stack.expected(4)


def test_struck_frames_have_a_thousandth_of_bright_pixels() -> None:
    stack = simulate_stack(9, (256, 256), planted=PLANTED, saturation=65535)
    extra = stack.frame(7) - stack.expected(7)
    hit = extra > 15 * 60
    assert hit.sum() == 65
    assert extra[hit].min() > 19 * 60
    assert extra[hit].max() < 1001 * 60
    z = (extra / np.sqrt(stack.expected(7)))[~hit]
    assert z.var() == pytest.approx(1, abs=0.03)


def test_saturation_bounds_every_frame() -> None:
    stack = simulate_stack(9, (128, 128), planted=PLANTED, saturation=2000)
    assert stack.frame(7).max() == 2000
    assert stack.frame(0).max() < 2000


@pytest.mark.parametrize(
    "call",
    [
        lambda: powder_scene((4, 64)),
        lambda: powder_scene((64, 64), dose=0),
        lambda: crystal_scene((64, 64), spacing_px=-1),
        lambda: textured_scene((64, 64), grain_px=0),
        lambda: powder_scene((64, 64)).expected((np.nan, 0)),
        lambda: powder_scene((64, 64)).gradient((0, np.inf)),
        lambda: simulate_stack(0, (64, 64)),
        lambda: simulate_stack(5, (64, 64)),
        lambda: simulate_stack(10, (64, 64), saturation=70000),
        lambda: simulate_stack(10, (64, 64), planted={"blank": [10]}),
        lambda: simulate_stack(10, (64, 64), planted={"blank": [1], "noise": [1]}),
        lambda: simulate_stack(10, (64, 64), planted={"bright": [1]}),
        lambda: simulate_stack(10, (64, 64), planted=False, scene="gas"),
        lambda: simulate_stack(10, (64, 64), planted=False, scene=powder_scene((32, 32))),
    ],
)
def test_what_cannot_be_simulated_is_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError):
        call()


@pytest.mark.parametrize("index", [-1, 10])
def test_there_is_no_frame_outside_the_stack(index: int) -> None:
    with pytest.raises(IndexError):
        simulate_stack(10, (32, 32), planted=False).frame(index)


def test_a_stack_can_be_made_of_any_scene() -> None:
    scene = textured_scene((32, 48), seed=8)
    stack = simulate_stack(10, (32, 48), planted=False, scene=scene)
    np.testing.assert_allclose(stack.expected(0)[stack.valid], scene.expected()[stack.valid])
    for kind in SCENES:
        named = simulate_stack(10, (32, 48), planted=False, scene=kind, seed=8)
        assert named.scene == MAKERS[kind]((32, 48), seed=8)
