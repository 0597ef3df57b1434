"""References of groups: who shares one, where they lie to one another, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from stillstack.config.network import NetworkConfig
from stillstack.errors import InputError
from stillstack.model import Status
from stillstack.network.content import settle_content
from stillstack.network.edges import TEMPLATE, Edge, measure_edges, neighbour_pairs
from stillstack.network.groups import groups_of
from stillstack.network.images import MeanImage
from stillstack.network.solve import Offsets, solve_offsets
from stillstack.network.tying import Tied, one_by_one, tie_groups
from stillstack.reference_image import ReferenceImage
from stillstack.simulation import beam_block, beam_block_valid, evolving_scenes

SHAPE = (128, 128)
REGISTRATION: dict[str, Any] = {"max_shift_px": 12}
CONFIG = NetworkConfig(keyframe_frames=50)


# ------------------------------------------------------------------ simulated groups


def group_images(
    content: Sequence[float] | NDArray[np.float64], n_frames: int = 300, seed: int = 3
) -> tuple[list[ReferenceImage | None], NDArray[np.float64]]:
    """Mean images of groups of these contents, each somewhere, and the truth: their offsets."""
    rng = np.random.default_rng(seed)
    first, last = evolving_scenes(SHAPE, 60.0, seed)
    valid, through = beam_block_valid(SHAPE), beam_block(SHAPE)
    truth = rng.uniform(-3.0, 3.0, (len(content), 2))
    images: list[ReferenceImage | None] = []
    for part, shift in zip(content, truth, strict=True):
        bright = (1 - part) * first.expected(shift) + part * last.expected(shift)
        counts = rng.poisson(bright * through * n_frames) / n_frames
        images.append(ReferenceImage(counts.astype(np.float32), valid, n_frames))
    return images, truth


def errors_of(tied: Tied, truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Errors of the offsets, less their mean: where the template is, is nobody's matter."""
    errors = tied.offsets.offset - truth
    return np.asarray(errors - errors.mean(axis=0))


@pytest.fixture(scope="module")
def changing() -> tuple[Tied, Tied, NDArray[np.float64]]:
    """Groups whose content goes from one pattern to another: tied with patterns, and without."""
    images, truth = group_images(np.linspace(0, 1, 16))
    tied = tie_groups(images, CONFIG, REGISTRATION)
    alike = solve_offsets(len(images), tied.edges)
    return tied, Tied(alike, None, tied.edges), truth


@pytest.fixture(scope="module")
def unchanging() -> tuple[Tied, NDArray[np.float64]]:
    """Groups of one content, the third of which has no image."""
    images, truth = group_images(np.full(9, 0.5), seed=4)
    images[2] = None
    return tie_groups(images, CONFIG, REGISTRATION), truth


# ------------------------------------------------------------------ examples


# ------------------------------------------------------------------ groups


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40))
def test_every_frame_is_in_the_one_group_of_its_label(labels: list[int]) -> None:
    values = np.array(labels)
    groups = groups_of(NetworkConfig(by="scan"), {"scan": values}, len(values))
    np.testing.assert_array_equal(groups.labels[groups.index], values)
    assert groups.index.dtype == np.int32
    for number, label in enumerate(groups.labels):
        np.testing.assert_array_equal(groups.frames(number), np.flatnonzero(values == label))
    assert groups.sizes.sum() == len(values)


@given(st.integers(1, 300), st.integers(2, 50))
def test_frames_in_a_row_make_groups_of_about_equal_length(n_frames: int, length: int) -> None:
    groups = groups_of(NetworkConfig(keyframe_frames=length), {}, n_frames)
    np.testing.assert_array_equal(groups.index, np.sort(groups.index))
    assert np.ptp(groups.sizes) <= 1
    assert 2 * length / 3 <= groups.sizes.min() or len(groups) == 1
    np.testing.assert_array_equal(groups.labels, [groups.frames(g)[0] for g in range(len(groups))])


def test_without_a_wish_all_frames_are_one_group() -> None:
    assert not NetworkConfig().wanted
    assert groups_of(NetworkConfig(), {}, 7).sizes.tolist() == [7]


