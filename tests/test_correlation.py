"""Masked normalized correlation, held to scikit-image, to direct sums, to hills drawn by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import correlate2d
from skimage.registration._masked_phase_cross_correlation import cross_correlate_masked

from arrays import frozen
from stillstack.kernels import correlation, peaks
from stillstack.kernels import search as searching
from stillstack.kernels.correlation import correlate_masked
from stillstack.kernels.peaks import find_peak
from stillstack.kernels.search import Search, prepare_search, search

Image = NDArray[np.float64]
Valid = NDArray[np.bool_]
SIZES = [
    ((17, 23), (17, 23)),
    ((16, 16), (24, 9)),
    ((31, 8), (12, 40)),
    ((5, 5), (64, 33)),
]
EIGHT_NEIGHBOURS = np.ones((3, 3))
flood = pytest.mark.parametrize(
    "second_peak",
    [peaks._second_peak, peaks._second_peak.py_func],
    ids=["compiled", "python"],
)


def image(shape: tuple[int, int], seed: int) -> Image:
    """Counts that are correlated over a few pixels, as those of a scene are."""
    rough = np.random.default_rng(seed).normal(size=shape)
    return frozen(100.0 + 30.0 * ndimage.gaussian_filter(rough, 1.0))


def flags(shape: tuple[int, int], seed: int, share: float = 0.8) -> Valid:
    return frozen(np.random.default_rng(seed + 1000).random(shape) < share)


def peer(
    reference: NDArray[Any], frame: NDArray[Any], p: Valid, q: Valid, overlap_ratio: float = 0.3
) -> Image:
    """What scikit-image answers, whose float64 needs float64 given."""
    answer: Any = cross_correlate_masked(
        frame.astype(float),
        reference.astype(float),
        q,
        p,
        mode="full",
        axes=(0, 1),
        overlap_ratio=overlap_ratio,
    )
    return np.asarray(answer)


def pearson(
    reference: Image, frame: Image, p: Valid, q: Valid, u: tuple[int, int]
) -> tuple[float, int]:
    """Correlation coefficient of the overlap at one displacement, pixel by pixel."""
    pairs = [
        (reference[y, x], frame[y + u[0], x + u[1]])
        for y, x in zip(*np.nonzero(p), strict=True)
        if 0 <= y + u[0] < frame.shape[0] and 0 <= x + u[1] < frame.shape[1]
        if q[y + u[0], x + u[1]]
    ]
    if not pairs:
        return 0.0, 0
    f, m = (values - values.mean() for values in np.array(pairs).T)
    size = float(np.sqrt((f @ f) * (m @ m)))
    return (float(f @ m) / size if size > 1e-9 else 0.0), len(pairs)


# ------------------------------------------------------------------ the full map


@pytest.mark.parametrize(("reference_shape", "frame_shape"), SIZES)
@pytest.mark.parametrize("share", [1.0, 0.7])
def test_the_map_is_that_of_scikit_image_to_rounding(
    reference_shape: tuple[int, int], frame_shape: tuple[int, int], share: float
) -> None:
    f, m = image(reference_shape, 0), image(frame_shape, 1)
    p, q = flags(reference_shape, 0, share), flags(frame_shape, 1, share)
    np.testing.assert_allclose(correlate_masked(f, m, p, q), peer(f, m, p, q), atol=1e-10)


@pytest.mark.parametrize("overlap_ratio", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_displacements_of_little_overlap_hold_zero_as_in_scikit_image(overlap_ratio: float) -> None:
    f, m, p, q = image((20, 14), 2), image((13, 22), 3), flags((20, 14), 2), flags((13, 22), 3)
    ours = correlate_masked(f, m, p, q, overlap_ratio=overlap_ratio)
    theirs = peer(f, m, p, q, overlap_ratio)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    overlap = correlate2d(q.astype(int), p.astype(int), mode="full")
    np.testing.assert_array_equal(ours[overlap < overlap_ratio * overlap.max()], 0.0)
    assert np.count_nonzero(ours[overlap > overlap_ratio * overlap.max()]) > 0 or overlap_ratio == 1


@given(
    seed=st.integers(0, 10_000),
    shapes=st.tuples(*[st.integers(1, 7)] * 4),
    share=st.floats(0.3, 1.0),
)
@settings(max_examples=40, deadline=None)
def test_every_value_is_the_correlation_coefficient_of_the_overlap(
    seed: int, shapes: tuple[int, int, int, int], share: float
) -> None:
    rng = np.random.default_rng(seed)
    f, m = rng.integers(0, 50, shapes[:2]), rng.integers(0, 50, shapes[2:])
    p, q = flags(shapes[:2], seed, share), flags(shapes[2:], seed + 1, share)
    found = correlate_masked(f, m, p, q, overlap_ratio=0.0)
    assert found.shape == (shapes[0] + shapes[2] - 1, shapes[1] + shapes[3] - 1)
    for index in np.ndindex(found.shape):
        u = (index[0] - shapes[0] + 1, index[1] - shapes[1] + 1)
        expected, overlap = pearson(f.astype(float), m.astype(float), p, q, u)
        if overlap != 1:  # has no variance: in a test of its own
            assert found[index] == pytest.approx(expected, abs=1e-5)


@given(
    seed=st.integers(0, 10_000),
    pedestals=st.tuples(*[st.floats(-1e6, 1e6)] * 2),
    gains=st.tuples(*[st.floats(0.01, 1000.0)] * 2),
)
@settings(max_examples=30, deadline=None)
def test_neither_pedestal_nor_gain_matters(
    seed: int, pedestals: tuple[float, float], gains: tuple[float, float]
) -> None:
    f, m = image((12, 15), seed), image((14, 9), seed + 1)
    p, q = flags(f.shape, seed), flags(m.shape, seed + 1)
    plain = correlate_masked(f, m, p, q)
    changed = correlate_masked(f * gains[0] + pedestals[0], m * gains[1] + pedestals[1], p, q)
    np.testing.assert_allclose(changed, plain, atol=1e-5)


@given(seed=st.integers(0, 10_000), value=st.sampled_from([np.nan, np.inf, -np.inf, 1e30, 0.0]))
@settings(max_examples=30, deadline=None)
def test_values_of_invalid_pixels_never_matter(seed: int, value: float) -> None:
    f, m = image((11, 13), seed), image((11, 13), seed + 1)
    p, q = flags(f.shape, seed), flags(m.shape, seed + 1)
    other = correlate_masked(np.where(p, f, value), np.where(q, m, value), p, q)
    np.testing.assert_array_equal(other, correlate_masked(f, m, p, q))


@given(seed=st.integers(0, 10_000), move=st.tuples(st.integers(-5, 5), st.integers(-5, 5)))
@settings(max_examples=30, deadline=None)
def test_the_map_peaks_with_one_where_the_scene_has_moved(seed: int, move: tuple[int, int]) -> None:
    scene = image((40, 40), seed)
    f = scene[10:30, 10:30]
    m = scene[10 - move[0] : 30 - move[0], 10 - move[1] : 30 - move[1]]
    p, q = flags(f.shape, seed), flags(m.shape, seed + 1)
    found = correlate_masked(f, m, p, q)
    best = np.array(np.unravel_index(found.argmax(), found.shape)) - 19
    assert best.tolist() == list(move)
    assert found.max() == pytest.approx(1.0)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_exchanging_the_images_turns_the_map_round(seed: int) -> None:
    f, m, p, q = (
        image((9, 14), seed),
        image((12, 8), seed + 1),
        flags((9, 14), 1),
        flags((12, 8), 2),
    )
    there, back = correlate_masked(f, m, p, q), correlate_masked(m, f, q, p)
    np.testing.assert_allclose(there, back[::-1, ::-1], atol=1e-10)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", ">u2", ">f4"])
def test_the_map_takes_every_type_of_number(dtype: str) -> None:
    f, m = (image((15, 15), k).round().astype(dtype) for k in (4, 5))
    p, q = flags(f.shape, 4), flags(m.shape, 5)
    found = correlate_masked(frozen(f), frozen(m), p, q)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, peer(f, m, p, q), atol=1e-10)


def test_constant_images_correlate_with_nothing() -> None:
    everywhere = np.ones((8, 8), bool)
    flat = np.full((8, 8), 7.0)
    np.testing.assert_array_equal(correlate_masked(flat, flat, everywhere, everywhere), 0.0)
    mixed = correlate_masked(image((8, 8), 1), flat, everywhere, everywhere)
    np.testing.assert_array_equal(mixed, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_one_shared_pixel_correlates_with_nothing(seed: int) -> None:
    """A row and a column never share more: what rounding leaves is no correlation."""
    f, m = image((1, 7), seed), image((6, 1), seed + 1)
    p, q = np.ones(f.shape, bool), np.ones(m.shape, bool)
    found = correlate_masked(f, m, p, q, overlap_ratio=0.0)
    np.testing.assert_allclose(found, 0.0, atol=1e-6)


def test_an_image_without_valid_pixels_correlates_with_nothing() -> None:
    f, nowhere, everywhere = image((8, 8), 1), np.zeros((8, 8), bool), np.ones((8, 8), bool)
    np.testing.assert_array_equal(correlate_masked(f, f, nowhere, everywhere), 0.0)
    np.testing.assert_array_equal(correlate_masked(f, f, everywhere, nowhere), 0.0)


@pytest.mark.parametrize("shape", [(8, 9), (8,), (2, 8, 8)])
def test_an_image_and_valid_pixels_that_differ_in_shape_are_refused(shape: tuple[int, ...]) -> None:
    f, p = image((8, 8), 1), np.ones((8, 8), bool)
    other = np.ones(shape, bool)
    with pytest.raises(ValueError, match="two-dimensional"):
        correlate_masked(f, other.astype(float), p, p)
    with pytest.raises(ValueError, match="two-dimensional"):
        correlate_masked(f, f, other, p)


# ------------------------------------------------------------------ the bounded search


def level(shape: tuple[int, int], seed: int, share: float = 0.8) -> tuple[NDArray[Any], Valid]:
    """A level as the pyramid makes it: its own mean taken off, 0 where invalid."""
    values, valid = image(shape, seed), flags(shape, seed, share)
    centred = np.where(valid, values - values[valid].mean(), 0.0)
    return frozen(centred.astype(np.float32)), valid


def window_of(full: Image, shape: tuple[int, int], radius: int) -> Image:
    middle = (shape[0] - 1, shape[1] - 1)
    return full[
        middle[0] - radius : middle[0] + radius + 1, middle[1] - radius : middle[1] + radius + 1
    ]


@pytest.mark.parametrize("shape", [(24, 24), (33, 19), (16, 50)])
@pytest.mark.parametrize("radius", [1, 5, 15])
def test_the_bounded_search_is_the_window_of_the_full_map(
    shape: tuple[int, int], radius: int
) -> None:
    (f, p), (m, q) = level(shape, 0), level(shape, 1)
    found = search(m, q, prepare_search(f, p, q, radius, 0.0), is_static=True)
    expected = window_of(correlate_masked(f, m, p, q, overlap_ratio=0.0), shape, radius)
    assert found.shape == (2 * radius + 1, 2 * radius + 1)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_frame_of_other_valid_pixels_is_searched_as_exactly() -> None:
    (f, p), (m, q) = level((28, 30), 2), level((28, 30), 3)
    prepared = prepare_search(f, p, flags((28, 30), 77), 9, 0.0)
    found = search(m, q, prepared, is_static=False)
    expected = window_of(correlate_masked(f, m, p, q, overlap_ratio=0.0), f.shape, 9)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_static_and_other_valid_pixels_go_the_same_way_where_they_are_equal() -> None:
    (f, p), (m, q) = level((28, 30), 4), level((28, 30), 5)
    prepared = prepare_search(f, p, q, 8, 0.3)
    np.testing.assert_array_equal(
        search(m, q, prepared, is_static=True), search(m, q, prepared, is_static=False)
    )


def test_the_search_knows_nothing_where_too_little_overlaps() -> None:
    shape, radius = (20, 20), 12
    (f, p), (m, q) = level(shape, 6, 1.0), level(shape, 7, 1.0)
    found = search(m, q, prepare_search(f, p, q, radius, 0.5), is_static=True)
    lags = np.abs(np.arange(-radius, radius + 1))
    overlap = (20 - lags)[:, None] * (20 - lags)
    np.testing.assert_array_equal(np.isnan(found), overlap < 200)


def test_what_wraps_around_stays_outside_the_window() -> None:
    """A spot at the far border would be seen again beyond the near one, if padding were short."""
    f, m = np.zeros((2, 32, 32), np.float32)
    f[2, 16], m[31, 16] = 1.0, 1.0
    everywhere = np.ones((32, 32), bool)
    prepared: Search = prepare_search(f, everywhere, everywhere, 8, 0.0)
    found = search(m, everywhere, prepared, is_static=True)
    assert np.nanmax(found) < 0.01


# ------------------------------------------------------------------ peaks


def hill(shape: tuple[int, int], centre: tuple[float, float], height: float, sigma: float) -> Image:
    y, x = (np.arange(n) - n // 2 for n in shape)
    return np.asarray(
        height * np.exp(-((y[:, None] - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2.0 * sigma**2))
    )


def test_the_peak_is_found_to_a_fraction_of_a_bin() -> None:
    peak = find_peak(hill((41, 31), (3.3, -4.4), 0.8, 6.0))
    assert peak is not None
    np.testing.assert_allclose(peak.displacement, (3.3, -4.4), atol=0.02)
    assert peak.value == pytest.approx(0.8, abs=0.01)
    assert not peak.at_border


def rippled_hill() -> Image:
    y, x = np.mgrid[-20:21, -20:21]
    return np.asarray(hill((41, 41), (0.0, 0.0), 0.9, 30.0) + 0.02 * np.cos(x) * np.cos(y))


def test_ripples_on_one_broad_hill_are_no_second_peak() -> None:
    rippled = rippled_hill()
    maxima = ndimage.maximum_filter(rippled, 3) == rippled
    assert np.count_nonzero(maxima) > 10
    peak = find_peak(rippled)
    assert peak is not None
    assert peak.second == 0.0


def test_the_same_ripples_count_where_depth_asks_for_less() -> None:
    peak = find_peak(rippled_hill(), min_prominence=0.001)
    assert peak is not None
    assert peak.second > 0.5


@pytest.mark.parametrize("height", [0.3, 0.6, 0.79])
def test_the_lower_of_two_hills_is_the_second_peak(height: float) -> None:
    ncc = hill((61, 61), (-14.0, 5.0), 0.8, 5.0) + hill((61, 61), (15.0, -9.0), height, 5.0)
    peak = find_peak(ncc)
    assert peak is not None
    np.testing.assert_allclose(peak.displacement, (-14.0, 5.0), atol=0.01)
    assert peak.value == pytest.approx(0.8, abs=1e-3)
    assert peak.second == pytest.approx(height, abs=1e-3)


def test_of_many_hills_the_second_highest_counts() -> None:
    heights = [0.2, 0.5, 0.9, 0.4, 0.6]
    centres = [(-20.0, -20.0), (-20.0, 20.0), (0.0, 0.0), (20.0, -20.0), (20.0, 20.0)]
    ncc = sum(hill((61, 61), c, h, 4.0) for c, h in zip(centres, heights, strict=True))
    peak = find_peak(np.asarray(ncc))
    assert peak is not None
    assert peak.second == pytest.approx(0.6, abs=1e-3)


def test_two_equal_hills_have_a_ratio_of_one() -> None:
    ncc = hill((61, 61), (-15.0, 0.0), 0.7, 4.0) + hill((61, 61), (15.0, 0.0), 0.7, 4.0)
    peak = find_peak(ncc)
    assert peak is not None
    assert peak.second / peak.value == pytest.approx(1.0, abs=1e-6)


def test_hills_that_a_gap_of_the_unknown_parts_are_separate() -> None:
    ncc = np.maximum(hill((41, 41), (0.0, 0.0), 0.9, 30.0), 0.0)
    ncc[:, 26:28] = np.nan
    peak = find_peak(ncc)
    assert peak is not None
    assert peak.second == pytest.approx(float(np.nanmax(ncc[:, 28:])))


def test_a_plateau_is_one_peak() -> None:
    ncc = np.minimum(hill((41, 41), (2.0, 2.0), 0.9, 8.0), 0.6)
    peak = find_peak(ncc)
    assert peak is not None
    assert peak.value == pytest.approx(0.6)
    assert peak.second == 0.0
    assert np.hypot(peak.displacement[0] - 2.0, peak.displacement[1] - 2.0) < 9.0


@pytest.mark.parametrize(
    "corner", [(-10.0, 0.0), (10.0, 3.0), (0.0, -10.0), (2.0, 10.0), (10.0, 10.0), (-14.0, 1.0)]
)
def test_a_peak_at_the_border_says_so_and_stays_a_whole_bin(corner: tuple[float, float]) -> None:
    peak = find_peak(hill((21, 21), corner, 0.9, 4.0))
    assert peak is not None
    assert peak.at_border
    assert peak.displacement == tuple(np.clip(corner, -10.0, 10.0))


def test_a_peak_beside_the_unknown_stays_a_whole_bin_along_that_axis() -> None:
    ncc = hill((21, 21), (1.3, 2.0), 0.9, 4.0)
    ncc[:, 13:] = np.nan
    peak = find_peak(ncc)
    assert peak is not None
    assert peak.displacement[1] == 2.0
    assert peak.displacement[0] == pytest.approx(1.3, abs=0.02)


@pytest.mark.parametrize("value", [np.nan, 0.0, -0.3])
def test_a_map_in_which_nothing_correlates_has_no_peak(value: float) -> None:
    assert find_peak(np.full((9, 9), value)) is None


def separate_second(ncc: Image, depth: float) -> float:
    """Second separate peak by thresholds: when does the land round a peak reach a higher one?"""
    levels = np.sort(ncc[ncc > 0.0])[::-1]
    best = 0.0
    for y, x in np.argwhere((ndimage.maximum_filter(ncc, 3) == ncc) & (ncc > 0.0)):
        top = ncc[y, x]
        if top == ncc.max():
            continue
        saddle = -np.inf
        for t in levels[levels <= top]:
            land, _ = ndimage.label(ncc >= t, EIGHT_NEIGHBOURS)
            if ncc[land == land[y, x]].max() > top:
                saddle = t
                break
        if top - saddle >= depth:
            best = max(best, top)
    return float(best)


@flood
@pytest.mark.parametrize("seed", range(6))
def test_flooding_finds_the_second_peak_that_thresholds_find(seed: int, second_peak: Any) -> None:
    rng = np.random.default_rng(seed)
    ncc = ndimage.gaussian_filter(rng.normal(size=(13, 17)), 1.0 + 0.2 * seed)
    ncc /= ncc.max()
    depth = float(rng.uniform(0.05, 0.5))
    order = np.argsort(-ncc, axis=None, kind="stable")
    assert max(second_peak(ncc, order, depth), 0.0) == separate_second(ncc, depth)


@pytest.mark.parametrize(
    "find_root",
    [peaks._find_root, peaks._find_root.py_func],
    ids=["compiled", "python"],
)
def test_the_root_of_a_tree_is_found_and_the_way_shortened(find_root: Any) -> None:
    parent = np.array([0, 0, 1, 2, 3, 5])
    assert [find_root(parent, k) for k in range(6)] == [0, 0, 0, 0, 0, 5]
    assert np.count_nonzero(parent != 0) < 5


# ------------------------------------------------------------------ the loops themselves


@pytest.fixture(params=["compiled", "python"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops as numba compiles them, and as Python runs them."""
    if request.param == "python":
        for module in (correlation, searching, peaks):
            for name, value in list(vars(module).items()):
                if hasattr(value, "py_func"):
                    monkeypatch.setattr(module, name, value.py_func)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("is_static", [True, False])
