"""Shifts as CSV files: written, edited by hand, read back; and what is wrong with them is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillstack.drift.exchange import read_shifts, write_shifts
from stillstack.errors import InputError
from stillstack.model import Status, empty_table

HEADER = "frame,shift_y,shift_x,shift_std_y,shift_std_x,shift_corr,status"
THREE = f"{HEADER}\n0,1.5,-2,0.1,0.2,0.5,\n1,,,,,,low_ncc|struck\n2,0.25,3,0.1,0.2,-0.5,saturated\n"
LOW_NCC = int(Status.LOW_NCC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shifts.csv"


@pytest.fixture
def edited(path: Path) -> Callable[..., Path]:
    """The table of three frames with some text replaced by another."""

    def edit(*changes: tuple[str, str]) -> Path:
        text = THREE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
        return path

    return edit


def random_rows(n: int, seed: int) -> NDArray[np.void]:
    rng = np.random.default_rng(seed)
    rows = empty_table(n, Status(0))
    rows["shift"], rows["shift_std"] = rng.normal(0, 10, (n, 2)), rng.uniform(1e-5, 1, (n, 2))
    rows["shift_corr"] = rng.uniform(-1, 1, n)
    rows["status"] = rng.choice([0, 256, 2048, LOW_NCC, 2, Status.OUTLIER | Status.REPAIRED], n)
    bad = (rows["status"] & 0xFF) != 0
    for name in ("shift", "shift_std", "shift_corr"):
        rows[name][bad] = np.nan
    return rows


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 30), seed=st.integers(0, 999))
def test_what_was_written_is_read_back_to_the_last_bit(
    n: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "shifts.csv"
    rows = random_rows(n, seed)
    write_shifts(path, rows, {"time": np.arange(n).astype("M8[s]"), "scan": np.arange(n) // 2})
    back = read_shifts(path, n, ["time", "scan"])
    assert back.rows.dtype == rows.dtype
    for name in rows.dtype.names or ():
        assert np.array_equal(back.rows[name], rows[name], equal_nan=True), name
    assert not back.excluded
    assert not back.given


def test_pandas_reads_the_file_as_it_stands(path: Path) -> None:
    rows = random_rows(12, 3)
    delays = np.linspace(-1.0, 5.0, 12)
    write_shifts(path, rows, {"delay": delays})
    table = pd.read_csv(path)
    assert table["frame"].tolist() == list(range(12))
    assert np.array_equal(table["shift_y"], rows["shift"][:, 0], equal_nan=True)
    assert np.array_equal(table["delay"], delays)


def test_a_frame_that_is_not_good_has_no_shift_in_the_file(path: Path) -> None:
    rows = empty_table(2, Status(0))
    rows["shift"], rows["status"][1] = 3.0, Status.AMBIGUOUS
    write_shifts(path, rows)
    assert path.read_text(encoding="utf-8").splitlines()[2] == "1,,,,,,ambiguous"


def test_words_numbers_and_empty_cells_are_understood(edited: Callable[..., Path]) -> None:
    found = read_shifts(edited(), 3).rows
    assert found["shift"].tolist()[::2] == [[1.5, -2.0], [0.25, 3.0]]
    assert np.isnan(found["shift"][1]).all()
    assert found["status"].tolist() == [0, Status.LOW_NCC | Status.STRUCK, Status.SATURATED]
    assert found["shift_std"][0] == pytest.approx([0.1, 0.2])
    assert np.isnan(found["ncc"]).all()


def test_a_frame_whose_shift_a_person_blanks_is_excluded(edited: Callable[..., Path]) -> None:
    found = read_shifts(edited(("2,0.25,3,0.1,0.2,-0.5,saturated", "2,,,0.1,0.2,,saturated")), 3)
    assert found.excluded == (2,)
    assert found.rows["status"][2] == Status.EXCLUDED | Status.NOT_CONVERGED | Status.SATURATED
    assert np.isnan(found.rows["shift_std"][2]).all()
    # Frame 1 has no shift for a reason of its own.
    assert found.rows["status"][1] == Status.LOW_NCC | Status.STRUCK


@pytest.mark.parametrize("word", ["low_ncc", "at_limit", "outlier|not_converged"])
def test_a_frame_to_which_a_person_gives_a_shift_is_repaired(
    word: str, edited: Callable[..., Path]
) -> None:
    found = read_shifts(edited(("1,,,,,,low_ncc", f"1,4,5,,,,{word}")), 3)
    assert found.given == (1,)
    assert found.rows["shift"][1].tolist() == [4.0, 5.0]
    outlier = Status.OUTLIER if "outlier" in word else Status(0)
    assert found.rows["status"][1] == Status.REPAIRED | Status.STRUCK | outlier


@pytest.mark.parametrize("word", ["unreadable", "blank", "pending", "excluded|not_converged"])
def test_a_frame_without_usable_pixels_is_not_given_a_shift(
    word: str, edited: Callable[..., Path]
) -> None:
    with pytest.raises(InputError, match="frame 1 with a shift, but a status"):
        read_shifts(edited(("1,,,,,,low_ncc", f"1,4,5,,,,{word}")), 3)


def test_three_columns_are_enough_in_any_order_of_rows(path: Path) -> None:
    # As spreadsheets write UTF-8, with spaces as people do.
    text = "\ufeffshift_x,frame,shift_y\n1, 2,3\n ,0, \n5,1,6\n"
    path.write_text(text, encoding="utf-8")
    found = read_shifts(path, 3)
    assert found.rows["shift"][1:].tolist() == [[6.0, 5.0], [3.0, 1.0]]
    assert found.excluded == (0,)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ([("\n2,0.25,3,0.1,0.2,-0.5,saturated", "")], "2 rows for 3 frames: frame 2 missing"),
        ([("\n2,", "\n1,")], "frame 1 twice there; frame 2 missing"),
        ([("\n2,", "\n7,")], "frame 7 not in the stack; frame 2 missing"),
        ([("\n2,", "\n-1,")], "frame -1 not in the stack"),
        ([("\n2,", "\ntwo,")], "line 4: 'two'"),
        ([("\n2,", "\n1.5,")], r"line 4: '1\.5'"),
        ([("\n2,", "\n,")], "line 4: ''"),
        ([("0.25,3", "a bit,3")], "column shift_y: these are no numbers: frame 2: 'a bit'"),
        ([("0.25,3", "0.25,inf")], "column shift_x: .*frame 2: 'inf'"),
        ([("0.25,3", "0.25,")], "frame 2 with half a shift"),
        ([("-2,0.1", "-2,-0.1")], "frame 0 with a negative error"),
        ([("saturated", "saturatd")], "words of the status: frame 2: 'saturatd'"),
        ([("shift_y", "dy")], "lacks shift_y and has columns that are not known: dy"),
        ([("status", "remark")], "not known: remark"),
        ([(",", ";")], "parted by semicolons"),
        ([("0,1.5,-2", "0,1,5,-2")], "cannot be read"),
        ([(THREE, "")], "cannot be read"),
        ([(THREE, f"{HEADER}\n")], "0 rows for 3 frames: frames 0, 1, 2 missing"),
        ([(",shift_x", ",shift_y")], "lacks shift_x"),
    ],
)
def test_what_is_wrong_is_said_with_the_rows(
    changes: list[tuple[str, str]], match: str, edited: Callable[..., Path]
) -> None:
    with pytest.raises(InputError, match=match) as caught:
        read_shifts(edited(*changes), 3)
    assert "shifts.csv" in caught.value.what
    assert caught.value.consequence == "No shift is applied."
    assert caught.value.cure


def test_all_rows_too_long_are_not_cut(path: Path) -> None:
    path.write_text("frame,shift_y,shift_x\n0,1,2,3\n1,1,2,3\n", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as most programs do
        with pytest.raises(InputError, match="cannot be read"):
            read_shifts(path, 2)


def test_a_row_too_short_is_one_with_empty_cells(path: Path) -> None:
    path.write_text("frame,shift_y,shift_x,status\n0,1,2\n1\n", encoding="utf-8")
    found = read_shifts(path, 2)
    assert found.rows["shift"][0].tolist() == [1.0, 2.0]
    assert found.excluded == (1,)


def test_many_wrong_rows_are_counted(path: Path) -> None:
    rows = "\n".join(f"{i},x,0" for i in range(20))
    path.write_text(f"frame,shift_y,shift_x\n{rows}\n", encoding="utf-8")
    with pytest.raises(InputError, match="and 15 more"):
        read_shifts(path, 20)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00bad"])
def test_a_file_that_cannot_be_read_is_an_error_of_the_input(
    content: bytes | None, path: Path
) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_shifts(path, 3)


@pytest.mark.parametrize("coords", [{"status": np.zeros(3)}, {"delay": np.zeros(4)}])
def test_coordinates_that_do_not_fit_are_refused_before_anything_is_written(
    coords: dict[str, NDArray[np.float64]], path: Path
) -> None:
    with pytest.raises(InputError, match="cannot stand beside"):
        write_shifts(path, empty_table(3, Status(0)), coords)
    assert not path.exists()