def test_groups_of_one_frame_are_allowed_and_named() -> None:
    delay = np.array([0.0, 1.5, 0.0, 0.0])
    groups = groups_of(NetworkConfig(by="delay"), {"delay": delay}, 4)
    assert groups.sizes.tolist() == [3, 1]
    assert groups.notes == ("1 of 2 groups have one frame, which is its own reference: delay 1.5",)


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.0, np.nan, 2.0]),
        np.array(["2026-01-01", "NaT", "2026-01-02"], "datetime64[s]"),
        np.array(["a", "", "b"]),
        np.array(["a", None, "b"], object),
        np.array(["a", float("nan"), "b"], object),
    ],
)
def test_frames_without_a_label_are_refused_by_number(values: NDArray[Any]) -> None:
    with pytest.raises(InputError, match=r"1 of 3 frames have no scan: frames 1\."):
        groups_of(NetworkConfig(by="scan"), {"scan": values}, 3)


def test_what_cannot_divide_frames_is_refused() -> None:
    coords = {"time": np.arange(50.0)}
    with pytest.raises(InputError, match=r"no such coordinate.*\(time\)"):
        groups_of(NetworkConfig(by="delay"), coords, 50)
    with pytest.raises(InputError, match="50 groups, more than max_groups"):
        groups_of(NetworkConfig(by="time", max_groups=20), coords, 50)
    with pytest.raises(InputError, match="shape"):
        groups_of(NetworkConfig(by="time"), coords, 51)
    with pytest.raises(ValidationError, match="two ways"):
        NetworkConfig(by="scan", keyframe_frames=10)


# ------------------------------------------------------------------ edges


@settings(max_examples=30)
@given(st.integers(2, 700))
def test_neighbours_reach_every_group_on_all_scales_with_few_edges(n: int) -> None:
    pairs = [(i, j) for i, others in neighbour_pairs(n).items() for j in others]
    assert len(set(pairs)) == len(pairs) < 4 * n
    assert all(0 <= i < j < n for i, j in pairs)
    reached, steps = {0}, 0
    beside: dict[int, set[int]] = {}
    for i, j in pairs:
        beside.setdefault(i, set()).add(j)
        beside.setdefault(j, set()).add(i)
    while len(reached) < n:
        reached |= {j for i in reached for j in beside[i]}
        steps += 1
    assert steps <= 2 * np.log2(n) + 2


def test_the_farthest_neighbour_can_be_limited() -> None:
    pairs = neighbour_pairs(100, 4)
    assert max(j - i for i, others in pairs.items() for j in others) == 4


def test_edges_are_as_far_from_the_truth_as_they_say() -> None:
    images, truth = group_images(np.full(25, 0.5), n_frames=100, seed=8)
    others = [(number, images[number]) for number in range(1, 25)]
    edges = measure_edges(0, images[0], others, REGISTRATION)
    assert all(edge.good for edge in edges)
    assert [(edge.i, edge.j) for edge in edges] == [(0, number) for number in range(1, 25)]
    errors = np.array([edge.shift - (truth[edge.j] - truth[0]) for edge in edges])
    std = np.array([np.sqrt(np.diag(edge.covariance)) for edge in edges])
    # Half of the variance is the other images': 46 numbers, known to 10 %.
    own = (errors - errors.mean(axis=0)) / std
    assert 0.55 < np.sqrt((own**2).mean()) < 0.9
    # The other half is the reference's, the same in all 24: two numbers with a variance of 1/2.
    assert np.abs(errors.mean(axis=0) / std.mean(axis=0)).max() < 2.5


def test_an_image_far_away_is_found_near_where_it_is_expected() -> None:
    rng = np.random.default_rng(1)
    first, _ = evolving_scenes(SHAPE, 60.0)
    valid, through = beam_block_valid(SHAPE), beam_block(SHAPE)
    shift = np.array([17.3, -14.6])
    here, there = (
        ReferenceImage(
            (rng.poisson(first.expected(s) * through * 100) / 100).astype("f4"), valid, 100
        )
        for s in (np.zeros(2), shift)
    )
    (edge,) = measure_edges(0, here, [(1, there)], REGISTRATION, [(16, -16)])
    assert edge.good
    assert np.abs(edge.shift - shift).max() < 5 * np.sqrt(np.diag(edge.covariance)).max()
    (blind,) = measure_edges(0, here, [(1, there)], REGISTRATION)
    assert not blind.good or np.abs(blind.shift).max() <= 12


def test_what_is_not_there_or_blank_gives_an_edge_without_a_shift() -> None:
    (image, _), _ = group_images([0.0, 0.0])
    blank = ReferenceImage(np.zeros(SHAPE, "f4"), np.ones(SHAPE, bool), 10)
    nowhere = ReferenceImage(np.zeros(SHAPE, "f4"), np.zeros(SHAPE, bool), 10)
    for pair in ((None, image), (image, None), (blank, image), (image, blank), (image, nowhere)):
        (edge,) = measure_edges(0, pair[0], [(1, pair[1])], REGISTRATION)
        assert not edge.good
        assert np.isnan(edge.shift).all()
        assert edge.status & Status.BLANK


