"""Which frames a config leaves out: numbers, periods, values and conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillstack.config import ExcludeConfig, make_config
from stillstack.errors import InputError
from stillstack.exclusion import excluded, kept_numbers

N = 12
FRAME = np.arange(N)
COORDS: dict[str, NDArray[Any]] = {
    "time": np.datetime64("2026-01-31T12:00", "ns") + np.arange(N) * np.timedelta64(30, "s"),
    "delay": np.array([-1.0, -1, 0, 0, 2, 2, 5, 5, 9, 9, np.nan, 9]),
    "scan": np.repeat([1, 2, 3], 4),
    "file": np.array([f"{n:03d}.tif" for n in range(N)]),
    "pumped": np.arange(N) % 2 == 0,
    "beam current": np.linspace(0, 11, N),
}


def left_out(coords: dict[str, NDArray[Any]] | None = None, **rules: Any) -> list[int]:
    """Numbers of the frames that a config leaves out, by way of its sections."""
    settings = {"input": {"path": "/a"}, "output": {"path": "/b"}, "exclude": rules}
    config = make_config(settings).exclude
    return np.flatnonzero(excluded(config, COORDS if coords is None else coords, N)).tolist()


def refused(coords: dict[str, NDArray[Any]] | None = None, **rules: Any) -> str:
    with pytest.raises(InputError) as caught:
        left_out(coords, **rules)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("given_frames", "expected"),
    [
        ([3], [3]),
        (["3"], [3]),
        (["10-11"], [10, 11]),
        ([" 2 - 4 ", 3, 0], [0, 2, 3, 4]),
        (["9:"], [9, 10, 11]),
        (["1:10:4"], [1, 5, 9]),
        ([":2"], [0, 1]),
        (["-1:"], [11]),
        (["10:20"], [10, 11]),  # as in Python, a slice may reach over the end
        ([], []),
    ],
)
def test_frames_are_left_out_by_number(given_frames: list[Any], expected: list[int]) -> None:
    assert left_out(frames=given_frames) == expected


@given(st.integers(-15, 15), st.integers(-15, 15), st.integers(-3, 3))
def test_slices_mean_what_they_mean_in_python(start: int, stop: int, step: int) -> None:
    text = f"{start}:{stop}:{step}"
    if step == 0:
        assert "a step other than 0" in refused(frames=[text])
    elif not (wanted := sorted(range(N)[start:stop:step])):
        assert "of frames 0 to 11 that is no frame" in refused(frames=[text])
    elif len(wanted) < N:
        assert left_out(frames=[text]) == wanted


@pytest.mark.parametrize(
    ("given_frames", "words"),
    [
        ([12], "names frame 12, and the input has frames 0 to 11"),
        (["10-12"], "names frame 12, and the input has frames 0 to 11"),
        (["20:30"], "exclude.frames has 20:30, and of frames 0 to 11 that is no frame"),
        ([-1], "a frame number from 0 on"),
        (["7-5"], "from the first to the last frame, not 7 to 5"),
        (["first"], "a frame number, '10-20' (both ends) or a slice '10:20:2'"),
        ([2.5], "fractional"),
        ([True], "not true or false"),
        ("10-20", "should be a list"),
        (["0-11"], "leaves out all 12 frames"),
    ],
)
def test_frames_that_there_are_not_are_refused(given_frames: Any, words: str) -> None:
    assert words in refused(frames=given_frames)


# ------------------------------------------------------------------ times and values


def test_periods_include_both_ends() -> None:
    assert left_out(time=[["2026-01-31T12:01", "2026-01-31T12:02"]]) == [2, 3, 4]
    assert left_out(time=[["2026-01-31 12:05:10", "2026-02-01"]]) == [11]
    seconds = {"time": np.arange(N) * 0.5}
    assert left_out(seconds, time=[[1, 1.5], [5.5, 100]]) == [2, 3, 11]


def test_values_leave_out_the_frames_that_have_them() -> None:
    assert left_out(values={"scan": [2]}) == [4, 5, 6, 7]
    assert left_out(values={"scan": ["2"], "delay": [0]}) == [2, 3, 4, 5, 6, 7]
    assert left_out(values={"file": ["003.tif"]}) == [3]
    assert left_out(values={"pumped": [False]}) == [1, 3, 5, 7, 9, 11]
    assert left_out(values={"time": ["2026-01-31T12:00:30"]}) == [1]
    assert left_out({"label": np.array(["3", "4"] * 6)}, values={"label": [3]}) == list(
        range(0, N, 2)
    )


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"time": [["2027-01-01", "2027-01-02"]]}, "no frame was taken then: they are from 2026"),
        ({"time": [[0, 100]]}, "the coordinate time holds dates"),
        ({"time": [["noon", "one"]]}, "'noon', which is no time"),
        ({"time": [["2026-01-02", "2026-01-01"]]}, "from earlier to later"),
        ({"time": [["2026-01-02", 5]]}, "two numbers or two times"),
        (
            {"values": {"scan": [4]}},
            "exclude.values.scan has 4, which no frame has: there are 1, 2, 3",
        ),
        ({"values": {"scan": ["two"]}}, "which no frame has"),
        ({"values": {"dealy": [1]}}, "needs the coordinate dealy"),
        ({"values": {"file": ["x"]}}, "000.tif, 001.tif"),
    ],
)
def test_what_cannot_be_followed_to_the_letter_is_refused(rules: Any, words: str) -> None:
    assert words in refused(**rules)


def test_without_a_time_there_is_no_period() -> None:
    told = refused({"scan": COORDS["scan"]}, time=[[0, 1]])
    assert "needs the coordinate time, which the input does not have" in told
    assert "(scan)" in told
    assert "coordinate time holds numbers" in refused(
        {"time": np.arange(N)}, time=[["2026-01-01", "2026-01-02"]]
    )


# ------------------------------------------------------------------ conditions


@pytest.mark.parametrize(
    ("expression", "met"),
    [
        ("delay > 4 and scan < 3", (COORDS["delay"] > 4) & (COORDS["scan"] < 3)),
        ("delay > 4 & scan < 3 | frame == 0", np.isin(FRAME, [0, 6, 7])),
        ("not pumped", ~COORDS["pumped"]),
        ("`beam current` >= 2 * scan + 3", COORDS["beam current"] >= 2 * COORDS["scan"] + 3),
        ("file in ['001.tif', '007.tif']", np.isin(FRAME, [1, 7])),
        ("time > '2026-01-31T12:04'", FRAME > 8),
        ("delay != delay", FRAME == 10),
        ("2 <= frame < 5", (FRAME >= 2) & (FRAME < 5)),
        ("scan == 3\n  and frame > 9\n", FRAME > 9),
        ("delay > 100", FRAME < 0),
    ],
)
def test_conditions_are_those_of_numpy(expression: str, met: NDArray[np.bool_]) -> None:
    assert left_out(expression=expression) == np.flatnonzero(met).tolist()


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("deley > 3", "name 'deley' is not defined"),
        ("delay >", "invalid syntax"),
        ("delay + 1", "it is no condition: its value is of type float64"),
        ("1 < 2", "it is no condition"),
        ("delay.abs() > 1", "it has a call"),
        ("__import__('os').getcwd() == '/'", "it has a call"),
        ("scan.values > 1", "it has a attribute"),
        ("@delay > 1", "invalid syntax"),
        ("delay = 3", "invalid syntax"),
        ("file > 3", "not supported"),
        ("time > 2026", "time holds dates, and 2026 is a number"),
        ("frame >= 0", "leaves out all 12 frames"),
    ],
)
def test_what_is_no_condition_is_refused(expression: str, words: str) -> None:
    told = refused(expression=expression)
    assert words in told
    if "all 12" not in words:
        assert "beam current, delay, file, frame, pumped, scan, time" in told


def test_a_condition_sees_nothing_but_coordinates() -> None:
    local_secret = 5  # noqa: F841  # what pandas would look for in its caller
    assert "not defined" in refused(expression="frame > local_secret")


def test_rules_add_up() -> None:
    assert left_out(frames=[0], values={"scan": [3]}, expression="frame == 5") == [
        0,
        5,
        8,
        9,
        10,
        11,
    ]


def test_nothing_is_left_out_unless_asked_for() -> None:
    assert not excluded(ExcludeConfig(), {}, N).any()


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.data())
def test_kept_numbers_are_the_others(flags: list[bool], data: st.DataObject) -> None:
    stop = data.draw(st.integers(0, len(flags)))
    kept = kept_numbers(np.array(flags), 0, stop).tolist()
    assert kept == [n for n in range(stop) if not flags[n]]
    assert kept_numbers(None, 0, stop).tolist() == list(range(stop))
