"""The command line: what it prints and where, its exit codes, Ctrl-C and going on."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr
import yaml
from typer.testing import CliRunner, Result

from stillstack.cli import app
from stillstack.storage import digest_store

COMMANDS = (
    *("simulate", "ingest", "plan", "doctor", "assess", "run", "report", "demo"),
    *("status", "info", "verify", "shifts", "reduce", "explore"),
)
PNG = b"\x89PNG\r\n"


def stillstack(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def started(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "stillstack", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated stack on the disk, with its config beside it; to be left as it is."""
    path = tmp_path_factory.mktemp("frames") / "frames.zarr"
    result = stillstack("simulate", path, "--frames", 40, "--shape", "128x96", "--drift", 4)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def config(frames: Path, tmp_path: Path) -> Path:
    """A config of the simulated stack that writes into this test's folder."""
    settings = yaml.safe_load(frames.with_suffix(".yaml").read_text())
    settings["input"]["path"] = str(frames)
    settings["output"] = {"path": "aligned.zarr", "durable": False}
    settings["registration"]["max_shift_px"] = 16
    return written(tmp_path / "run.yaml", settings)


def written(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def changed(config: Path, **sections: Any) -> Path:
    settings = yaml.safe_load(config.read_text())
    return written(config, {**settings, **sections})


# ------------------------------------------------------------------- in general


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = stillstack(command, "--help")
    assert result.exit_code == 0
    assert f"Example: stillstack {command}" in result.stdout


def test_help_names_every_command_and_exit_code() -> None:
    result = stillstack("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)
    assert "130" in result.stdout


def test_the_versions_that_matter_are_shown_the_program_s_own_first() -> None:
    lines = stillstack("--version").stdout.splitlines()
    assert re.fullmatch(r"stillstack \d+\.\d+\.\d+\S*", lines[0])
    assert f"numpy {np.__version__}" in lines
    assert f"xarray {xr.__version__}" in lines
    assert lines[-1] == f"python {platform.python_version()}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete_the_command(shell: str) -> None:
    asked = {**os.environ, "_STILLSTACK_COMPLETE": f"source_{shell}"}
    script = [sys.executable, "-m", "stillstack"]
    answer = subprocess.run(script, env=asked, capture_output=True, text=True, check=True)
    assert "_STILLSTACK_COMPLETE=complete_" in answer.stdout
    assert "python" not in answer.stdout


def test_bash_completes_commands_and_options() -> None:
    def completed(words: str) -> list[str]:
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        asked |= {**os.environ, "_STILLSTACK_COMPLETE": "complete_bash"}
        script = [sys.executable, "-m", "stillstack"]
        answer = subprocess.run(script, env=asked, capture_output=True, text=True, check=True)
        return answer.stdout.split()

    assert completed("stillstack sta") == ["status"]
    assert completed("stillstack run --perf") == ["--performance-report"]


def test_installing_the_completion_writes_what_the_shell_reads(tmp_path: Path) -> None:
    # the shell is named, because the process that runs the tests need not be one
    home = {
        **os.environ,
        "HOME": str(tmp_path),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    script = [sys.executable, "-m", "stillstack", "--install-completion", "bash"]
    subprocess.run(script, env=home, capture_output=True, check=True)
    installed = tmp_path / ".bash_completions" / "stillstack.sh"
    assert "complete_bash" in installed.read_text()
    assert str(installed) in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize("arguments", [("plan",), ("run", "a", "b"), ("fly",), ("run", "--fast")])
def test_wrong_usage_exits_with_2(arguments: Sequence[str]) -> None:
    assert stillstack(*arguments).exit_code == 2


def test_help_does_not_wait_for_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from stillstack.cli import app\n"
        "assert CliRunner().invoke(app, ['run', '--help']).exit_code == 0\n"
        "print({'numpy', 'dask', 'xarray', 'zarr', 'numba', 'matplotlib'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "set()\n"


def test_an_unforeseen_error_is_one_paragraph_and_names_debug(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("stillstack.config.load_config", broken)
    result = stillstack("run", config)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "ZeroDivisionError: division by zero. " in result.stderr
    assert "--debug" in result.stderr
    traced = stillstack("run", config, "--debug")
    assert isinstance(traced.exception, ZeroDivisionError)


def test_ctrl_c_before_anything_is_written_is_told_kindly(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stillstack.config.load_config", interrupted)
    result = stillstack("run", config)
    assert result.exit_code == 130
    assert "The same command" in result.stderr


# ------------------------------------------------------------- simulate, ingest


def test_simulate_writes_a_stack_and_a_config_and_says_what_is_next(
    frames: Path, tmp_path: Path
) -> None:
    with xr.open_zarr(frames) as stack:
        assert stack["frames"].shape == (40, 128, 96)
        assert np.ptp(stack["true_shift_y"].values[stack["planted"].values == ""]) < 8
    again = stillstack("simulate", frames, "--frames", 40, "--shape", "128x96", "--drift", 4)
    assert again.exit_code == 0
    assert "next: stillstack run" in again.stdout
    other = stillstack("simulate", frames, "--frames", 41, "--shape", "128x96")
    assert other.exit_code == 2
    assert "belongs to something else" in other.stderr
    assert stillstack("simulate", tmp_path / "a.zarr", "--shape", "12by12").exit_code == 2
    assert stillstack("simulate", tmp_path / "a.zarr", "--frames", 0).exit_code == 2
    assert not (tmp_path / "a.zarr").exists()


def test_simulate_leaves_a_config_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("mine")
    arguments = ("--frames", 2, "--shape", "32", "--no-planted")
    assert stillstack("simulate", tmp_path / "a.zarr", *arguments).exit_code == 0
    assert (tmp_path / "a.yaml").read_text() == "mine"


def test_ingest_copies_a_pattern_of_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 99, (12, 20, 30)).astype(np.uint16)
    for number, image in enumerate(images):
        tifffile.imwrite(tmp_path / f"scan{number}_t{number / 2}.tif", image)
    result = stillstack(
        "ingest", tmp_path / "*.tif", tmp_path / "a.zarr", "--pattern", "scan{scan:d}_t{t:f}.tif"
    )
    assert result.exit_code == 0, result.stderr
    assert "12 of 20 x 30 pixels, uint16" in result.stdout
    with xr.open_zarr(tmp_path / "a.zarr") as stack:
        np.testing.assert_array_equal(stack["frames"], images)
        np.testing.assert_array_equal(stack["t"], np.arange(12) / 2)


def test_ingest_sets_unreadable_frames_aside_and_exits_with_3(tmp_path: Path) -> None:
    for number in range(6):
        tifffile.imwrite(tmp_path / f"f{number}.tif", np.full((20, 30), number, np.uint16))
    whole = (tmp_path / "f4.tif").read_bytes()
    (tmp_path / "f4.tif").write_bytes(whole[: len(whole) // 2])
    result = stillstack("ingest", tmp_path / "*.tif", tmp_path / "a.zarr")
    assert result.exit_code == 3, result.stderr
    assert "Frame 4 was set aside" in result.stderr
    assert "f4.tif" in result.stderr
    with xr.open_zarr(tmp_path / "a.zarr") as stack:
        assert stack["frames"][5, 0, 0] == 5


def test_ingest_of_nothing_is_refused(tmp_path: Path) -> None:
    result = stillstack("ingest", tmp_path / "nothing.zarr", tmp_path / "a.zarr")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert not (tmp_path / "a.zarr").exists()


# -------------------------------------------------------------------------- plan


def test_plan_says_what_a_run_will_take_and_writes_nothing_but_a_picture(config: Path) -> None:
    result = stillstack("plan", config)
    assert result.exit_code == 0, result.stderr
    for word in ("frames", "chunks", "blocks", "memory", "per task", "output", "valid", "to start"):
        assert word in result.stdout
    picture = config.with_suffix(".plan.png")
    assert picture.read_bytes().startswith(PNG)
    assert sorted(file.name for file in config.parent.iterdir()) == ["run.plan.png", "run.yaml"]


def test_plan_as_json_is_nothing_but_json_on_stdout(config: Path, tmp_path: Path) -> None:
    result = stillstack(
        "plan", config, "--no-calibrate", "--json", "--picture", tmp_path / "seen.png"
    )
    plan = json.loads(result.stdout)
    assert plan["input"]["frames"] == 40
    assert plan["picture"] == str(tmp_path / "seen.png")
    assert plan["beam_block_yaml"] is None
    assert (tmp_path / "seen.png").read_bytes().startswith(PNG)


def test_plan_proposes_a_beam_block_that_applies_once_it_is_copied(
    tmp_path: Path, config: Path
) -> None:
    big = tmp_path / "big.zarr"
    stillstack("simulate", big, "--frames", 12, "--shape", "256", "--no-planted")
    settings = {"input": {"path": str(big)}, "output": {"path": "aligned.zarr"}}
    config = written(tmp_path / "run.yaml", settings)
    result = stillstack("plan", config, "--no-calibrate")
    assert "looks like a beam-block" in result.stderr
    as_json = stillstack("plan", config, "--no-calibrate", "--json").stdout
    proposed = json.loads(as_json)["beam_block_yaml"]
    assert proposed in result.stdout
    config.write_text(config.read_text() + proposed)
    again = stillstack("plan", config, "--no-calibrate")
    assert again.exit_code == 0, again.stderr
    assert "looks like a beam-block" not in again.stderr
    valid = re.search(r"valid\s+([\d.]+)%", again.stdout)
    assert valid is not None
    assert 90 < float(valid[1]) < 99


def test_plan_takes_settings_from_the_command_line(config: Path) -> None:
    result = stillstack(
        "plan", config, "--no-calibrate", "--set", "output.block_frames=5", "--json"
    )
    assert json.loads(result.stdout)["blocks"]["block_frames"] == 5
    wrong = stillstack("plan", config, "--set", "output.blok_frames=5")
    assert wrong.exit_code == 2
    assert "block_frames" in wrong.stderr


def test_plan_says_what_a_larger_run_would_need(config: Path) -> None:
    asked = ("plan", config, "--no-calibrate", "--set", "output.shards=auto")
    found = json.loads(stillstack(*asked, "--frames", 1_000_000, "--json").stdout)["scale"]
    assert found["frames"] == 1_000_000
    assert found["sharded"]
    assert found["objects"] < 100_000
    assert found["blocks"] == -(-1_000_000 // found["block_frames"])
    told = stillstack(*asked, "--bytes", "10TB")
    assert "raw frames" in told.stdout
    assert "10 TB" in told.stdout
    wrong = stillstack(*asked, "--bytes", "heaps")
    assert wrong.exit_code == 2
    assert "heaps is not a size" in wrong.stderr


def test_plan_tells_all_that_is_wrong_and_exits_with_2(config: Path) -> None:
    changed(config, registration={"max_shift_px": 4000})
    (config.parent / "aligned.zarr").mkdir()
    (config.parent / "aligned.zarr" / "thesis.tex").write_text("years of work")
    result = stillstack("plan", config)
    assert result.exit_code == 2
    assert "max_shift_px" in result.stderr
    assert "was not made by stillstack" in result.stderr


# --------------------------------------------------------------------------- run


def test_run_makes_a_run_and_a_report_and_a_summary(config: Path, cluster_client: Any) -> None:
    result = stillstack("run", config)
    assert result.exit_code == 0, result.stderr
    aligned, page = config.parent / "aligned.zarr", config.parent / "aligned.html"
    assert "36 good, 4 not" in result.stdout
    assert str(aligned) in result.stdout
    assert str(page) in result.stdout
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert "40 of 40 frames" in result.stderr
    assert re.search(r"^Dashboard: http://127\.0\.0\.1:\d+/status", result.stderr, re.MULTILINE)
    digest = digest_store(aligned)

    again = stillstack("run", config, "--json", "--no-report")
    assert again.exit_code == 0
    summary = json.loads(again.stdout)
    assert (summary["frames"], summary["good"], summary["rejected"]) == (40, 36, 4)
    assert summary["output"] == str(aligned)
    assert summary["report"] is None
    assert digest_store(aligned) == digest

    other = stillstack("run", config, "--set", "registration.max_shift_px=15")
    assert other.exit_code == 2
    assert "max_shift_px: 16 there, 15 now" in other.stderr
    assert digest_store(aligned) == digest

    assert stillstack("report", aligned, "--out", config.parent / "p.html").stdout.strip() == str(
        config.parent / "p.html"
    )


def test_run_without_unreadable_frames_goes_on_and_exits_with_3(
    tmp_path: Path, frames: Path, config: Path, cluster_client: Any
) -> None:
    with xr.open_zarr(frames) as stack:
        for number, image in enumerate(stack["frames"].values[:12]):
            tifffile.imwrite(tmp_path / f"f{number:02d}.tif", image)
    whole = (tmp_path / "f04.tif").read_bytes()
    (tmp_path / "f04.tif").write_bytes(whole[: len(whole) // 2])
    changed(config, input={"path": str(tmp_path / "f*.tif")})
    result = stillstack("run", config)
    assert result.exit_code == 3, result.stderr
    assert "1 frames could not be read and were set aside" in result.stderr
    assert "f04.tif" in (tmp_path / "aligned.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"registraton": {"max_shift_px": 3}}, "registration"),
        ({"input": {"path": "nothing.zarr"}}, "nothing.zarr"),
        ({"registration": {"max_shift_px": 200}}, "max_shift_px is 200"),
        ({"valid": {"frames": {"below": 1e9}}}, "valid"),
        ({"reference": {"kind": "index", "index": 400}}, "400"),
    ],
)
def test_run_refuses_what_cannot_work_before_it_writes_anything(
    config: Path, sections: dict[str, Any], said: str
) -> None:
    result = stillstack("run", changed(config, **sections))
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert [file.name for file in config.parent.iterdir()] == ["run.yaml"]


def test_report_of_what_is_not_a_run_is_refused(frames: Path) -> None:
    result = stillstack("report", frames)
    assert result.exit_code == 2
    assert "is not a run of stillstack" in result.stderr


# --------------------------------------------------------------- real processes


def wait_until(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    for _ in range(int(seconds / 0.02)):
        if happened():
            return
        time.sleep(0.02)
    pytest.fail(f"nothing happened within {seconds} s")


def test_a_run_stopped_by_ctrl_c_is_finished_by_the_same_command(
    config: Path, tmp_path: Path
) -> None:
    settings = ("--set", "output.block_frames=1", "--set", "cluster.workers=1", "--no-report")
    process = started("run", config, *settings, cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "registering" in line:
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Stopped: " in stderr
    assert "The same command finishes the run." in stderr
    assert "Traceback" not in stderr

    finished = started("run", config, *settings, cwd=tmp_path)
    stdout, stderr = finished.communicate(timeout=120)
    assert finished.returncode == 0, stderr
    assert "36 good, 4 not" in stdout


def test_a_simulation_stopped_by_sigterm_is_finished_by_the_same_command(tmp_path: Path) -> None:
    arguments = ("simulate", "a.zarr", "--frames", 600, "--shape", "256")
    process = started(*arguments, cwd=tmp_path)
    assert process.stderr is not None
    assert "simulating: 600 frames" in process.stderr.readline()
    wait_until(lambda: any(f.stat().st_size for f in tmp_path.glob("a.zarr/run/ledger*")))
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    finished = started(*arguments, cwd=tmp_path)
    stdout, stderr = finished.communicate(timeout=120)
    assert finished.returncode == 0, stderr
    assert "frames were done before" in stderr
    assert "600 of 256 x 256 pixels" in stdout


def test_exploring_what_is_neither_a_run_nor_a_config_is_refused(
    config: Path, tmp_path: Path
) -> None:
    for path, told in ((tmp_path / "none.zarr", "does not exist"), (tmp_path, "not a run")):
        result = stillstack("explore", path)
        assert result.exit_code == 2
        assert told in result.stderr
    config.write_text("input: {path: frames.npy}\n", encoding="utf-8")
    result = stillstack("explore", config)
    assert result.exit_code == 2
    assert "'output' is missing" in result.stderr


def test_exploring_without_panel_says_how_to_install_it(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "panel", None)
    result = stillstack("explore", config)
    assert result.exit_code == 2
    assert "pip install 'stillstack[explore]'" in result.stderr