def test_an_image_can_be_left_out_of_a_mean_again() -> None:
    images, truth = group_images(np.linspace(0, 1, 4), n_frames=20)
    whole, rest = MeanImage(SHAPE), MeanImage(SHAPE)
    for number, image in enumerate(images):
        assert image is not None
        whole.add(image, truth[number])
        if number != 2:
            rest.add(image, truth[number])
    assert images[2] is not None
    without, expected = whole.without(images[2], truth[2]), rest.mean()
    assert without is not None
    np.testing.assert_array_equal(without.valid, expected.valid)
    np.testing.assert_allclose(without.image, expected.image, rtol=1e-5, atol=1e-4)
    assert without.n_frames == expected.n_frames == 60


# ------------------------------------------------------------------ solving


def edge(i: int, j: int, shift: Any, std: float = 0.02, share: float = 0.5) -> Edge:
    return Edge(i, j, np.asarray(shift, float), np.eye(2) * std**2, 0, share)


def network(
    truth: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    own: float = 0.0,
    each: float = 0.0,
    wrong: float = 0.0,
) -> list[Edge]:
    """Edges of a network: noise of the images, of each edge, and a part that is plainly wrong."""
    n = len(truth)
    seen = truth + rng.normal(0, own, (n, 2)) if own else truth
    std = float(np.hypot(own, each)) or 0.02

    def measured(shift: NDArray[np.float64]) -> NDArray[np.float64]:
        far = rng.normal(0, 4, 2) if rng.random() < wrong else np.zeros(2)
        return np.asarray(shift + rng.normal(0, each, 2) + far)

    edges = [edge(TEMPLATE, j, measured(seen[j]), std, 1.0) for j in range(n)]
    for i, others in neighbour_pairs(n).items():
        edges += [edge(i, j, measured(seen[j] - seen[i]), std * 2**0.5) for j in others]
    return edges


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_edges_that_agree_give_the_truth_in_any_order(n: int, shuffle: Any) -> None:
    truth = np.random.default_rng(n).normal(0, 5, (n, 2))
    edges = network(truth, np.random.default_rng(0))
    shuffle.shuffle(edges)
    found = solve_offsets(n, edges)
    np.testing.assert_allclose(found.offset, truth, atol=1e-9)
    assert found.rejected == ()


def test_correlated_errors_are_weighed_as_a_dense_solution_weighs_them() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 1, (6, 2))
    edges = []
    for i, j in [(-1, 0), (-1, 3), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5)]:
        root = rng.normal(0, 0.02, (2, 2)) + 0.02 * np.eye(2)
        step = truth[j] - (truth[i] if i >= 0 else 0.0)
        edges.append(Edge(i, j, step + 0.3 * root @ rng.normal(size=2), root @ root.T, 0))
    design = np.zeros((16, 12))
    weight = np.zeros((16, 16))
    for row, one in enumerate(edges):
        here = slice(2 * row, 2 * row + 2)
        weight[here, here] = np.linalg.inv(one.covariance)
        design[here, 2 * one.j : 2 * one.j + 2] = np.eye(2)
        if one.i >= 0:
            design[here, 2 * one.i : 2 * one.i + 2] = -np.eye(2)
    values = np.concatenate([one.shift for one in edges])
    expected = np.linalg.solve(design.T @ weight @ design, design.T @ weight @ values)
    # Tukey's weights differ from one by what residuals of a third of a sigma make them.
    std = np.sqrt(np.diag(np.linalg.inv(design.T @ weight @ design))).reshape(6, 2)
    found = solve_offsets(6, edges)
    assert np.abs((found.offset - expected.reshape(6, 2)) / std).max() < 0.05


def test_a_chain_without_loops_has_the_errors_of_its_sum() -> None:
    edges = [edge(k - 1, k, (1.0, 0.5), 0.1) for k in range(5)]
    found = solve_offsets(5, edges)
    np.testing.assert_allclose(found.offset, np.arange(1, 6)[:, None] * [1.0, 0.5])
    np.testing.assert_allclose(found.std[:, 0], 0.1 * np.sqrt(np.arange(1, 6)))
    assert np.isnan(found.closure[2])


