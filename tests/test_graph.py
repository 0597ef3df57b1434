"""The lazy graph: what it computes on every scheduler, what it holds, and what it refuses."""

from __future__ import annotations

import pickle
from typing import Any

import dask.array
import dask.base
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from stillstack import graph
from stillstack.errors import InputError, RunFaultError
from stillstack.frameblock import Resampling
from stillstack.graph import align, register
from stillstack.kernels.registration import Reference, prepare_reference, register_frame
from stillstack.model import COLUMNS, Status, is_good
from stillstack.simulation import SimulatedStack, simulate_stack

da: Any = dask.array  # not typed
base: Any = dask.base

SHAPE = (96, 112)
REGISTERED = [column.name for column in COLUMNS if column.name != "n_clipped"]


@pytest.fixture(scope="module")
def simulated() -> SimulatedStack:
    return simulate_stack(12, SHAPE, seed=2, planted={"blank": (4,)}, drift_px=3.0)


@pytest.fixture(scope="module")
def reference(simulated: SimulatedStack) -> Reference:
    return prepare_reference(simulated.frame(0), simulated.valid, max_shift_px=12)


@pytest.fixture(scope="module")
def stack(simulated: SimulatedStack) -> xr.DataArray:
    return xr.DataArray(
        simulated.read(0, 12),
        dims=("frame", "y", "x"),
        coords={"time": ("frame", np.arange(12) * 0.5)},
        attrs={"units": "count"},
    )


def test_register_gives_what_each_frame_alone_gives(
    engine: str, stack: xr.DataArray, reference: Reference
) -> None:
    table = register(stack.chunk(frame=5), reference).compute()
    for i in range(12):
        alone = register_frame(stack.values[i], reference)
        for name in REGISTERED:
            expected = np.asarray(getattr(alone, name), table[name].dtype)
            np.testing.assert_array_equal(table[name].values[i], expected, err_msg=name)


def test_align_lands_every_good_frame_on_the_reference_and_leaves_no_other(
    engine: str, simulated: SimulatedStack, stack: xr.DataArray, reference: Reference
) -> None:
    chunked = stack.chunk(frame=5)
    table = register(chunked, reference)
    aligned = align(chunked, table, reference=reference).compute()
    clean = simulated.scene.expected(simulated.shift[0])
    for i in range(12):
        image = aligned.values[i]
        if i == 4:
            assert np.isnan(image).all()
            continue
        both = np.isfinite(image)
        assert both.mean() > 0.7
        assert np.corrcoef(image[both], clean[both])[0, 1] > 0.8


def test_two_builds_have_equal_names(stack: xr.DataArray, reference: Reference) -> None:
    def build() -> list[str]:
        chunked = stack.chunk(frame=4)
        table = register(chunked, reference)
        aligned = align(chunked, table, reference=reference, valid=reference.valid)
        return [*(variable.data.name for variable in table.values()), aligned.data.name]

    assert build() == build()


def test_other_arguments_have_other_names(stack: xr.DataArray, reference: Reference) -> None:
    shifts = np.zeros((12, 2))
    arguments: list[dict[str, Any]] = [
        {},
        {"dtype": "uint16"},
        {"interpolation": "linear"},
        {"canvas": (0, 50, 0, 50)},
        {"reference": reference},
        {"valid": np.ones(SHAPE, bool)},
        {"valid": np.zeros(SHAPE, bool)},
    ]
    names = {align(stack, shifts, **keywords).data.name for keywords in arguments}
    names.add(align(stack, shifts + 1).data.name)
    assert len(names) == len(arguments) + 1


def test_the_reference_is_in_the_graph_once_and_nothing_is_hidden_in_a_closure(
    simulated: SimulatedStack, reference: Reference
) -> None:
    def pickled(n_blocks: int) -> int:
        frames = da.zeros((n_blocks * 2, *SHAPE), chunks=(2, -1, -1), dtype="u2")
        lazy = xr.DataArray(frames, dims=("frame", "y", "x"))
        table = register(lazy, reference)
        aligned = align(lazy, table, reference=reference)
        both = base.optimize(*(v.data for v in table.values()), aligned.data)
        tasks = {k: v for array in both for k, v in dict(array.__dask_graph__()).items()}
        # plain pickle refuses lambdas and closures
        return len(pickle.dumps(tasks))

    few, many = pickled(2), pickled(40)
    size = len(pickle.dumps(reference))
    assert size < few < 2 * size
    assert many - few < 0.5 * size


