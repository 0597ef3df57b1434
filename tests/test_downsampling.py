"""Smaller images of a frame, held against means that NumPy takes over every bin by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillstack.kernels import downsampling
from stillstack.kernels.downsampling import downsample, level_shapes

FILLS: dict[str, Any] = {"u1": 255, "u2": 65535, "i2": 32767, "u4": 2**32 - 1, "f4": np.nan}


def means_by_numpy(image: NDArray[Any], step: int, fill: float) -> NDArray[Any]:
    """Mean over the valid pixels of each bin, which is cut out and looked at alone."""
    rows, columns = -(-image.shape[0] // step), -(-image.shape[1] // step)
    out = np.full((rows, columns), fill, image.dtype)
    for j in range(rows):
        for i in range(columns):
            cell = image[j * step : (j + 1) * step, i * step : (i + 1) * step].astype(np.float64)
            valid = ~np.isnan(cell) if np.isnan(fill) else cell != fill
            if 2 * valid.sum() >= valid.size:
                mean = cell[valid].mean()
                out[j, i] = mean if image.dtype.kind == "f" else np.floor(mean + 0.5)
    return out


def frames(dtype: str, shape: tuple[int, ...], seed: int, invalid: float) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 120, shape).astype(dtype)
    if dtype == "i2":
        values -= 60
    values[rng.random(shape) < invalid] = FILLS[dtype]
    return values


@given(
    dtype=st.sampled_from(sorted(FILLS)),
    shape=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    n_levels=st.integers(1, 4),
    seed=st.integers(0, 9),
    invalid=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
)
def test_each_level_is_the_mean_over_the_valid_pixels_of_the_frame_itself(
    dtype: str, shape: tuple[int, int], n_levels: int, seed: int, invalid: float
) -> None:
    images = frames(dtype, (2, *shape), seed, invalid)
    found = downsample(images, n_levels, FILLS[dtype])
    assert len(found) == n_levels
    for level, got in enumerate(found, start=1):
        assert got.dtype == images.dtype
        for image, small in zip(images, got, strict=True):
            np.testing.assert_allclose(
                small, means_by_numpy(image, 2**level, FILLS[dtype]), rtol=1e-6
            )


@pytest.mark.parametrize(("shape", "n_levels"), [((150, 33), 3), ((64, 9), 2), ((301, 5), 8)])
def test_images_of_many_rows_are_no_different(shape: tuple[int, int], n_levels: int) -> None:
    images = frames("u2", (1, *shape), 5, 0.3)
    for level, found in enumerate(downsample(images, n_levels, FILLS["u2"]), start=1):
        wanted = means_by_numpy(images[0], 2**level, FILLS["u2"])
        np.testing.assert_array_equal(found[0], wanted)


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_compiled_and_uncompiled_levels_agree(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = frames(dtype, (1, 13, 22), 3, 0.3)
    compiled = downsample(images, 3, FILLS[dtype])
    for name in ("_halve_image", "_halve_sums", "_means"):
        monkeypatch.setattr(downsampling, name, getattr(downsampling, name).py_func)
    with np.errstate(invalid="ignore", divide="ignore"):
        for one, other in zip(compiled, downsample(images, 3, FILLS[dtype]), strict=True):
            np.testing.assert_array_equal(one, other)


def test_frames_are_not_modified_and_may_be_read_only() -> None:
    images = frames("u2", (1, 9, 9), 1, 0.2)
    before = images.copy()
    images.flags.writeable = False
    downsample(images, 2, FILLS["u2"])
    np.testing.assert_array_equal(images, before)


def test_the_brightest_counts_do_not_overflow() -> None:
    images = np.full((1, 512, 512), 65534, "u2")
    assert all((level == 65534).all() for level in downsample(images, 9, 65535))


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_levels_end_with_a_thumbnail_and_lose_no_pixel(height: int, width: int) -> None:
    shapes = level_shapes((height, width))
    for (y, x), (small_y, small_x) in zip(((height, width), *shapes), shapes, strict=False):
        assert 2 * small_y - y in (0, 1)
        assert 2 * small_x - x in (0, 1)
    assert max((height, width) if not shapes else shapes[-1]) <= 256
