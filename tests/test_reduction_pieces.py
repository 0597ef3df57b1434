"""Frames are cut into pieces and areas are shared out without losing or doubling anything."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import stillstack.reduction
from reduced import moved
from stillstack.reduction import pieces
from stillstack.reduction.pieces import batches_of, piece_of_group, pieces_of
from stillstack.reduction.selection import Selection
from stillstack.reduction.shared_area import drift_of, shared_area

MODULES = tuple(pkgutil.iter_modules(stillstack.reduction.__path__))


@dataclass(frozen=True)
class Announced:
    """A source that is never read."""

    n_frames: int
    chunk_frames: int
    name: str = "announced"
    dtype: np.dtype[Any] = np.dtype("u2")  # noqa: RUF009
    coords: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.n_frames, 1024, 1024)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        raise AssertionError((start, stop))

    def fingerprint(self) -> str:
        return ""


def selection_of(group_of: NDArray[np.int64], n_groups: int) -> Selection:
    """Frames in groups; a negative group is a frame that is not used."""
    n = len(group_of)
    groups = tuple(np.flatnonzero(group_of == g).astype(np.int64) for g in range(n_groups))
    shift = np.stack([np.arange(n), -np.arange(n)], axis=1).astype(float)
    labels = {"group": np.arange(n_groups)}
    return Selection(
        labels, {}, groups, shift, np.arange(n).astype("u2"), 1.0 + np.arange(n, dtype=float)
    )


@settings(max_examples=80, deadline=None)
@given(
    n_frames=st.integers(1, 700),
    n_groups=st.integers(1, 60),
    chunk_frames=st.sampled_from([1, 2, 7, 64, 1000]),
    seed=st.integers(0, 99),
    interleaved=st.booleans(),
)
def test_every_frame_is_in_one_piece_of_its_group_and_is_read_there(
    n_frames: int, n_groups: int, chunk_frames: int, seed: int, interleaved: bool
) -> None:
    rng = np.random.default_rng(seed)
    group_of = np.arange(n_frames) % n_groups
    if not interleaved:
        group_of = np.sort(group_of)
    group_of[rng.random(n_frames) < 0.2] = -1
    source, selection = Announced(n_frames, chunk_frames), selection_of(group_of, n_groups)
    batches = batches_of(selection, source)
    assert [g for batch in batches for g in batch] == sorted(set(group_of[group_of >= 0]))
    found: list[int] = []
    for batch in batches:
        assert chunk_frames > 1 or len(batch) == 1
        # 2 MiB a frame
        assert len(batch) * 20 * 2**20 <= 512 * 2**20
        for piece in pieces_of(selection, source, batch, len(batches)):
            np.testing.assert_array_equal(piece.groups, group_of[piece.numbers])
            np.testing.assert_array_equal(piece.shift[:, 0], piece.numbers)
            np.testing.assert_array_equal(piece.scale, 1.0 + piece.numbers)
            assert (np.diff(piece.numbers) > 0).all()
            read = [n for _, start, stop in piece.reads for n in range(start, stop)]
            assert len(read) == len(set(read))
            assert set(piece.numbers) <= set(read)
            # nothing of a chunk is read that holds no frame that is wanted
            assert {n // chunk_frames for n in read} == set(piece.numbers // chunk_frames)
            # no more in memory than 64 MiB or one chunk
            longest = max(stop - start for _, start, stop in piece.reads)
            assert longest <= max(32, chunk_frames)
            found += piece.numbers.tolist()
    assert sorted(found) == np.flatnonzero(group_of >= 0).tolist()


def test_no_chunk_is_in_two_pieces_of_a_batch() -> None:
    source = Announced(4000, 16)
    selection = selection_of(np.arange(4000) % 20, 20)
    (batch,) = batches_of(selection, source)
    chunks = [set(p.numbers // 16) for p in pieces_of(selection, source, batch, 1)]
    assert sum(map(len, chunks)) == len(set().union(*chunks)) == 250
    assert len(chunks) >= 16


def test_long_groups_are_cut_where_passing_on_sums_costs_little() -> None:
    source = Announced(20_000, 1)
    selection = selection_of(np.zeros(20_000, np.int64), 1)
    (batch,) = batches_of(selection, source)
    lengths = [len(p.numbers) for p in pieces_of(selection, source, batch, 1)]
    # 512 MiB of 2 MiB each
    assert max(lengths) == 256


def test_all_frames_of_a_group_can_be_one_piece() -> None:
    selection = selection_of(np.arange(30) % 3, 3)
    piece = piece_of_group(selection, Announced(30, 1), 2)
    assert piece.numbers.tolist() == list(range(2, 30, 3))
    assert set(piece.groups) == {2}


@pytest.mark.parametrize("n_frames", [1, 5, 10_000])
def test_images_are_added_in_blocks_that_fit(n_frames: int) -> None:
    for pixels in (64, 512**2, 4096**2):
        count = pieces.buffer_images(pixels, np.dtype("f8"), n_frames)
        assert 1 <= count <= n_frames
        assert count == 1 or count * pixels * 8 <= 128 * 2**20


# ------------------------------------------------------------------- the shared area


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    y=st.tuples(st.integers(-4, 4), st.integers(0, 3)),
    x=st.tuples(st.integers(-4, 4), st.integers(0, 3)),
)
def test_the_shared_area_is_what_every_shift_of_the_range_covers(
    seed: int, y: tuple[int, int], x: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    valid = np.ones((14, 17), bool)
    for _ in range(2):
        top, left = rng.integers(0, 12, 2)
        valid[top : top + 3, left : left + 2] = False
    counts = rng.random((14, 17)) < 0.9
    drift = (y[0], y[0] + y[1], x[0], x[0] + x[1])
    expected = counts.copy()
    for dy in range(drift[0], drift[1] + 1):
        for dx in range(drift[2], drift[3] + 1):
            expected &= np.isfinite(moved(np.ones((14, 17)), valid, (dy, dx)))
    np.testing.assert_array_equal(shared_area(valid, counts, drift), expected)


def test_single_dead_pixels_are_not_held_against_the_shared_area() -> None:
    valid = np.ones((30, 30), bool)
    valid[10, 10] = False
    found = shared_area(valid, np.ones_like(valid), (-1, 1, 0, 0))
    assert found[1:-1].all()
    assert not found[0].any()


def test_the_drift_encloses_all_shifts() -> None:
    shift = np.array([[0.2, -3.9], [-1.0, 5.0], [4.01, 0.0]])
    assert drift_of(shift) == (-1, 5, -4, 5)


# ------------------------------------------------------------------- documentation