def test_a_block_is_read_once_for_registering_and_aligning(
    stack: xr.DataArray, reference: Reference
) -> None:
    read: list[int] = []

    def count(frames: np.ndarray, block_id: tuple[int, ...]) -> np.ndarray:
        read.append(block_id[0])
        return frames

    frames = da.map_blocks(count, stack.chunk(frame=3).data, dtype="u2", meta=np.empty((0, 0, 0)))
    lazy = xr.DataArray(frames, dims=("frame", "y", "x"))
    table = register(lazy, reference)
    aligned = align(lazy, table, reference=reference)
    base.compute(table, aligned, scheduler="synchronous")
    assert sorted(read) == [0, 1, 2, 3]


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_chunks_change_nothing(lengths: list[int]) -> None:
    n_frames = sum(lengths)
    rng = np.random.default_rng(n_frames)
    frames = rng.poisson(20, (n_frames, 24, 20)).astype("u2")
    shifts = rng.uniform(-3, 3, (n_frames, 2))
    whole = xr.DataArray(frames, dims=("frame", "y", "x"))
    chunked = whole.chunk(frame=tuple(lengths), y=7, x=11)
    aligned = align(chunked, shifts)
    assert aligned.chunks == (tuple(lengths), (24,), (20,))
    np.testing.assert_array_equal(
        aligned.compute(scheduler="synchronous"), align(whole, shifts).compute()
    )


def test_whole_pixel_shifts_copy_pixels(engine: str, stack: xr.DataArray) -> None:
    shifts = np.tile([2.0, -3.0], (12, 1))
    aligned = align(stack.chunk(frame=5), shifts, dtype="input").compute().values
    assert aligned.dtype == np.uint16
    np.testing.assert_array_equal(aligned[:, 2:, :-3], stack.values[:, :-2, 3:])
    assert (aligned[:, :2] == 65535).all()
    assert (aligned[:, :, -3:] == 65535).all()


def test_a_frame_that_is_not_good_is_all_fill_even_with_a_shift(stack: xr.DataArray) -> None:
    status = np.zeros(12, "u2")
    status[3] = Status.AMBIGUOUS
    status[5] = Status.STRUCK
    shift = np.zeros((12, 2))
    shift[7] = np.nan
    table = xr.Dataset({"shift": (("frame", "axis"), shift), "status": ("frame", status)})
    empty = np.isnan(align(stack, table).values).all(axis=(1, 2))
    assert np.flatnonzero(empty).tolist() == [3, 7]


def test_clipped_values_are_counted_in_the_same_interpolation(stack: xr.DataArray) -> None:
    frames = np.full((2, 32, 32), 1000, "u2")
    frames[1, 10:20, 10:20] = 65534
    rows = np.zeros((2, 1, 1), [("shift", "f8", (2,)), ("status", "u2")])
    rows["shift"] = 0.5
    images, n_clipped = graph.align_rows(
        xr.DataArray(frames, dims=("frame", "y", "x")),
        da.from_array(rows, chunks=2),
        Resampling("bspline", "uint16", (0, 32, 0, 32)),
    )
    images, n_clipped = base.compute(images, n_clipped)
    assert n_clipped[0, 0, 0] == 0
    # a cubic overshoots at the edges of a square that is as bright as the type allows
    assert n_clipped[1, 0, 0] > 20
    assert np.isin(images[1], (0, 65534)).sum() >= n_clipped[1, 0, 0]


def test_a_canvas_is_a_window_of_the_whole(stack: xr.DataArray) -> None:
    placed = stack.assign_coords(y=np.arange(SHAPE[0]) * 2.0)
    shifts = np.full((12, 2), 1.3)
    window = align(placed, shifts, canvas=(10, 50, 20, 90))
    whole = align(placed, shifts)[:, 10:50, 20:90]
    np.testing.assert_allclose(window, whole, rtol=1e-6, atol=1e-4)
    assert window.y.values[0] == 20.0


