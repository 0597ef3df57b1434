"""The one interpolation, held to analytic frames, SciPy and direct sums."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from arrays import counts, flags, frozen
from stillstack.kernels import compiling, footprints, resampling, strips, tiles
from stillstack.kernels.interpolation import INTERPOLATIONS, split_shift, tap_weights
from stillstack.kernels.resampling import DEFAULT_INTERPOLATION, Resampled, resample_frame
from stillstack.simulation import beam_block_valid, crystal_scene, powder_scene, textured_scene

# What each method may be off on rings of 2 px, as a fraction of the scene's standard deviation.
ERROR = {"bspline": 1e-4, "catmull-rom": 3e-3, "lanczos": 2.5e-3, "linear": 3e-2}
REACH = {"bspline": 8, "catmull-rom": 4, "lanczos": 6, "linear": 2}
SHIFTS = [(0.5, 0.5), (-3.37, 2.61), (0.0, 0.25), (5.75, -1.0), (1e-3, -1e-3)]
INTEGERS = ("uint8", "uint16", "int16", "int32", "uint32")
methods = pytest.mark.parametrize("interpolation", INTERPOLATIONS)
method = st.sampled_from(INTERPOLATIONS)
# Dyadic fractions: shifts that differ by whole pixels have exactly the same fraction.
quarters = st.integers(-24, 24).map(lambda n: n / 4)
shapes = st.tuples(st.integers(1, 14), st.integers(1, 21))


def neighbours(
    array: NDArray[Any], shift: tuple[float, float], reach: tuple[int, int] = (2, 2)
) -> NDArray[Any]:
    """Input pixels around every output pixel, ``[y, x, i, j]``, zero beyond the frame."""
    whole = [int(np.ceil(value)) for value in shift]
    pad = 60
    padded = np.pad(array, pad)
    first = [pad - whole[axis] - (reach[axis] // 2 - 1) for axis in (0, 1)]
    window = np.lib.stride_tricks.sliding_window_view(padded, reach)
    return window[first[0] : first[0] + array.shape[0], first[1] : first[1] + array.shape[1]]


def linear_weights(shift: tuple[float, float]) -> NDArray[np.float64]:
    down, across = (float(np.ceil(value) - value) for value in shift)
    return np.outer([1 - down, down], [1 - across, across])


def isolated(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    around = ndimage.convolve(valid.astype(int), np.ones((3, 3)), mode="constant")
    alone: NDArray[np.bool_] = ~valid & (around == 8)
    return alone


def same(one: Resampled, other: Resampled) -> None:
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.valid, other.valid)
    assert one.n_clipped == other.n_clipped


# ------------------------------------------------------------------ against analytic frames


@methods
@pytest.mark.parametrize("shift", SHIFTS)
def test_a_moved_scene_lands_on_the_still_one(
    interpolation: str, shift: tuple[float, float]
) -> None:
    scene = powder_scene((128, 140), ring_width_px=2.0, seed=1)
    still, moved = scene.expected(), frozen(scene.expected(shift))
    done = resample_frame(moved, shift, interpolation=interpolation, dtype="float64")
    inside = (slice(12, -12), slice(12, -12))
    error = (done.image - still)[inside].std()
    assert done.valid[inside].all()
    assert error < ERROR[interpolation] * still.std()


@pytest.mark.parametrize("make", [crystal_scene, textured_scene])
def test_the_default_is_far_below_photon_noise_on_any_scene(make: Any) -> None:
    scene = make((128, 128), dose=60.0)
    for shift in SHIFTS:
        moved = scene.expected(shift)
        off = resample_frame(moved, shift).image - scene.expected()
        assert np.abs(off[12:-12, 12:-12] / np.sqrt(scene.expected()[12:-12, 12:-12])).max() < 0.05


def test_the_default_is_better_than_the_cubic_spline_of_scipy() -> None:
    scene, shift = powder_scene((128, 128), ring_width_px=1.5), (0.4, -0.7)
    still, moved = scene.expected(), scene.expected(shift)
    ours = resample_frame(moved, shift, dtype="float64").image - still
    theirs = ndimage.shift(moved, shift, order=3, mode="mirror") - still
    inside = (slice(12, -12), slice(12, -12))
    assert DEFAULT_INTERPOLATION == "bspline"
    assert ours[inside].std() < theirs[inside].std()


def test_behind_a_beam_block_only_true_pixels_are_used() -> None:
    scene, shift = powder_scene((160, 160), ring_width_px=3.0), (4.3, -2.6)
    valid, still = beam_block_valid((160, 160)), scene.expected()
    blocked = np.where(valid, scene.expected(shift), 1e6)
    done = resample_frame(blocked, shift, valid=valid)
    off = np.abs(done.image - still)[done.valid]
    # linear interpolation next to the block: second differences of rings 3 px wide
    assert off.max() < 0.03 * still.max()
    assert done.valid.mean() > 0.88
    assert np.isnan(done.image[~done.valid]).all()


# ------------------------------------------------------------------ against SciPy, direct sums


@pytest.mark.parametrize("shift", SHIFTS)
def test_linear_is_scipy_order_one(shift: tuple[float, float]) -> None:
    frame = counts((30, 34), 1)
    theirs = ndimage.shift(frame.astype(float), shift, order=1)
    ours = resample_frame(frame, shift, interpolation="linear", dtype="float64")
    inside = (slice(7, -7), slice(7, -7))
    np.testing.assert_allclose(ours.image[inside], theirs[inside], atol=1e-9)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.8])
def test_bspline_is_close_to_scipy_order_three_even_on_noise(fraction: float) -> None:
    impulse = np.zeros(65)
    impulse[32] = 1.0
    theirs = ndimage.shift(impulse, -fraction, order=3, mode="mirror")
    # pixel x of the shifted impulse is made with the weight of the pixel at 32 - x
    ours = tap_weights("bspline", fraction)[::-1]
    np.testing.assert_allclose(ours, theirs[28:36], atol=0.025)


@methods
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("dtype", ["uint16", "float64"])
def test_whole_footprints_are_weighted_sums(
    interpolation: str, shift: tuple[float, float], dtype: str
) -> None:
    frame = counts((37, 41), 2, dtype)
    weights = [tap_weights(interpolation, split_shift(value)[1]) for value in shift]
    done = resample_frame(frame, shift, interpolation=interpolation)
    reach = (max(weights[0].size, 2), max(weights[1].size, 2))
    kernel = np.zeros(reach)
    kernel[: weights[0].size, : weights[1].size] = np.outer(*weights)
    expected = (neighbours(frame.astype(float), shift, reach) * kernel).sum(axis=(2, 3))
    inside = (slice(11, -11), slice(11, -11))
    np.testing.assert_allclose(done.image[inside], expected[inside], rtol=2e-6, atol=2e-5)


@given(shape=shapes, shift=st.tuples(quarters, quarters), seed=st.integers(0, 99), name=method)
@settings(max_examples=60, deadline=None)
def test_valid_where_linear_weights_of_valid_pixels_reach_one_half(
    shape: tuple[int, int], shift: tuple[float, float], seed: int, name: str
) -> None:
    valid = flags(shape, seed)
    share = (neighbours(valid, shift) * linear_weights(shift)).sum(axis=(2, 3))
    done = resample_frame(counts(shape, seed), shift, valid=valid, interpolation=name)
    np.testing.assert_array_equal(done.valid, share >= 0.5)
    np.testing.assert_array_equal(np.isnan(done.image), share < 0.5)


@given(shape=shapes, shift=st.tuples(quarters, quarters), seed=st.integers(0, 99), name=method)
@settings(max_examples=60, deadline=None)
def test_next_to_invalid_pixels_it_is_linear_over_the_valid_ones(
    shape: tuple[int, int], shift: tuple[float, float], seed: int, name: str
) -> None:
    frame, valid = counts(shape, seed), flags(shape, seed)
    share = (neighbours(valid, shift) * linear_weights(shift)).sum(axis=(2, 3))
    # isolated pixels are stood in for: half the nearest four less a quarter of the diagonal ones
    stencil = np.array([[-1, 2, -1], [2, 0, 2], [-1, 2, -1]]) / 4
    usable = valid | isolated(valid)
    stood_in = ndimage.convolve(frame.astype(float), stencil, mode="constant")
    filled = np.where(valid, frame, np.where(usable, stood_in, 0.0))
    weights = neighbours(usable, shift) * linear_weights(shift)
    value = (neighbours(filled, shift) * weights).sum(axis=(2, 3))
    value /= np.maximum(weights.sum(axis=(2, 3)), 0.1)
    # where some pixel of the shortest kernel's footprint is invalid
    footprint = neighbours(usable, shift, (4, 4))
    if name == "linear":
        footprint = footprint[..., 1:3, 1:3]
    used = [slice(None) if value % 1 else slice(0, 1) for value in shift]
    if name != "linear":
        used = [slice(None) if value % 1 else slice(1, 2) for value in shift]
    mended = ~footprint[:, :, used[0], used[1]].all(axis=(2, 3)) & (share >= 0.5)
    done = resample_frame(frame, shift, valid=valid, interpolation=name, dtype="float64")
    np.testing.assert_allclose(done.image[mended], value[mended], rtol=1e-12, atol=1e-9)


@methods
def test_a_long_kernel_falls_back_to_catmull_rom_first(interpolation: str) -> None:
    frame, shift = counts((40, 40), 3), (0.25, 0.75)
    valid = np.ones((40, 40), np.bool_)
    valid[20, 20:22] = False
    done = resample_frame(frame, shift, valid=valid, interpolation=interpolation, dtype="f8")
    short = resample_frame(frame, shift, interpolation="catmull-rom", dtype="f8")
    full = resample_frame(frame, shift, interpolation=interpolation, dtype="f8")
    apart = np.maximum(*np.abs(np.indices((40, 40)) - 20.5))
    if interpolation != "linear":
        ring = (apart > 3.1) & done.valid & (done.image != full.image)
        np.testing.assert_allclose(done.image[ring], short.image[ring], rtol=1e-12)
        assert ring.any() == (REACH[interpolation] > 4)
    far = apart > 6
    np.testing.assert_array_equal(done.image[far], full.image[far])


# ------------------------------------------------------------------ invariants


@given(
    shape=shapes,
    shift=st.tuples(st.integers(-16, 16), st.integers(-23, 23)),
    seed=st.integers(0, 99),
    dtype=st.sampled_from((*INTEGERS, "float32", "float64")),
    name=method,
)
@settings(max_examples=60, deadline=None)
def test_whole_pixels_are_copied_exactly(
    shape: tuple[int, int], shift: tuple[int, int], seed: int, dtype: str, name: str
) -> None:
    frame, valid = counts(shape, seed, dtype), flags(shape, seed)
    done = resample_frame(frame, shift, valid=valid, interpolation=name, dtype=dtype)
    moved = neighbours(frame, shift)[:, :, 0, 0]
    sound = neighbours(valid, shift)[:, :, 0, 0]
    np.testing.assert_array_equal(done.valid, sound)
    np.testing.assert_array_equal(done.image[sound], moved[sound])
    assert done.image.dtype == dtype
    assert done.n_clipped == 0


@given(
    frame=hnp.arrays("float64", (9, 12), elements=st.floats(-1e6, 1e6)),
    junk=hnp.arrays("float64", (9, 12)),
    seed=st.integers(0, 99),
    shift=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
    name=method,
)
@settings(max_examples=60, deadline=None)
def test_values_of_invalid_pixels_never_matter(
    frame: NDArray[Any],
    junk: NDArray[Any],
    seed: int,
    shift: tuple[float, float],
    name: str,
) -> None:
    valid = flags((9, 12), seed)
    spoilt = np.where(valid, frame, junk)
    for dtype in ("float64", "uint16"):
        same(
            resample_frame(frame, shift, valid=valid, interpolation=name, dtype=dtype),
            resample_frame(spoilt, shift, valid=valid, interpolation=name, dtype=dtype),
        )


@methods
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pixels_that_are_not_finite_are_invalid(interpolation: str, dtype: str) -> None:
    frame = counts((20, 24), 4, dtype).copy()
    valid = flags((20, 24), 4, 0.8)
    spoilt = frame.copy()
    spoilt[~valid] = np.resize([np.nan, np.inf, -np.inf], (~valid).sum())
    same(
        resample_frame(frozen(spoilt), (0.3, -1.4), interpolation=interpolation),
        resample_frame(frame, (0.3, -1.4), valid=valid, interpolation=interpolation),
    )


@given(
    one=hnp.arrays("float64", (10, 11), elements=st.floats(-1e3, 1e3)),
    other=hnp.arrays("float64", (10, 11), elements=st.floats(-1e3, 1e3)),
    seed=st.integers(0, 99),
    shift=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    name=method,
)
@settings(max_examples=40, deadline=None)
def test_it_is_linear_in_the_input(
    one: NDArray[Any], other: NDArray[Any], seed: int, shift: tuple[float, float], name: str
) -> None:
    valid = flags((10, 11), seed)

    def moved(frame: NDArray[Any]) -> NDArray[Any]:
        return resample_frame(frame, shift, valid=valid, interpolation=name, dtype="f8").image

    np.testing.assert_allclose(moved(2 * one - 3 * other), 2 * moved(one) - 3 * moved(other),
                               rtol=0, atol=1e-8)  # fmt: skip


@given(
    level=st.integers(0, 65534),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.5, 0.97, 1.0]),
    shift=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
    name=method,
)
@settings(max_examples=60, deadline=None)
def test_a_constant_stays_constant(
    level: int, seed: int, share: float, shift: tuple[float, float], name: str
) -> None:
    frame = frozen(np.full((15, 18), level, np.uint16))
    done = resample_frame(
        frame, shift, valid=flags((15, 18), seed, share), interpolation=name, dtype="uint16"
    )
    assert set(np.unique(done.image)) <= {level, 65535}
    np.testing.assert_array_equal(done.image == 65535, ~done.valid)


@given(
    shift=st.tuples(quarters, quarters),
    more=st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    seed=st.integers(0, 99),
    name=method,
)
@settings(max_examples=40, deadline=None)
def test_a_whole_pixel_more_moves_the_output_by_a_pixel(
    shift: tuple[float, float], more: tuple[int, int], seed: int, name: str
) -> None:
    frame, valid = counts((16, 19), seed), flags((16, 19), seed, 0.9)
    canvas = (-9, 25, -9, 28)
    moved = (canvas[0] + more[0], canvas[1] + more[0], canvas[2] + more[1], canvas[3] + more[1])
    further = (shift[0] + more[0], shift[1] + more[1])
    same(
        resample_frame(frame, shift, valid=valid, interpolation=name, canvas=canvas),
        resample_frame(frame, further, valid=valid, interpolation=name, canvas=moved),
    )


@methods
@pytest.mark.parametrize("canvas", [(3, 17, 5, 21), (-4, 30, -6, 40), (0, 1, 0, 1), (24, 25, 7, 9)])
def test_a_canvas_is_a_window_of_the_whole(
    interpolation: str, canvas: tuple[int, int, int, int]
) -> None:
    frame, valid = counts((25, 31), 6), flags((25, 31), 6, 0.9)
    wide = (-10, 40, -10, 50)
    options: dict[str, Any] = {"valid": valid, "interpolation": interpolation}
    whole = resample_frame(frame, (1.3, -2.8), canvas=wide, **options)
    part = resample_frame(frame, (1.3, -2.8), canvas=canvas, **options)
    rows = slice(canvas[0] + 10, canvas[1] + 10)
    columns = slice(canvas[2] + 10, canvas[3] + 10)
    np.testing.assert_array_equal(part.valid, whole.valid[rows, columns])
    # vectors begin at other columns, and what remains of a row may round otherwise
    np.testing.assert_allclose(part.image, whole.image[rows, columns], rtol=1e-6)


@methods
@pytest.mark.parametrize("pixels", [1, 200, 1000])
def test_the_size_of_the_strips_does_not_show(
    interpolation: str, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, valid = counts((70, 33), 7), flags((70, 33), 7, 0.95)
    whole = resample_frame(frame, (3.3, -0.4), valid=valid, interpolation=interpolation)
    monkeypatch.setattr(resampling, "_STRIP_PIXELS", pixels)
    same(whole, resample_frame(frame, (3.3, -0.4), valid=valid, interpolation=interpolation))


# ------------------------------------------------------------------ valid pixels made ready


@methods
def test_valid_pixels_made_ready_serve_many_frames_and_shifts(interpolation: str) -> None:
    valid = flags((40, 37), 9, 0.9)
    ready = footprints.ValidPixels(valid, valid.shape)
    for seed, shift in enumerate([(1.3, -2.8), (0.0, 0.5), (-7.2, 3.0), (1.3, -2.8)]):
        frame = counts((40, 37), seed)
        same(
            resample_frame(frame, shift, valid=valid, interpolation=interpolation),
            resample_frame(frame, shift, valid=ready, interpolation=interpolation),
        )


def test_a_frame_with_more_pixels_out_than_were_made_ready_for() -> None:
    frame, valid = counts((20, 20), 1, "float32").copy(), flags((20, 20), 2, 0.95)
    frame[7:9, 5] = np.nan
    ready = footprints.ValidPixels(valid, valid.shape)
    found = resample_frame(frame, (0.0, 0.0), valid=ready)
    assert not found.valid[7:9, 5].any()
    assert not np.isnan(found.image[found.valid]).any()


def test_an_image_is_written_where_it_is_wanted() -> None:
    frame, stack = counts((20, 20), 1), np.full((3, 20, 20), 7, "uint16")
    found = resample_frame(frame, (0.5, 1.5), dtype="uint16", out=stack[1])
    assert np.shares_memory(found.image, stack)
    np.testing.assert_array_equal(stack[1], resample_frame(frame, (0.5, 1.5), dtype="uint16").image)
    assert (stack[[0, 2]] == 7).all()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (np.zeros((20, 21), "uint16"), r"shape \(20, 21\)"),
        (np.zeros((20, 20), "float32"), "float32"),
        (np.zeros((20, 40), "uint16")[:, ::2], "not contiguous"),
    ],
)
def test_what_cannot_be_written_to_is_refused(out: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resample_frame(counts((20, 20), 1), (0.5, 1.5), dtype="uint16", out=out)


def test_valid_pixels_of_another_shape_are_refused() -> None:
    ready = footprints.ValidPixels(None, (20, 21))
    with pytest.raises(ValueError, match=r"\(20, 21\), not of \(20, 20\)"):
        resample_frame(counts((20, 20), 1), (0.5, 1.5), valid=ready)


# ------------------------------------------------------------------ dead pixels


def test_isolated_dead_pixels_cost_no_more_than_themselves() -> None:
    scene, rng = textured_scene((256, 256)), np.random.default_rng(3)
    valid = rng.random((256, 256)) > 1e-3
    n_dead = int((~valid).sum())
    for shift in ((0.5, 0.5), (0.1, 0.2), (2.0, -3.0)):
        done = resample_frame(np.where(valid, scene.expected(shift), 1e5), shift, valid=valid)
        inside = (slice(8, -8), slice(8, -8))
        assert (~done.valid[inside]).sum() <= n_dead
        off = np.abs(done.image - scene.expected())[inside][done.valid[inside]]
        assert off.max() < 0.5


def test_a_dead_pixel_is_filled_in_exactly_on_sums_of_rows_and_columns() -> None:
    y, x = np.mgrid[:30, :30].astype(float)
    surface = 3 * y**3 - y + 50 * np.sqrt(x)
    valid = np.ones((30, 30), np.bool_)
    valid[14, 13] = False
    whole = resample_frame(surface, (0.5, 0.5))
    mended = resample_frame(np.where(valid, surface, -9e9), (0.5, 0.5), valid=valid)
    assert mended.valid[14, 13]
    np.testing.assert_allclose(mended.image, whole.image, rtol=1e-5)


@given(seed=st.integers(0, 999), shape=st.tuples(st.integers(1, 12), st.integers(1, 140)))
@settings(max_examples=40, deadline=None)
def test_isolated_pixels_are_those_with_eight_valid_neighbours(
    seed: int, shape: tuple[int, int]
) -> None:
    valid = flags(shape, seed, 0.9)
    expected = np.argwhere(isolated(valid))
    compiled: Any = footprints.isolated_pixels
    for find in (compiled, compiled.py_func):
        np.testing.assert_array_equal(find(valid.view(np.uint8)).T, expected)


@pytest.mark.parametrize("shift", [(0.4, -0.3), (2.4, 1.0), (0.0, -1.6), (-3.7, 5.2)])
@pytest.mark.parametrize(("interpolation", "reach"), [("bspline", 3), ("lanczos", 2)])
def test_the_shorter_kernel_is_catmull_rom_along_every_border(
    interpolation: str, reach: int, shift: tuple[float, float]
) -> None:
    # wider than a tile, so that borders are long runs of pixels and short ones
    frame = np.random.default_rng(0).normal(100, 20, (70, 1100))
    valid = np.ones(frame.shape, np.bool_)
    valid[2, 500] = valid[30, 3] = valid[68, 1060] = False  # isolated: filled in, no border
    valid[40:50, 300:800] = False
    long, short = (
        resample_frame(frame, shift, valid=valid, interpolation=method, dtype="f8")
        for method in (interpolation, "catmull-rom")
    )
    filled = valid | ndimage.binary_closing(valid, np.ones((3, 3)), border_value=1)

    def whole(before: int, after: int) -> NDArray[np.bool_]:
        """Outputs whose pixels from so many before to so many after are all there."""
        padded = np.pad(filled, 16)
        seen = np.ones(frame.shape, np.bool_)
        steps = [range(-before, after + 1) if s % 1 else (0,) for s in shift]
        at = [16 + math.floor(-s) for s in shift]
        for dy, dx in product(*steps):
            top, left = at[0] + dy, at[1] + dx
            seen &= padded[top : top + frame.shape[0], left : left + frame.shape[1]]
        return seen

    border = whole(1, 2) & ~whole(reach, reach + 1)
    assert border.sum() > 100
    np.testing.assert_array_equal(np.isnan(long.image), np.isnan(short.image))
    np.testing.assert_allclose(long.image[border], short.image[border], rtol=1e-12)
    inner = whole(reach, reach + 1) & long.valid
    assert np.abs(long.image[inner] - short.image[inner]).max() > 1


# ------------------------------------------------------------------ types, fill, clipping


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_rounded_clipped_and_counted(dtype: str) -> None:
    limits = np.iinfo(dtype)
    frame = np.array([[limits.min, 10.4, 10.6, limits.max - 1.0]])
    beyond = np.array([[limits.min - 7.0, limits.max * 1.0, limits.max + 9.0, 2.0]])
    fine = resample_frame(frame, (0, 0), dtype=dtype)
    np.testing.assert_array_equal(fine.image[0], [limits.min, 10, 11, limits.max - 1])
    assert fine.n_clipped == 0
    cut = resample_frame(beyond, (0, 0), dtype=dtype)
    np.testing.assert_array_equal(cut.image[0], [limits.min, limits.max - 1, limits.max - 1, 2])
    assert cut.n_clipped == 3
    assert cut.valid.all()


@pytest.mark.parametrize("few", [(), (1e3, -1e5, 1e5), (3e38, -3e38, 65534.4, 65535.6)])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("interpolation", ["bspline", "catmull-rom", "linear"])
def test_whatever_lies_out_of_range_is_clipped_and_counted(
    interpolation: str, dtype: str, few: tuple[float, ...]
) -> None:
    # The image of floats holds what is rounded here: the same sums, in the same precision.
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    middle, spread = (limits.max + limits.min) / 2, (limits.max - limits.min) / 12
    frame = rng.normal(middle, spread, (60, 200)).astype(np.float32)
    for value in few:
        frame[rng.integers(30, 60), rng.integers(0, 200)] = value
    found = resample_frame(frame, (0.3, -0.45), dtype=dtype, interpolation=interpolation)
    with np.errstate(over="ignore", invalid="ignore"):
        plain = resample_frame(frame, (0.3, -0.45), interpolation=interpolation)
    values = plain.image[found.valid].astype(np.float64)
    beyond = ~((values >= limits.min - 0.5) & (values <= limits.max - 0.5))
    assert found.n_clipped == np.count_nonzero(beyond)
    assert (found.n_clipped > 0) == (len(few) > 0)
    finite = np.isfinite(values)
    expected = np.clip(np.rint(values), limits.min, limits.max - 1)
    np.testing.assert_array_equal(found.image[found.valid][finite], expected[finite])
    assert found.image[found.valid].max() < limits.max


def test_invalid_pixels_are_not_counted_as_clipped() -> None:
    frame = np.full((6, 6), 65535, np.uint16)
    valid = np.zeros((6, 6), np.bool_)
    valid[:, :2] = True
    done = resample_frame(frame, (0, 0), valid=valid, dtype="uint16")
    assert done.n_clipped == 12
    np.testing.assert_array_equal(done.image[0], [65534, 65534, 65535, 65535, 65535, 65535])


def test_overshoot_is_clipped_at_zero_and_counted() -> None:
    frame = np.zeros((20, 20), np.uint16)
    frame[:, 10:] = 1000
    done = resample_frame(frame, (0, 0.5), dtype="uint16", interpolation="catmull-rom")
    assert done.n_clipped == 20
    assert done.image[:, 9].max() == 0


@pytest.mark.parametrize(
    ("dtype", "fill", "expected"),
    [
        ("float32", None, np.nan),
        ("float32", 0.0, 0.0),
        ("float64", -1.0, -1.0),
        ("uint16", None, 65535),
        ("int16", None, 32767),
        ("uint16", 0, 0),
        ("int32", -5, -5),
    ],
)
def test_invalid_pixels_hold_the_fill(dtype: str, fill: float | None, expected: float) -> None:
    done = resample_frame(np.ones((4, 5)), (1, 0), dtype=dtype, fill=fill)
    np.testing.assert_array_equal(done.image[0], np.full(5, expected))
    np.testing.assert_array_equal(done.image[1:], 1)


@pytest.mark.parametrize("dtype", [*INTEGERS, "int8", "float16", "float32", "float64"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_and_byte_order_gives_the_same(dtype: str, order: Any) -> None:
    plain = resample_frame(counts((16, 18), 8, "float64"), (0.4, 1.7))
    frame = counts((16, 18), 8, "float64").astype(np.dtype(dtype).newbyteorder(order))
    done = resample_frame(frozen(frame), (0.4, 1.7))
    np.testing.assert_allclose(done.image, plain.image, rtol=1e-5, atol=1e-4)
    assert done.image.dtype == np.float32


def test_any_memory_order_gives_the_same() -> None:
    frame, valid = counts((16, 18), 9), flags((16, 18), 9)
    plain = resample_frame(frame, (0.4, 1.7), valid=valid)
    wide = np.zeros((32, 36), np.uint16)
    wide[::2, 1::2] = frame
    same(plain, resample_frame(wide[::2, 1::2], (0.4, 1.7), valid=np.asfortranarray(valid)))
    same(plain, resample_frame(np.asfortranarray(frame), (0.4, 1.7), valid=valid))
    same(plain, resample_frame(frame[::-1][::-1], (0.4, 1.7), valid=valid[:, ::-1][:, ::-1]))


@pytest.mark.parametrize("dtype", ["uint32", "float64", "int32"])
def test_large_numbers_keep_their_last_digit(dtype: str) -> None:
    frame = np.full((20, 20), 2**30 + 1, dtype)
    done = resample_frame(frame, (0.3, 0.6), dtype=dtype)
    np.testing.assert_array_equal(done.image[done.valid], 2**30 + 1)


def test_arguments_are_not_modified_and_writeable_ones_are_taken() -> None:
    frame, valid = counts((16, 18), 10, "float32").copy(), flags((16, 18), 10).copy()
    before = frame.copy(), valid.copy()
    resample_frame(frame, (0.4, 1.7), valid=valid)
    np.testing.assert_array_equal(frame, before[0])
    np.testing.assert_array_equal(valid, before[1])
    assert frame.flags.writeable


@pytest.mark.parametrize("shift", [(1e300, 0), (0, -1e18), (2.5e9, 0.5), (26, 0), (0, -31)])
def test_a_frame_moved_out_of_sight_is_all_invalid(shift: tuple[float, float]) -> None:
    done = resample_frame(counts((25, 31), 11), shift, dtype="uint16")
    assert not done.valid.any()
    assert (done.image == 65535).all()


def test_a_shift_of_rounding_size_is_none() -> None:
    frame = counts((25, 31), 12, "float64")
    np.testing.assert_array_equal(resample_frame(frame, (1e-17, 0), dtype="f8").image, frame)


def test_a_frame_without_valid_pixels_is_all_invalid() -> None:
    none = np.zeros((12, 13), np.bool_)
    assert not resample_frame(counts((12, 13), 1), (0.5, 0.5), valid=none).valid.any()


@pytest.mark.parametrize(
    "arguments",
    [
        {"shift": (np.nan, 0)},
        {"shift": (0, np.inf)},
        {"shift": (1, 2, 3)},
        {"interpolation": "cubic"},
        {"dtype": "int64"},
        {"dtype": "complex64"},
        {"dtype": "uint16", "fill": np.nan},
        {"dtype": "uint8", "fill": 256},
        {"dtype": "int16", "fill": 0.5},
        {"canvas": (0, 0, 0, 5)},
        {"canvas": (0, 5, 5, 0)},
        {"valid": np.ones((3, 3), np.bool_)},
        {"valid": np.ones((8, 9), np.uint8)},
        {"frame": np.ones((8, 9, 3))},
        {"frame": np.ones((8, 9), np.complex64)},
        {"frame": np.ones((0, 9))},
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any]) -> None:
    given_frame = arguments.pop("frame", np.ones((8, 9)))
    given_shift = arguments.pop("shift", (0.5, 0.5))
    with pytest.raises(ValueError, match="is "):
        resample_frame(given_frame, given_shift, **arguments)


# ------------------------------------------------------------------ weights


@methods
@given(fraction=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None)
def test_weights_sum_to_one_and_mirror(interpolation: str, fraction: float) -> None:
    weights = tap_weights(interpolation, fraction)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    if 0 < 1 - fraction < 1:
        assert weights.size == REACH[interpolation]
        mirrored = tap_weights(interpolation, 1 - fraction)[::-1]
        np.testing.assert_allclose(weights, mirrored, atol=1e-9)


@pytest.mark.parametrize(
    ("interpolation", "degree"), [("bspline", 5), ("catmull-rom", 2), ("linear", 1)]
)
@pytest.mark.parametrize("fraction", [0.0, 1e-6, 0.2, 0.5, 0.9])
def test_polynomials_are_kept(interpolation: str, degree: int, fraction: float) -> None:
    weights = tap_weights(interpolation, fraction)
    places = np.arange(weights.size) - (weights.size - 1) // 2
    for power in range(degree + 1):
        assert (weights * places**power).sum() == pytest.approx(fraction**power, abs=1e-9)


@given(shift=st.floats(-1e6, 1e6))
def test_a_shift_is_its_whole_part_less_its_fraction(shift: float) -> None:
    whole, fraction = split_shift(shift)
    assert 0 <= fraction < 1
    assert whole - fraction == pytest.approx(shift, abs=1e-9)


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="nearest"):
        tap_weights("nearest", 0.5)


# ------------------------------------------------------------------ compiled and as Python


@methods
@pytest.mark.parametrize(
    ("dtype", "out"), [("uint16", "uint16"), ("uint16", "float32"), ("float64", "float64")]
)
@pytest.mark.parametrize("shift", [(1.25, -0.5), (0.0, 0.75), (2.0, -1.0)])
def test_compiled_and_python_agree(
    interpolation: str, dtype: str, out: str, shift: tuple[float, float], monkeypatch: Any
) -> None:
    frame, valid = counts((13, 15), 13, dtype), flags((13, 15), 13, 0.93)
    options: dict[str, Any] = {"valid": valid, "interpolation": interpolation, "dtype": out}
    compiled = resample_frame(frame, shift, **options)
    modules = (footprints, strips, tiles, resampling)
    kernels = {
        name: function.py_func
        for module in modules
        for name, function in vars(module).items()
        if hasattr(function, "py_func")
    }
    for module, name in product(modules, kernels):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, kernels[name])
    assert len(kernels) > 20
    plain = resample_frame(frame, shift, **options)
    np.testing.assert_array_equal(plain.valid, compiled.valid)
    np.testing.assert_allclose(
        plain.image.astype(float), compiled.image.astype(float), rtol=1e-5, atol=1e-4
    )
    assert plain.n_clipped == compiled.n_clipped


def test_where_nothing_can_be_kept_on_disk_kernels_still_compile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def njit(function: Any, *, cache: bool, nogil: bool, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return function if nogil else None

    monkeypatch.setattr(compiling, "njit", njit)
    assert compiling.compiled(split_shift) is split_shift
