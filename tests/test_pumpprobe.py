"""Simulated pump-probe runs: pumped frames fade as the formula says, unpumped ones do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stillstack.errors import InputError
from stillstack.simulation import pump_response, simulate_pump_probe
from stillstack.simulation.longrun import Motion

SHAPE = (96, 96)
STILL = Motion(drift_px=0, day_px=0, jitter_px=0, jumps=0, gaps=0, losses=0)


def test_states_delays_and_scans_follow_one_another() -> None:
    run = simulate_pump_probe([-1.0, 2.0], SHAPE, scans=3, repeats=2, motion=STILL)
    assert len(run) == 3 * 2 * 2 * 2
    np.testing.assert_array_equal(run.coords["pump"][:3], ["on", "off", "on"])
    np.testing.assert_array_equal(run.coords["delay"][:8], [-1.0] * 4 + [2.0] * 4)
    np.testing.assert_array_equal(run.coords["scan"][::8], [0, 1, 2])
    assert np.all(np.diff(run.coords["time"]) > 0)


def test_only_pumped_frames_after_time_zero_have_changed() -> None:
    run = simulate_pump_probe([-1.0, 0.0, 0.7], SHAPE, rise=0.7, repeats=1, motion=STILL)
    changed = (run.coords["pump"] == "on") & (run.coords["delay"] > 0)
    np.testing.assert_allclose(run.content, np.where(changed, 1 - np.exp(-1), 0.0))
    before, pumped, unpumped = (run.expected(k) for k in (0, 4, 5))
    np.testing.assert_array_equal(before, unpumped)
    assert np.all(pumped <= unpumped)
    assert pumped.sum() < 0.99 * unpumped.sum()


def test_the_outermost_ring_loses_what_was_asked_for_and_inner_ones_less() -> None:
    unpumped, pumped = simulate_pump_probe([9.0], SHAPE, fading=0.2, motion=STILL).scenes
    rings: list[Any] = [scene.parts[1] for scene in (unpumped, pumped)]
    left = np.array(rings[1].height) / np.array(rings[0].height)
    assert left[-1] == pytest.approx(0.8)
    assert np.all(np.diff(left) < 0)
    # Debye and Waller: the logarithm goes with the square of the radius
    squares = (np.array(rings[0].radius_px) / rings[0].radius_px[-1]) ** 2
    np.testing.assert_allclose(np.log(left), np.log(0.8) * squares)
    assert unpumped.parts[0] == pumped.parts[0]
    assert unpumped.scale == pumped.scale


def test_the_response_is_nothing_before_and_all_long_after() -> None:
    np.testing.assert_allclose(pump_response([-5.0, 0.0, 1e6], rise=2.0), [0.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("delays", "options", "message"),
    [
        ([], {}, "The delays are"),
        ([np.nan], {}, "The delays are"),
        ([1.0], {"scans": 0}, "0 scans of 4 pairs"),
        ([1.0], {"fading": 1.0}, "fading by 1.0"),
        ([1.0], {"rise": 0.0}, "in 0.0"),
        ([1.0], {"scans": 1}, "cannot hold"),
    ],
)
def test_what_cannot_be_simulated_is_refused(delays: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate_pump_probe(delays, SHAPE, **options)
