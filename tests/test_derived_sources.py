"""Sources made of sources: corrected, selected and summed frames, held against NumPy."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillstack.config import CorrectionConfig, ValidConfig
from stillstack.errors import InputError, RunFaultError, UnreadableFrameError
from stillstack.kernels.validity import ValueRules
from stillstack.sampling import SpreadSource
from stillstack.sources import (
    CorrectedSource,
    SelectedSource,
    corrected,
    open_source,
    running_sums,
    selected,
    stack_of,
)
from stillstack.sources import correction as correction_module
from stillstack.sources.defect_list import defects_of
from stillstack.sources.stretches import pieces, stretches

SHAPE = (12, 20, 24)


@dataclass(frozen=True)
class Frames:
    """An array as a source that notes what is read of it."""

    array: NDArray[Any]
    unreadable: tuple[int, ...] = ()
    coords: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    chunk_frames: int = 1
    reads: list[tuple[int, int]] = field(default_factory=list)

    name = "frames"

    @property
    def attrs(self) -> Mapping[str, Any]:
        return {"source_format": "array", "invalid_value": 0}

    @property
    def shape(self) -> tuple[int, int, int]:
        n_frames, height, width = self.array.shape
        return (n_frames, height, width)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        self.reads.append((start, stop))
        for number in self.unreadable:
            if start <= number < stop:
                raise UnreadableFrameError(f"Frame {number} is torn.")
        return self.array[start:stop].copy()

    def fingerprint(self) -> str:
        return f"{self.array.tobytes()!r}"


@pytest.fixture
def raw(tmp_path: Path) -> NDArray[np.uint16]:
    """Frames on the disk with a saturated pixel each, one that moves."""
    frames = np.random.default_rng(1).poisson(200, SHAPE).astype(np.uint16)
    for number in range(len(frames)):
        frames[number, number, 3] = 65535
    np.save(tmp_path / "raw.npy", frames)
    return frames


@pytest.fixture
def images(tmp_path: Path) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(2)
    dark = rng.poisson(40, SHAPE[1:]).astype(np.uint16)
    gain = rng.uniform(0.5, 1.5, SHAPE[1:])
    np.save(tmp_path / "dark.npy", dark)
    tifffile.imwrite(tmp_path / "gain.tif", gain.astype(np.float32))
    return {"dark": dark, "gain": gain.astype(np.float32)}


def config_in(folder: Path, **changes: Any) -> CorrectionConfig:
    settings = {"dark": str(folder / "dark.npy"), "gain": str(folder / "gain.tif")}
    return CorrectionConfig(**{**settings, "defects": ((2, 5), (19, 0)), **changes})


def source_in(folder: Path, **changes: Any) -> CorrectedSource:
    found = corrected(open_source(folder / "raw.npy"), config_in(folder, **changes))
    assert isinstance(found, CorrectedSource)
    return found


# ------------------------------------------------------------------ corrected


def test_corrected_frames_are_what_numpy_makes_of_the_full_array(
    engine: str, tmp_path: Path, raw: NDArray[Any], images: dict[str, NDArray[Any]]
) -> None:
    stack = stack_of(source_in(tmp_path), chunk_frames=5)
    expected = (raw.astype(np.float64) - images["dark"]) * images["gain"].astype(np.float64)
    expected[raw == 65535] = np.nan
    expected[:, 2, 5] = expected[:, 19, 0] = np.nan
    assert stack.dtype == np.float32
    # counts and their difference are exact in single precision, the product is rounded once
    np.testing.assert_allclose(stack.values, expected, rtol=6.1e-8)


@pytest.mark.parametrize("missing", [("gain",), ("dark",), ("dark", "gain")])
def test_each_image_may_be_missing(
    tmp_path: Path, raw: NDArray[Any], images: Any, missing: tuple[str, ...]
) -> None:
    found = source_in(tmp_path, **dict.fromkeys(missing)).read(3, 6)
    dark = 0.0 if "dark" in missing else images["dark"].astype(float)
    gain = 1.0 if "gain" in missing else images["gain"].astype(float)
    expected = (raw[3:6] - dark) * gain
    counts = np.isfinite(found)
    assert not counts[:, 2, 5].any()
    assert (~counts).sum() == 3 * 2 + 3  # defects, and one saturated pixel in each
    np.testing.assert_allclose(found[counts], expected[counts], rtol=6.1e-8)


def test_without_anything_to_correct_the_source_is_the_same(
    tmp_path: Path, raw: NDArray[Any]
) -> None:
    source = open_source(tmp_path / "raw.npy")
    assert corrected(source, CorrectionConfig()) is source


def test_which_values_count_is_judged_on_raw_counts(
    tmp_path: Path, raw: NDArray[Any], images: Any
) -> None:
    rules = ValidConfig(below=170, above=230, equal=(199,))
    source = corrected(open_source(tmp_path / "raw.npy"), config_in(tmp_path, defects=None), rules)
    found = np.isfinite(source.read(0, len(raw)))
    np.testing.assert_array_equal(found, (raw >= 170) & (raw <= 230) & (raw != 199))
    assert 0.5 < found.mean() < 1.0


def test_a_small_signal_on_a_large_dark_is_kept(tmp_path: Path) -> None:
    # single precision is 256 apart at 2^31 + 2^30
    dark = np.full((4, 5), 2**31 + 2**30, np.uint32)
    frames = dark + np.arange(3, dtype=np.uint32)[:, None, None]
    np.save(tmp_path / "raw.npy", frames)
    np.save(tmp_path / "dark.npy", dark.astype(np.float64))
    found = source_in(tmp_path, gain=None, defects=None).read(0, 3)
    np.testing.assert_array_equal(found[:, 0, 0], [0, 1, 2])


def test_floating_frames_keep_what_is_not_finite_out(tmp_path: Path, images: Any) -> None:
    frames = np.ones(SHAPE)
    frames[0, 1, 1], frames[1, 1, 1] = np.nan, np.inf
    np.save(tmp_path / "raw.npy", frames)
    found = source_in(tmp_path, defects=None).read(0, len(frames))
    assert np.argwhere(~np.isfinite(found)).tolist() == [[0, 1, 1], [1, 1, 1]]


def test_a_task_carries_paths_and_no_pixels(tmp_path: Path, raw: NDArray[Any], images: Any) -> None:
    source = source_in(tmp_path)
    source.read(0, 1)
    # two images of 480 pixels would be 3,800 bytes
    assert len(pickle.dumps(source)) < 3000
    narrow = pickle.loads(pickle.dumps(source.narrow(2, 5)))
    np.testing.assert_array_equal(narrow.read(2, 5), source.read(2, 5))


def test_the_fingerprint_follows_what_is_in_the_images(
    tmp_path: Path, raw: NDArray[Any], images: dict[str, NDArray[Any]]
) -> None:
    before = source_in(tmp_path).fingerprint()
    assert set(before) <= set("0123456789abcdef")
    assert len(before) == 64
    os.utime(tmp_path / "dark.npy", (1, 1))
    assert source_in(tmp_path).fingerprint() == before
    shutil.copy(tmp_path / "dark.npy", tmp_path / "elsewhere.npy")
    assert source_in(tmp_path, dark=str(tmp_path / "elsewhere.npy")).fingerprint() == before
    opened = source_in(tmp_path)
    images["dark"][3, 3] += 1
    np.save(tmp_path / "dark.npy", images["dark"])
    assert opened.fingerprint() != before  # looked up afresh
    others = {before, source_in(tmp_path).fingerprint()}
    for changes in ({"gain": None}, {"dark": None}, {"defects": ((2, 5),)}):
        others.add(source_in(tmp_path, **changes).fingerprint())
    assert len(others) == 5
    rules = ValidConfig(above=100)
    raw_source = open_source(tmp_path / "raw.npy")
    others.add(corrected(raw_source, config_in(tmp_path), rules).fingerprint())
    assert len(others) == 6


def test_images_that_changed_under_a_run_stop_it(
    tmp_path: Path, raw: NDArray[Any], images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_in(tmp_path)
    source.read(0, 1)
    np.save(tmp_path / "dark.npy", images["dark"] + 1)
    source.read(1, 2)  # this process has them
    monkeypatch.setattr(correction_module, "_KEPT", {})  # as in another process
    with pytest.raises(RunFaultError, match="have changed since the run was started"):
        source.read(0, 1)
    (tmp_path / "dark.npy").unlink()
    with pytest.raises(RunFaultError, match=r"cannot be read on .*There is no file.*dark\.npy"):
        source.read(0, 1)


def test_what_meant_no_data_means_nothing_any_more(
    tmp_path: Path, raw: NDArray[Any], images: Any
) -> None:
    source = corrected(Frames(raw), config_in(tmp_path))
    assert source.attrs == {"source_format": "array"}


@pytest.mark.parametrize(
    ("name", "image", "words"),
    [
        (
            "dark",
            np.zeros((20, 23)),
            r"correction\.dark: .* has 20 x 23 pixels, the frames 20 x 24",
        ),
        ("dark", np.full((20, 24), np.nan), r"dark is not finite at 478 pixels .* y = 0, x = 0"),
        ("gain", np.zeros((20, 24)), r"gain is not finite, zero or negative at 478 pixels"),
        ("gain", np.full((20, 24), -1.0), "with -1"),
        ("gain", np.full((20, 24), np.inf), "not finite"),
        ("gain", np.ones((20, 24), complex), "complex"),
        ("gain", np.ones((2, 20, 24)), "2 images|2 frames|one image"),
        ("defects", np.ones((20, 24)), "names all 480 pixels"),
        ("defects", np.ones((7, 3)), "neither an image .* nor a list"),
        ("defects", np.array([[24, 3]]), "y = 24, x = 3, and frames have rows 0 to 19"),
        ("defects", np.array([[2.5, 3]]), "whole pixels"),
    ],
)
@pytest.mark.usefixtures("raw", "images")
def test_images_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, image: Any, words: str
) -> None:
    np.save(tmp_path / "wrong.npy", image)
    with pytest.raises(InputError, match=words):
        source_in(tmp_path, **{name: str(tmp_path / "wrong.npy")})


def test_a_missing_image_is_named(tmp_path: Path, raw: NDArray[Any], images: Any) -> None:
    with pytest.raises(InputError, match=r"There is no file.*absent\.npy"):
        source_in(tmp_path, dark=str(tmp_path / "absent.npy"))


def test_pixels_that_are_defects_need_no_gain(
    tmp_path: Path, raw: NDArray[Any], images: dict[str, NDArray[Any]]
) -> None:
    gain = images["gain"].copy()
    gain[2, 5], gain[19, 0] = 0.0, np.nan
    tifffile.imwrite(tmp_path / "gain.tif", gain)
    found = np.isnan(source_in(tmp_path).read(0, 1)[0])
    assert np.argwhere(found).tolist() == [[0, 3], [2, 5], [19, 0]]  # frame 0 is saturated at 0, 3


PLACES = [(2, 5), (19, 0), (7, 7)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", "y,x\n2,5\n19,0\n7,7\n"),
        ("d.csv", "x;y\n5;2\n0;19\n7;7\n"),
        ("d.csv", "id,x,y\na,5,2\nb,0,19\nc,7,7\n"),
        ("d.txt", "# of July\n2 5\n19 0  # hot\n\n7\t7\n"),
        ("list.npy", np.array(PLACES)),
        ("image.npy", None),
        ("image.tif", None),
        ("image.txt", None),
    ],
)
def test_defects_may_be_a_list_or_an_image(tmp_path: Path, name: str, content: Any) -> None:
    expected = np.zeros((20, 24), bool)
    expected[tuple(np.array(PLACES).T)] = True
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    elif name == "image.txt":
        np.savetxt(path, expected.astype(int), fmt="%d")
    elif name.endswith("npy"):
        np.save(path, expected if content is None else content)
    else:
        tifffile.imwrite(path, expected.astype(np.uint8) * 255)
    np.testing.assert_array_equal(defects_of(str(path), (20, 24)), expected)


@pytest.mark.parametrize("text", ["y,x\n2\n", "2,5\nhot,3\n", "a,b\n1,2\n", "", "2 5 6\n"])
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "defects.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"defects\.csv"):
        defects_of(str(path), (20, 24))


# ------------------------------------------------------------------ selected


@given(st.lists(st.integers(0, 11), min_size=1, max_size=20), st.data())
def test_a_selection_reads_as_an_array_is_indexed(numbers: list[int], data: st.DataObject) -> None:
    array = np.arange(12 * 6, dtype=np.uint16).reshape(12, 2, 3)
    whole = Frames(array, coords={"delay": np.linspace(0, 1, 12)})
    chosen = selected(whole, numbers)
    start = data.draw(st.integers(0, len(numbers) - 1))
    stop = data.draw(st.integers(start + 1, len(numbers)))
    np.testing.assert_array_equal(chosen.read(start, stop), array[numbers[start:stop]])
    np.testing.assert_array_equal(chosen.coords["delay"], np.linspace(0, 1, 12)[numbers])
    read = [number for first, last in whole.reads for number in range(first, last)]
    assert read == numbers[start:stop]


def test_neighbours_of_a_selection_are_read_together() -> None:
    whole = Frames(np.zeros((12, 2, 3), np.uint16), chunk_frames=4)
    chosen = SelectedSource(whole, (2, 3, 4, 8, 9, 0))
    chosen.read(0, 6)
    assert whole.reads == [(2, 5), (8, 10), (0, 1)]
    assert chosen.chunk_frames == 1
    assert SelectedSource(whole, (2, 3, 4)).chunk_frames == 4


def test_two_selections_have_two_names() -> None:
    whole = Frames(np.zeros((12, 2, 3), np.uint16))
    one, other = SelectedSource(whole, (1, 2)), SelectedSource(whole, (1, 3))
    spread = SpreadSource(whole, (1, 2))
    assert len({one.token, other.token, spread.token}) == 3
    assert one.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("numbers", [(), (12,), (-1, 3)])
def test_a_selection_of_frames_that_there_are_not_is_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="which has frames 0 to 11"):
        SelectedSource(Frames(np.zeros((12, 2, 3))), numbers)


def test_a_torn_frame_stops_a_selection_and_is_dark_in_spread_frames() -> None:
    array = np.arange(1, 13, dtype=np.uint16)[:, None, None] * np.ones((1, 2, 3), np.uint16)
    torn = Frames(array, unreadable=(5,))
    with pytest.raises(UnreadableFrameError, match="Frame 5 is torn"):
        SelectedSource(torn, (4, 5, 6)).read(0, 3)
    found = SpreadSource(torn, (4, 5, 6)).read(0, 3)
    assert found[:, 0, 0].tolist() == [5, 0, 7]


@given(st.lists(st.integers(0, 30), max_size=20), st.none() | st.integers(1, 4))
def test_stretches_are_the_numbers_again(numbers: list[int], longest: int | None) -> None:
    found = stretches(numbers, longest)
    assert [n for start, stop in found for n in range(start, stop)] == numbers
    assert all(0 < stop - start <= (longest or 31) for start, stop in found)


@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 40))
def test_pieces_are_a_range_cut_where_the_source_is(chunk: int, start: int, length: int) -> None:
    # 3 MiB a frame: five fit
    whole = Frames(np.broadcast_to(np.uint8(0), (80, 1024, 3072)), chunk_frames=chunk)
    found = list(pieces(whole, start, start + length))
    assert [n for a, b in found for n in range(a, b)] == list(range(start, start + length))
    assert all(cut % chunk == 0 for _, cut in found[:-1])
    assert all(b - a <= max(chunk, 5) for a, b in found)


# ------------------------------------------------------------------ summed


@given(
    st.integers(1, 6),
    st.integers(1, 8),
    st.sampled_from(["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"]),
    st.data(),
)
def test_sums_are_those_of_the_full_array(
    k: int, stride: int, dtype: str, data: st.DataObject
) -> None:
    rng = np.random.default_rng(5)
    top = 1e6 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max  # exclusive: not saturated
    array = rng.integers(0, int(top), (13, 4, 5)).astype(dtype)
    whole = Frames(array)
    sums = running_sums(whole, k, stride)
    n_sums = (13 - k) // stride + 1
    assert sums.shape == (n_sums, 4, 5)
    start = data.draw(st.integers(0, n_sums - 1))
    stop = data.draw(st.integers(start + 1, n_sums))
    found, counts = sums.read_counted(start, stop)
    expected = np.array(
        [array[j * stride : j * stride + k].astype(object).sum(axis=0) for j in range(start, stop)]
    )
    assert found.dtype == sums.dtype
    assert found.dtype.itemsize >= 4
    # up to six counts below 10^6 are whole in single precision, too
    assert (found.astype(object) == expected).all()
    assert counts.tolist() == [k] * (stop - start)
    read = [number for first, last in whole.reads for number in range(first, last)]
    needed = {n for j in range(start, stop) for n in range(j * stride, j * stride + k)}
    assert read == sorted(needed)  # each once, and no other


def test_a_sum_is_invalid_where_one_of_its_frames_is() -> None:
    array = np.full((6, 3, 4), 10, np.uint16)
    array[2, 1, 1] = 65535
    array[4, 0, 0] = 99
    found = replace(running_sums(Frames(array), 2, 2), rules=ValueRules(equal=(99.0,))).read(0, 3)
    most = np.iinfo(np.uint32).max
    assert found[0].tolist() == np.full((3, 4), 20).tolist()
    assert np.argwhere(found == most).tolist() == [[1, 1, 1], [2, 0, 0]]
    assert ValueRules().limits(found.dtype)[1] < most  # saturated for the kernels, too
    spoilt = array.astype(np.float32)
    spoilt[2, 1, 1] = np.nan
    assert np.argwhere(np.isnan(running_sums(Frames(spoilt), 3, 3).read(0, 2))).tolist() == [
        [0, 1, 1]
    ]


def test_a_sum_that_would_be_the_largest_value_gets_a_wider_type() -> None:
    assert running_sums(Frames(np.zeros((70_000, 1, 1), np.uint16)), 65_535, 1).dtype == np.uint32
    assert running_sums(Frames(np.zeros((70_000, 1, 1), np.uint16)), 65_537, 1).dtype == np.uint64
    assert running_sums(Frames(np.zeros((4, 1, 1), np.uint32)), 1, 1).dtype == np.uint64


def test_torn_and_left_out_frames_are_missing_in_sums_and_counted() -> None:
    array = np.full((9, 2, 3), 5, np.uint16)
    whole = Frames(array, unreadable=(1, 6, 7, 8))
    sums = replace(running_sums(whole, 3, 3), left_out=frozenset({4}))
    found, counts = sums.read_counted(0, 2)
    assert counts.tolist() == [2, 2]
    assert found[:, 0, 0].tolist() == [10, 10]
    assert sums.counts.tolist() == [3, 2, 3]
    with pytest.raises(UnreadableFrameError, match="Sum 2 of sums of 3 frames of frames"):
        sums.read(1, 3)
    assert not any(first <= 4 < last for first, last in whole.reads)


def test_sums_have_the_mean_time_and_what_their_frames_agree_on() -> None:
    begin = np.datetime64("2026-01-31T12:00:00.000000001", "ns")
    coords = {
        "time": begin + np.arange(6) * np.timedelta64(2, "s"),
        "scan": np.array([1, 1, 1, 1, 2, 2]),
        "delay": np.arange(6.0),
        "file": np.array(list("aabbcc")),
    }
    whole = Frames(np.zeros((6, 2, 3), np.uint16), coords=coords)
    found = running_sums(whole, 2, 2).coords
    assert set(found) == {"time", "scan", "file"}
    np.testing.assert_array_equal(found["time"], begin + np.array([1, 5, 9], "m8[s]"))
    np.testing.assert_array_equal(found["scan"], [1, 1, 2])
    left = replace(running_sums(whole, 3, 3), left_out=frozenset({0, 3, 4, 5})).coords["time"]
    # of a sum without frames the place is that of all
    np.testing.assert_array_equal(left, begin + np.array([3, 8], "m8[s]"))
    seconds = Frames(np.zeros((4, 2, 3)), coords={"time": np.array([0, 1, 3, 9], "uint8")})
    np.testing.assert_array_equal(running_sums(seconds, 2, 1).coords["time"], [0.5, 2, 6])


@pytest.mark.parametrize(("k", "stride"), [(0, 1), (13, 1), (2, 0)])
def test_sums_that_make_no_sense_are_refused(k: int, stride: int) -> None:
    with pytest.raises(InputError, match=f"Sums of {k} frames every {stride} .* which has 12"):
        running_sums(Frames(np.zeros((12, 2, 3))), k, stride)


def test_sums_of_corrected_frames_in_the_graph_are_those_of_numpy(
    engine: str, tmp_path: Path, raw: NDArray[Any], images: Any
) -> None:
    source = source_in(tmp_path)
    stack = stack_of(running_sums(source, 4, 3), chunk_frames=2)
    frames = source.read(0, 12).astype(np.float64)
    expected = np.stack([frames[j : j + 4].sum(axis=0) for j in (0, 3, 6)])
    np.testing.assert_array_equal(stack.values, expected.astype(np.float32))
