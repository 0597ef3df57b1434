"""The demo: what it writes, what it holds against the truth, and when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from stillstack.demo import ALIGNED, DemoSize, claim_folder, compare_with_truth, run_demo
from stillstack.errors import InputError
from stillstack.model import Status
from stillstack.simulation import SimulatedStack
from stillstack.storage import digest_store

SMALL = DemoSize(n_frames=60, height=160, width=160)


def perfect_result(stack: SimulatedStack, *, seed: int = 0) -> xr.Dataset:
    """What a run that knows the truth would give: calibrated error bars and its own origin."""
    rng = np.random.default_rng(seed)
    status = np.zeros(len(stack), np.uint16)
    status[list(stack.rejects)] = Status.LOW_NCC
    std = np.full((len(stack), 2), 0.02)
    shift = stack.shift + np.array([3.5, -1.25]) + rng.normal(0, std)
    shift[list(stack.rejects)] = np.nan
    return xr.Dataset(
        {
            "shift": (("frame", "axis"), shift),
            "shift_std": (("frame", "axis"), std.astype(np.float32)),
            "status": (("frame",), status),
        }
    )


def test_a_right_answer_has_no_faults_wherever_its_origin_is(tmp_path: Path) -> None:
    stack = SMALL.simulated()
    result = compare_with_truth(perfect_result(stack), stack, tmp_path, 4.0)
    assert result.faults == []
    assert result.rms_px == pytest.approx(0.02, rel=0.2)
    assert result.predicted_px == pytest.approx(0.02)
    assert result.n_good == 60 - len(stack.rejects)


def test_each_fault_is_named(tmp_path: Path) -> None:
    stack = SMALL.simulated()
    run = perfect_result(stack)
    jumped, ordinary = stack.planted["jumped"][0], 0
    run["status"][jumped] = 0
    run["status"][ordinary] = Status.AMBIGUOUS
    run["shift_std"] = run["shift_std"] / 2
    result = compare_with_truth(run, stack, tmp_path, 4.0)
    assert result.missed == {jumped: "jumped"}
    assert result.wronged == (ordinary,)
    assert len(result.faults) == 3
    assert "planted as jumped" in result.faults[0]
    assert "of the predicted one" in result.faults[2]


def test_struck_frames_must_not_be_rejected(tmp_path: Path) -> None:
    stack = SMALL.simulated()
    run = perfect_result(stack)
    struck = stack.planted["struck"][0]
    run["status"][struck] = Status.STRUCK
    assert compare_with_truth(run, stack, tmp_path, 4.0).faults == []
    run["status"][struck] = Status.STRUCK | Status.LOW_NCC
    assert compare_with_truth(run, stack, tmp_path, 4.0).wronged == (struck,)


def test_a_result_without_good_frames_is_a_fault(tmp_path: Path) -> None:
    stack = SMALL.simulated()
    run = perfect_result(stack)
    run["status"][:] = Status.BLANK
    result = compare_with_truth(run, stack, tmp_path, 4.0)
    assert len(result.faults) == len(result.wronged) + 1


def test_a_folder_that_is_not_a_demo_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="was not made by stillstack demo"):
        run_demo(tmp_path, SMALL)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="was not made by stillstack demo"):
        claim_folder(tmp_path / "thesis.tex", SMALL)


def test_a_demo_of_another_size_is_refused(tmp_path: Path) -> None:
    claim_folder(tmp_path / "d", SMALL)
    claim_folder(tmp_path / "d", SMALL)
    with pytest.raises(InputError, match="demo of another kind"):
        claim_folder(tmp_path / "d", DemoSize())


def test_a_demo_registers_what_it_simulates_and_can_be_repeated(
    tmp_path: Path, cluster_client: Any
) -> None:
    steps: list[str] = []
    result = run_demo(tmp_path / "d", SMALL, say=steps.append)
    assert result.missed == {}
    assert result.wronged == ()
    assert 0.7 < result.ratio < 1.4
    assert len(steps) == 2
    digest = digest_store(tmp_path / "d" / ALIGNED)
    again = run_demo(tmp_path / "d", SMALL)
    assert (again.rms_px, again.faults) == (result.rms_px, result.faults)
    assert digest_store(tmp_path / "d" / ALIGNED) == digest


@pytest.mark.slow
def test_the_whole_demo_succeeds_from_the_command_line(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "stillstack", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "numba")},
    )
    assert answer.returncode == 0, answer.stderr
    assert "every planted bad frame was rejected, and no good one" in answer.stdout
    assert (tmp_path / "stillstack-demo" / "aligned.html").is_file()