def test_coordinates_and_attributes_are_kept(stack: xr.DataArray, reference: Reference) -> None:
    table = register(stack, reference)
    aligned = align(stack, table, dtype="uint16")
    np.testing.assert_array_equal(table.time, stack.time)
    np.testing.assert_array_equal(aligned.time, stack.time)
    assert table["shift"].attrs["units"] == "pixel"
    assert table.attrs["reference_digest"] == reference.digest
    assert aligned.attrs["units"] == "count"
    assert aligned.encoding["_FillValue"] == 65535


def test_frame_validity_of_the_reference_enters_the_interpolation(
    stack: xr.DataArray, simulated: SimulatedStack, reference: Reference
) -> None:
    frames = stack.values.copy()
    y, x = np.argwhere(simulated.valid)[2000]
    frames[6, y, x] = 65535
    saturated = stack.copy(data=frames)
    shifts = np.zeros((12, 2))
    aligned = align(saturated, shifts, reference=reference).values
    assert np.isnan(aligned[6, y, x])
    assert np.isfinite(aligned[5, y, x])
    assert np.isnan(aligned[:, ~simulated.valid]).all()


def test_an_array_of_valid_pixels_is_combined_with_the_reference(stack: xr.DataArray) -> None:
    valid = np.ones(SHAPE, bool)
    valid[40:60, 40:60] = False
    aligned = align(stack, np.zeros((12, 2)), valid=valid).values
    assert (np.isnan(aligned) == ~valid).all()


def test_a_broken_block_names_its_frames(
    stack: xr.DataArray, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(frame: np.ndarray, reference: Reference) -> Any:
        if frame.min() == frame.max():
            raise ZeroDivisionError("scripted")
        return register_frame(frame, reference)

    monkeypatch.setattr("stillstack.frameblock.register_frame", breaks)
    with pytest.raises(RunFaultError, match=r"Frame 4 .*frames 3 to 5 ") as caught:
        register(stack.chunk(frame=3), reference).compute(scheduler="synchronous")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_bad_frame_is_data(engine: str, stack: xr.DataArray, reference: Reference) -> None:
    table = register(stack.chunk(frame=4), reference).compute()
    assert np.flatnonzero(~is_good(table.status.values)).tolist() == [4]
    assert np.isnan(table["shift"].values[4]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.rename(frame="t"), "dimensions frame, y, x"),
        (lambda s: s[0], "dimensions frame, y, x"),
        (lambda s: s.values, "ndarray"),
        (lambda s: s.astype(complex), "complex128"),
        (lambda s: s[:, :50], "50 x 112 pixels, the reference is 96 x 112"),
    ],
)
def test_a_stack_that_does_not_fit_is_refused(
    stack: xr.DataArray, reference: Reference, change: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        register(change(stack), reference)


@pytest.mark.parametrize(
    ("shifts", "keywords", "message"),
    [
        (np.zeros((11, 2)), {}, r"shape \(11, 2\); 12 frames need \(12, 2\)"),
        (xr.DataArray(np.zeros((2, 12)), dims=("axis", "t")), {}, "dimensions"),
        (np.zeros((12, 2)), {"canvas": (0, 97, 0, 10)}, "rows 0:97"),
        (np.zeros((12, 2)), {"canvas": (5, 5, 0, 10)}, "rows 5:5"),
        (np.zeros((12, 2)), {"valid": np.ones((3, 3), bool)}, r"shape \(3, 3\)"),
    ],
)
def test_shifts_that_do_not_fit_are_refused(
    stack: xr.DataArray, shifts: Any, keywords: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        align(stack, shifts, **keywords)


def test_shifts_of_other_frames_are_refused(stack: xr.DataArray, reference: Reference) -> None:
    numbered = stack.assign_coords(frame=np.arange(12))
    table = register(numbered, reference)
    with pytest.raises(InputError, match="different frame coordinates"):
        align(numbered.isel(frame=slice(6)), table.isel(frame=slice(6, 12)))


def test_transposed_stacks_are_understood(stack: xr.DataArray) -> None:
    shifts = np.tile([1.0, 0.0], (12, 1))
    turned = align(stack.transpose("x", "frame", "y"), shifts)
    np.testing.assert_array_equal(turned, align(stack, shifts))