def test_direct_sums_and_transforms_find_the_same(is_static: bool) -> None:
    rng = np.random.default_rng(4)
    drawn = rng.normal(size=(24, 21))
    valid, static = rng.random((24, 21)) > 0.1, rng.random((24, 21)) > 0.1
    own = static if is_static else static & (rng.random((24, 21)) > 0.1)
    image = np.where(valid, drawn - drawn[valid].mean(), 0.0).astype(np.float32)
    moved = np.roll(image, (2, -1), (0, 1)) + 3.0
    mean = np.where(own, moved, 0.0).astype(np.float32)
    maps = [
        search(
            mean,
            own,
            prepare_search(image, valid, static, 4, 0.3, direct=direct),
            is_static=is_static,
        )
        for direct in (True, False)
    ]
    np.testing.assert_allclose(maps[0], maps[1], atol=2e-5)
    exact = correlate_masked(image, mean, valid, own, overlap_ratio=0.3)
    window = exact[23 - 4 : 23 + 5, 20 - 4 : 20 + 5]
    np.testing.assert_allclose(maps[0], window, atol=2e-5)
    peak = find_peak(maps[0])
    assert peak is not None
    np.testing.assert_allclose(peak.displacement, (2, -1), atol=0.5)
    assert not peak.at_border


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("places", [[0, 20, 503], list(range(40, 80)), list(range(500))])
def test_a_few_lost_bins_are_taken_out_as_exactly(direct: bool, places: list[int]) -> None:
    """Corners, a row, and so many that all sums are made anew."""
    (image, valid), (drawn, static) = level((24, 21), 8), level((24, 21), 9)
    own = static.copy()
    own.ravel()[places] = False
    lost = np.flatnonzero(static & ~own)
    mean = np.where(own, image + 0.1 * drawn + 5.0, 0.0).astype(np.float32)
    prepared = prepare_search(image, valid, static, 4, 0.1, direct=direct)
    found = search(mean, own, prepared, is_static=False, lost=lost)
    anew = search(mean, own, prepared, is_static=False)
    np.testing.assert_allclose(found, anew, atol=2e-5)


@pytest.mark.usefixtures("either_way")
def test_two_hills_are_told_apart_and_nothing_is_no_peak() -> None:
    y, x = np.mgrid[-6:7, -6:7]
    hills = np.exp(-((y - 3) ** 2 + x**2) / 2.0) + 0.8 * np.exp(-((y + 3) ** 2 + x**2) / 2.0)
    peak = find_peak(hills)
    assert peak is not None
    assert peak.second / peak.value == pytest.approx(0.8, abs=0.01)
    assert find_peak(np.full((5, 5), np.nan)) is None
    assert find_peak(np.full((5, 5), -0.5)) is None