@pytest.mark.parametrize("n", [60, 900])
def test_errors_are_as_large_as_they_say_and_plainly_wrong_edges_do_no_harm(n: int) -> None:
    rng = np.random.default_rng(n)
    truth = np.cumsum(rng.normal(0, 0.3, (n, 2)), axis=0)
    edges = network(truth, rng, own=0.02, each=0.005, wrong=0.05)
    found = solve_offsets(n, edges)
    assert found.known.all()
    pulls = (found.offset - truth) / found.std
    # 2 n numbers: known to 9 % and 2 %; few groups hang on few edges, some of them wrong.
    assert 0.8 < np.sqrt((pulls**2).mean()) < 1.2
    gross = {
        (e.i, e.j)
        for e in edges
        if np.abs(e.shift - truth[e.j] + (truth[e.i] if e.i >= 0 else 0.0)).max() > 0.5
    }
    assert len(gross) > 0.02 * len(edges)
    assert gross <= set(found.rejected)
    assert len(found.rejected) <= len(gross) + 0.005 * len(edges)


def test_many_groups_have_the_errors_that_few_would(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = network(np.zeros((50, 2)), np.random.default_rng(0), each=0.02)
    exact = solve_offsets(50, edges)
    monkeypatch.setattr("stillstack.network.certainty._EXACT", 10)
    drawn = solve_offsets(50, edges)
    # 300 draws: a variance is known to 8 %, a standard deviation to 4 %; 100 of them within 4 sigma
    np.testing.assert_allclose(drawn.std, exact.std, rtol=0.17)
    np.testing.assert_array_equal(drawn.offset, exact.offset)


def test_more_edges_do_not_average_the_noise_of_an_image_away() -> None:
    own = solve_offsets(40, network(np.zeros((40, 2)), np.random.default_rng(1), own=0.02))
    np.testing.assert_allclose(own.std, 0.02, rtol=0.05)


def test_groups_that_nothing_ties_have_no_offset() -> None:
    edges = [edge(-1, 0, (1, 2)), edge(0, 1, (1, 0)), edge(3, 4, (1, 0))]
    edges.append(Edge(-1, 2, np.full(2, np.nan), np.full((2, 2), np.nan), int(Status.LOW_NCC)))
    found = solve_offsets(5, edges)
    assert found.known.tolist() == [True, True, False, False, False]
    assert np.isnan(found.offset[2:]).all()
    assert np.isnan(found.std[2:]).all()
    assert found.notes[0].endswith("have no offset: groups 2, 3, 4")
    assert "1 failed" in found.notes[1]
    nothing = solve_offsets(2, [])
    assert np.isnan(nothing.offset).all()


def test_a_group_whose_edges_contradict_one_another_has_no_offset() -> None:
    edges = network(np.zeros((20, 2)), np.random.default_rng(0))
    touched = [k for k, e in enumerate(edges) if 7 in (e.i, e.j)]
    for number, k in enumerate(touched):
        e = edges[k]
        edges[k] = edge(e.i, e.j, e.shift + 5.0 * (number + 1) * np.array([1, (-1) ** number]))
    found = solve_offsets(20, edges)
    assert found.known.tolist() == [number != 7 for number in range(20)]
    np.testing.assert_allclose(np.delete(found.offset, 7, axis=0), 0, atol=1e-6)


def test_the_origin_can_be_a_group_or_the_middle_one() -> None:
    edges = [edge(k, k + 1, (1.0, 0.0)) for k in range(4)]
    np.testing.assert_allclose(
        solve_offsets(5, edges, origin=0).offset[:, 0], [0, 1, 2, 3, 4], atol=1e-12
    )
    np.testing.assert_allclose(
        solve_offsets(5, edges, origin=None).offset[:, 0], [-2, -1, 0, 1, 2], atol=1e-12
    )


def test_loops_that_do_not_close_are_reported_where_they_are() -> None:
    edges = [edge(-1, k, (float(k), 0.0), 1.0) for k in range(4)]
    edges += [edge(0, 1, (1.0, 0.0), 1.0), edge(2, 3, (1.0, 0.3), 1.0)]
    np.testing.assert_allclose(solve_offsets(4, edges).closure, [0, 0, 0.3, 0.3], atol=1e-12)


def test_edges_of_groups_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(0, 7\)"):
        solve_offsets(3, [edge(0, 7, (0, 0))])


# ------------------------------------------------------------------ all together


def test_groups_of_one_content_lie_where_they_say(
    unchanging: tuple[Tied, NDArray[np.float64]],
) -> None:
    tied, truth = unchanging
    assert tied.offsets.known.tolist() == [number != 2 for number in range(9)]
    there = tied.offsets.known
    errors = tied.offsets.offset[there] - truth[there]
    errors -= errors.mean(axis=0)
    # 16 numbers less two: a standard deviation is known to 19 %
    assert 0.5 < np.sqrt(((errors / tied.offsets.std[there]) ** 2).mean()) < 1.5
    assert any("mixtures of 1 pattern;" in note for note in tied.offsets.notes)
    assert any("groups 2" in note for note in tied.offsets.notes)
    assert tied.template is not None
    assert tied.template.n_frames == pytest.approx(8 * 300, rel=0.05)


def test_content_that_changes_is_not_taken_for_drift(
    changing: tuple[Tied, Tied, NDArray[np.float64]],
) -> None:
    tied, alike, truth = changing
    errors = errors_of(tied, truth)
    # 32 numbers less two: a standard deviation is known to 13 %
    assert 0.65 < np.sqrt(((errors / tied.offsets.std) ** 2).mean()) < 1.35
    # Registered as if the content were the same, groups drift apart with it.
    content = np.linspace(-0.5, 0.5, len(truth))
    slope, drawn = (content @ e / (content @ content) for e in (errors, errors_of(alike, truth)))
    assert np.abs(drawn).max() > 0.1
    assert np.abs(slope).max() < 0.25 * np.abs(drawn).max()
    assert any("mixtures of 2 patterns;" in note for note in tied.offsets.notes)


def test_errors_do_not_grow_along_the_run(
    changing: tuple[Tied, Tied, NDArray[np.float64]],
) -> None:
    tied, _, truth = changing
    squared = (errors_of(tied, truth) ** 2).sum(axis=1)
    # Of eight numbers each, whose ratio alone scatters by a third: the benchmark has more.
    assert np.sqrt(squared[-4:].mean()) < 1.2 * 1.7 * np.sqrt(squared[:4].mean())


def test_measurements_may_be_made_anywhere_and_in_any_order() -> None:
    images, _ = group_images(np.linspace(0.4, 0.6, 4), seed=6)
    seen: list[int] = []

    def elsewhere(tasks: Sequence[tuple[Any, ...]]) -> Iterable[tuple[Edge, ...]]:
        seen.append(len(tasks))
        return reversed(list(one_by_one(tasks)))

    here = tie_groups(images, CONFIG, REGISTRATION)
    there = tie_groups(images, CONFIG, REGISTRATION, measure=elsewhere)
    np.testing.assert_allclose(there.offsets.offset, here.offsets.offset, atol=2e-7)
    assert seen == [3, 4]


def test_a_single_group_is_the_template() -> None:
    images, _ = group_images([0.0])
    tied = tie_groups([None, *images], CONFIG, REGISTRATION)
    np.testing.assert_array_equal(tied.offsets.offset, [[np.nan] * 2, [0.0, 0.0]])
    assert tied.template is not None
    np.testing.assert_array_equal(tied.template.image, images[0].image if images[0] else None)
    assert tied.offsets.notes == ("1 of 2 groups have no reference",)


def test_without_any_image_nothing_can_be_tied() -> None:
    with pytest.raises(InputError, match="None of the 3 groups has a reference"):
        tie_groups([None] * 3, CONFIG, REGISTRATION)


def test_few_groups_and_little_common_area_leave_offsets_as_they_are() -> None:
    images, truth = group_images(np.full(4, 0.5), n_frames=20)
    exact = [edge(TEMPLATE, j, truth[j]) for j in range(4)]
    offsets: Offsets = solve_offsets(4, exact)
    assert settle_content(images[:3], solve_offsets(3, exact[:3]), exact[:3]).notes == ()
    stripes = []
    for number, image in enumerate(images):
        assert image is not None
        valid = np.zeros(SHAPE, bool)
        valid[32 * number : 32 * number + 32] = True
        stripes.append(ReferenceImage(image.image, valid, 20))
    left = settle_content(stripes, offsets, exact)
    np.testing.assert_array_equal(left.offset, offsets.offset)
    assert "too few to tell motion" in left.notes[-1]


def test_many_groups_are_corrected_by_neighbours_together(
    changing: tuple[Tied, Tied, NDArray[np.float64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alike, truth = changing
    images, _ = group_images(np.linspace(0, 1, 16))
    monkeypatch.setattr("stillstack.network.content._FAMILY", 8)
    monkeypatch.setattr("stillstack.network.content._SIDE_PX", 64)
    settled = settle_content(images, alike.offsets, alike.edges)
    before, after = (errors_of(Tied(o, None, ()), truth) for o in (alike.offsets, settled))
    content = np.linspace(-0.5, 0.5, 16)
    slope, drawn = (np.abs(content @ e / (content @ content)).max() for e in (after, before))
    assert slope < 0.35 * drawn
    assert np.sqrt(((after / settled.std) ** 2).mean()) < 1.35
