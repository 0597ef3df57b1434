"""Simulated runs of days: their truth is what they say, and what they show."""

from __future__ import annotations

import numpy as np
import pytest

from stillstack.errors import InputError
from stillstack.simulation import (
    Motion,
    beam_block,
    beam_block_valid,
    evolving_scenes,
    long_timeline,
    simulate_long_run,
)
from stillstack.sources import Source

SHAPE = (96, 96)


def test_a_run_is_the_same_in_any_order_and_another_with_another_seed() -> None:
    run, again, other = (simulate_long_run(120, SHAPE, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(run.frame(77), again.read(70, 80)[7])
    assert run.fingerprint() == again.fingerprint() != other.fingerprint()
    assert not np.array_equal(run.frame(77), other.frame(77))


def test_a_run_is_a_source_as_it_stands() -> None:
    run = simulate_long_run(60, SHAPE, coords={"scan": np.arange(60) // 20})
    source: Source = run
    assert source.read(3, 5).shape == (2, *SHAPE)
    assert {name: values.shape for name, values in source.coords.items()} == {
        "time": (60,),
        "content": (60,),
        "scan": (60,),
    }


def test_the_time_ascends_from_first_to_last_and_leaps_at_gaps_alone() -> None:
    run = long_timeline(2000, hours=72, seed=5)
    steps = np.diff(run.time)
    assert run.time[0] == 0
    assert run.time[-1] == pytest.approx(72 * 3600)
    assert sorted(np.flatnonzero(steps > 2 * np.median(steps)) + 1) == list(run.gaps)
    assert all(1800 <= steps[at - 1] - steps.min() <= 7200 for at in run.gaps)


def test_jumps_stay_and_nothing_else_leaps() -> None:
    motion = Motion(jitter_px=0.0, losses=0, jump_px=2.0)
    run = long_timeline(4000, motion=motion, seed=2)
    steps = np.abs(np.diff(run.shift, axis=0)).max(axis=1)
    assert sorted(np.flatnonzero(steps > 1.0) + 1) == list(run.jumps)
    for at in run.jumps:
        before, after = run.shift[at - 20 : at].mean(axis=0), run.shift[at : at + 20].mean(axis=0)
        np.testing.assert_allclose(np.abs(after - before), 2.0, atol=0.3)


def test_each_part_of_the_motion_has_the_size_it_is_given() -> None:
    still = Motion(drift_px=0, day_px=0, jitter_px=0, jumps=0, gaps=0, losses=0)
    assert np.abs(long_timeline(500, motion=still).shift).max() == 0
    jitter = long_timeline(5000, motion=Motion(0, 0, 0.2, 0, gaps=0, losses=0)).shift[1:]
    # 5000 draws: the standard deviation is known to 1 %
    np.testing.assert_allclose(jitter.std(axis=0), 0.2, rtol=0.05)
    drift = long_timeline(500, motion=Motion(7.0, 0, 0, 0, gaps=0, losses=0)).shift
    assert np.abs(drift).max() == pytest.approx(7.0)
    day = long_timeline(500, motion=Motion(0, 1.5, 0, 0, gaps=0, losses=0)).shift
    np.testing.assert_allclose(np.ptp(day, axis=0), 3.0, rtol=0.01)


def test_frames_without_a_beam_are_dark_and_have_no_shift() -> None:
    run = simulate_long_run(1000, SHAPE, motion=Motion(losses=3), seed=1)
    lost = list(run.timeline.lost)
    assert len(lost) == 6
    assert np.isnan(run.shift[lost]).all()
    assert np.isfinite(np.delete(run.shift, lost, axis=0)).all()
    assert run.frame(lost[0]).max() == 0


@pytest.mark.parametrize("kind", ["powder", "crystal"])
def test_the_last_pattern_does_not_resemble_the_first(kind: str) -> None:
    first, last = evolving_scenes((128, 128), kind=kind)
    bare = [part.expected() for part in (first, last)]
    # What the smooth background has in common is no pattern.
    y, x = np.indices((128, 128)) - 63.5
    ring = np.hypot(y, x).astype(int)
    values = []
    for image in bare:
        if kind == "crystal":
            mean = np.bincount(ring.ravel(), image.ravel()) / np.bincount(ring.ravel())
            values.append((image - mean[ring])[(ring > 15) & (ring < 60)])
        else:
            values.append(np.gradient(image, axis=0)[(ring > 25) & (ring < 60)])
    assert abs(np.corrcoef(*values)[0, 1]) < 0.35
    valid = beam_block_valid((128, 128))
    assert [image[valid].mean() for image in bare] == pytest.approx([60.0, 60.0])


def test_a_frame_is_the_mixture_of_the_patterns_where_the_drift_carried_it() -> None:
    content = np.linspace(0, 1, 60)
    run = simulate_long_run(60, SHAPE, content=content, seed=2)
    first, last = run.scenes
    part = content[15]
    expected = (1 - part) * first.expected(run.shift[15]) + part * last.expected(run.shift[15])
    np.testing.assert_allclose(run.expected(15), expected * beam_block(SHAPE))


def test_runs_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="10 frames in 72"):
        simulate_long_run(10, SHAPE)
    with pytest.raises(InputError, match="content of 60 frames"):
        simulate_long_run(60, SHAPE, content=np.full(60, 1.5))
    with pytest.raises(InputError, match="called 'glass'"):
        evolving_scenes(SHAPE, kind="glass")
    with pytest.raises(IndexError):
        simulate_long_run(60, SHAPE).frame(60)
