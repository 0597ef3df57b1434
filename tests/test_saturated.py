"""Pixels at the largest value of a frame's type: gaps between modules, and 64-bit counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from stillstack import align, prepare_reference
from stillstack.config import make_config
from stillstack.defects import defect_pixels
from stillstack.errors import InputError
from stillstack.kernels.registration import register_frame
from stillstack.kernels.validity import ValueRules, value_validity
from stillstack.model import Status, is_good
from stillstack.plan import plan as make_plan
from stillstack.run import run
from stillstack.simulation import beam_block_figure, beam_block_valid, simulate_stack

SHAPE = (128, 128)
GAP = np.zeros(SHAPE, bool)
GAP[:, 90:96] = True
VALID = beam_block_valid(SHAPE)


def frames_of(n_frames: int, seed: int) -> tuple[Any, np.ndarray[Any, Any]]:
    stack = simulate_stack(n_frames, SHAPE, seed=seed, planted=False, drift_px=3.0)
    return stack, stack.read(0, n_frames)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "int64"])
def test_a_gap_that_reads_as_saturated_changes_nothing_that_a_known_gap_does_not(
    dtype: str,
) -> None:
    _, frames = frames_of(13, 3)
    reference = prepare_reference(frames[0], ~GAP & VALID, frame_valid=VALID, max_shift_px=16)
    for frame in frames[1:]:
        gapped = frame.astype(dtype)
        gapped[GAP] = np.iinfo(dtype).max
        found = register_frame(gapped, reference)
        known = register_frame(gapped, reference, ~GAP)
        assert found.status & int(Status.SATURATED)
        assert is_good(found.status)
        # it loses two pixels on either side more
        np.testing.assert_allclose(found.shift, known.shift, atol=4 * known.shift_std.max())
        np.testing.assert_allclose(found.shift_std, known.shift_std, rtol=0.15)
        np.testing.assert_allclose(found.chi2, known.chi2, atol=0.05)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "uint64"])
def test_the_largest_value_of_every_integer_type_is_saturated(dtype: str) -> None:
    frame = np.full((4, 4), 7, dtype)
    frame[1, 2] = np.iinfo(dtype).max
    found = value_validity(frame, np.ones((4, 4), bool), ValueRules())
    assert found.n_saturated == 1
    assert np.argwhere(~found.valid).tolist() == [[1, 2]]


def test_a_reference_does_not_believe_its_own_saturated_pixels() -> None:
    _, frames = frames_of(2, 5)
    frame = frames[0].astype(np.uint16)
    frame[GAP] = 65535
    reference = prepare_reference(frame, frame_valid=VALID, max_shift_px=16)
    assert not reference.valid[GAP].any()
    assert is_good(register_frame(frames[1].astype(np.uint16), reference).status)


def settings(tmp_path: Any, frames: Any, **sections: Any) -> dict[str, Any]:
    np.save(tmp_path / "frames.npy", frames)
    base: dict[str, Any] = {
        "input": {"path": str(tmp_path / "frames.npy")},
        "output": {"path": str(tmp_path / "out.zarr"), "block_frames": 8},
        "valid": {"frames": {"exclude": beam_block_figure(SHAPE, margin_px=3.0).figures}},
        "registration": {"max_shift_px": 16},
        "cluster": {"workers": 1},
    }
    return {key: {**base.get(key, {}), **sections.get(key, {})} for key in {*base, *sections}}


def test_a_median_leaves_saturated_values_out(tmp_path: Any, cluster_client: Any) -> None:
    _, frames = frames_of(24, 7)
    frames = frames.astype(np.uint16)
    frames[:, GAP] = 65535
    found = run(settings(tmp_path, frames, reference={"kind": "median"}))
    assert not found.reference_valid.values[GAP].any()
    assert (is_good(found.status.values)).all()


def test_sums_of_frames_with_a_lost_pixel_are_not_blank(tmp_path: Any, cluster_client: Any) -> None:
    _, frames = frames_of(48, 9)
    frames = frames.astype(np.float32)
    for number in range(0, 48, 2):
        frames[number, 10 + number, 20] = np.nan
    found = run(settings(tmp_path, frames, trajectory={"sum_frames": 4}))
    assert not (found.status.values & int(Status.BLANK)).any()
    assert is_good(found.status.values).sum() > 40


def test_counts_of_64_bits_are_aligned_as_floats(tmp_path: Any, cluster_client: Any) -> None:
    _, frames = frames_of(16, 11)
    found = run(settings(tmp_path, frames.astype(np.int64)))
    assert found.aligned.dtype == np.float32
    assert is_good(found.status.values).all()


def test_aligned_frames_of_64_bit_integers_are_refused_when_planned(tmp_path: Any) -> None:
    _, frames = frames_of(16, 11)
    config = make_config(settings(tmp_path, frames.astype(np.int64), alignment={"dtype": "input"}))
    with pytest.raises(InputError, match="cannot be int64"):
        make_plan(config, calibrated=None).refuse()


@pytest.mark.parametrize("dtype", [">u2", ">f4"])
def test_big_endian_stacks_keep_their_type_when_aligned(dtype: str) -> None:
    frames = np.arange(2 * 16 * 16).reshape(2, 16, 16)
    native = xr.DataArray(
        frames.astype(np.dtype(dtype).newbyteorder("=")), dims=("frame", "y", "x")
    )
    other = xr.DataArray(frames.astype(dtype), dims=("frame", "y", "x"))
    shifts = [[0.0, 2.0], [1.0, 0.5]]
    found = align(other, shifts, dtype="input")
    np.testing.assert_array_equal(found.values, align(native, shifts, dtype="input").values)


def test_defects_are_found_in_frames_whose_mean_was_taken_off() -> None:
    rng = np.random.default_rng(2)
    sample = rng.normal(-3.0, 2.0, (12, 64, 64)).astype(np.float32)
    sample[:, 20, 30] = 500.0
    found = defect_pixels(sample, np.ones((64, 64), bool))
    assert found[20, 30]
    assert found.mean() < 0.01


def test_noise_of_reading_alone_is_a_noise_that_a_reference_can_have() -> None:
    _, frames = frames_of(2, 13)
    image = frames[0].astype(np.float32)
    reference = prepare_reference(image, VALID, max_shift_px=16, gain=0.0, read_noise=9.0)
    assert is_good(register_frame(frames[1].astype(np.float32), reference).status)
