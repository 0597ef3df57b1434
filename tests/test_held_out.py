"""Parts of the image that registration is not shown tell how well it aligned them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillstack.kernels.registration import prepare_reference, register_frame
from stillstack.report import read_checks, write_report
from stillstack.report.held_out import HeldOut, held_out_tiles
from stillstack.run import run
from stillstack.simulation import beam_block_figure, powder_scene, simulate_stack
from stillstack.storage import RunStore
from stillstack.tables import status_rows
from stillstack.watch.status import look_at

SHAPE = (256, 256)
WINDOW = (0, 256, 0, 256)
N_FRAMES = 32
SCENE = powder_scene(SHAPE, ring_width_px=4.0)


def drift(i: int) -> NDArray[np.float64]:
    return np.array([6.3 * i / N_FRAMES, -4.1 * i / N_FRAMES])


def held(pattern: NDArray[np.float64] | None = None, *, seed: int = 0) -> HeldOut:
    """Add drifting frames, each with a pattern that stays on the detector."""
    rng = np.random.default_rng(seed)
    reference = prepare_reference(rng.poisson(SCENE.expected() * 16) / 16, n_frames=16)
    found = HeldOut(reference, WINDOW, N_FRAMES, 4)
    for i in range(N_FRAMES):
        expected = SCENE.expected(drift(i))
        if pattern is not None:
            expected = expected * pattern
        found.add(i, rng.poisson(expected).astype(np.uint16), -drift(i))
    return found


def test_what_is_aligned_is_left_with_its_noise() -> None:
    left = held().residual()
    assert left is not None
    assert np.isfinite(left.shift).all()
    assert left.rms_px < max(2.5 * left.noise_px, 0.02)
    assert left.noise_px < 0.05


def test_what_pulls_registration_where_it_looks_shows_where_it_did_not_look() -> None:
    # Strong fixed stripes in the shown tiles alone: registration follows them.
    shown = ~held_out_tiles(SHAPE, WINDOW)
    stripes = 1 + 0.6 * np.cos(2 * np.pi * np.arange(256) / 24)[None, :] * shown
    left = held(stripes).residual()
    assert left is not None
    assert left.rms_px > 3 * left.noise_px


def test_registration_is_not_shown_the_held_out_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Any]] = []

    def watched(frame: Any, reference: Any, valid: Any) -> Any:
        seen.append((frame, valid))
        return register_frame(frame, reference, valid)

    monkeypatch.setattr("stillstack.report.held_out.register_frame", watched)
    held()
    tiles = held_out_tiles(SHAPE, WINDOW)
    for i, (_, valid) in enumerate(seen):
        # a held-out pixel of the pattern lies at its place plus the drift
        down, across = np.rint(drift(i)).astype(int)
        there = np.roll(tiles, (down, across), axis=(0, 1))
        assert not valid[8:-8, 8:-8][there[8:-8, 8:-8]].any()
        assert 0.5 < valid.mean() < 0.6


def test_too_few_good_frames_tell_nothing() -> None:
    rng = np.random.default_rng(4)
    reference = prepare_reference(SCENE.expected(), n_frames=16)
    found = HeldOut(reference, WINDOW, 8, 2)
    for i in range(8):
        frame = rng.poisson(30, SHAPE) if i < 4 else rng.poisson(SCENE.expected())
        found.add(i, frame.astype(np.uint16), np.zeros(2))
    assert found.residual() is None


@pytest.fixture
def larger_config(small_config: Any, tmp_path: Path) -> Any:
    """Frames large enough for nine parts."""
    stack = simulate_stack(24, SHAPE, seed=5, drift_px=5.0, planted=False)
    np.save(tmp_path / "larger.npy", stack.read(0, len(stack)))
    block = beam_block_figure(SHAPE, margin_px=3.0)
    exclude = [{"rectangle": block.rod}, {"circle": block.disc}]
    small_config["input"]["path"] = str(tmp_path / "larger.npy")
    small_config["valid"] = {"frames": {"exclude": exclude}}
    return small_config


def test_a_run_keeps_what_the_checks_found(cluster_client: Any, larger_config: Any) -> None:
    run(larger_config)
    path = Path(larger_config["output"]["path"])
    assert read_checks(path) is None
    assert look_at(path).checks == {}
    page = write_report(path).read_text("utf-8")
    checks = read_checks(path)
    assert checks is not None
    assert checks["held_out_rms_px"] < 0.1
    assert checks["residual_rms_px"] < 0.1
    assert "Such parts share no pixel with what moved them" in page
    seen = look_at(path)
    assert seen.to_json()["checks"] == checks
    words = [words for _, words in status_rows(seen)]
    assert any("held-out parts are left with" in said for said in words)
    assert RunStore.view(path).complete


def test_in_small_frames_held_out_parts_tell_nothing(
    cluster_client: Any, small_config: Any
) -> None:
    run(small_config)
    page = write_report(small_config["output"]["path"]).read_text("utf-8")
    checks = read_checks(small_config["output"]["path"])
    assert checks is not None
    assert checks["held_out_rms_px"] is None
    assert "Independent checks" in page
