"""Runs whose processes are killed or told to stop: the same command finishes, the same store."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stillstack import execute
from stillstack.cluster import settings
from stillstack.execute import SET_ASIDE_NOTE, Progress
from stillstack.flight import Limits
from stillstack.model import Status
from stillstack.run import run
from stillstack.sources import open_source
from stillstack.storage import RunStore
from stores import stored

planning = importlib.import_module("stillstack.plan")  # stillstack.plan is the function

N_BLOCKS = 15
SCRIPT = """
import sys
from stillstack.errors import StillstackError
from stillstack.run import run

if __name__ == "__main__":
    try:
        run(sys.argv[1])
    except StillstackError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
"""


@dataclass
class Command:
    """A run in a process group of its own."""

    config: dict[str, Any]
    folder: Path

    def __post_init__(self) -> None:
        self.path = Path(self.config["output"]["path"])
        self.ledger = self.path / "run" / "ledger-align.jsonl"
        self.file = self.folder / "run.yaml"
        self.file.write_text(yaml.safe_dump(json.loads(json.dumps(self.config))))
        self.script = self.folder / "main.py"
        self.script.write_text(SCRIPT)
        self.groups: list[int] = []

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(self.script), str(self.file)],
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.groups.append(process.pid)
        return process

    def finish(self) -> None:
        process = self.start()
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors

    def done(self) -> list[int]:
        """Blocks in the ledger, in the order in which they were finished."""
        if not self.ledger.exists():
            return []
        lines = self.ledger.read_text().splitlines()
        return [json.loads(line)["record"]["block"] for line in lines if line.endswith("}")]

    def wait_for_blocks(self, count: int, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 60
        while len(self.done()) < count:
            assert process.poll() is None, "the run ended before it could be disturbed"
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def clean_up(self) -> None:
        for group in self.groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
def command(small_config: Any, tmp_path: Path) -> Iterator[Command]:
    small_config["output"]["path"] = str(tmp_path / "disturbed.zarr")
    command = Command(small_config, tmp_path)
    yield command
    command.clean_up()


@pytest.fixture(scope="module")
def undisturbed(
    small_stack_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Store of each config that was run without disturbance; filled when first asked for."""
    del small_stack_file
    return {}


def expected(small_config: Any, tmp_path: Path, undisturbed: dict[str, Any]) -> dict[str, Any]:
    """Store of an undisturbed run of the same config."""
    config = {**small_config, "output": {**small_config["output"], "path": ""}}
    key = json.dumps(config)
    if key not in undisturbed:
        config["output"]["path"] = str(tmp_path / "undisturbed.zarr")
        run(config)
        undisturbed[key] = stored(config["output"]["path"])
    found: dict[str, Any] = undisturbed[key]
    return found


def test_a_killed_client_is_replaced_by_the_same_command(
    command: Command, small_config: Any, tmp_path: Path, undisturbed: Any
) -> None:
    process = command.start()
    command.wait_for_blocks(3, process)
    process.kill()
    process.communicate()
    done = command.done()
    assert 3 <= len(done) < N_BLOCKS

    command.finish()

    assert sorted(command.done()) == list(range(N_BLOCKS))  # each once: none was done again
    assert command.done()[: len(done)] == done
    assert stored(command.path) == expected(small_config, tmp_path, undisturbed)


def test_everything_killed_at_once_is_finished_by_the_same_command(
    command: Command, small_config: Any, tmp_path: Path, undisturbed: Any
) -> None:
    for blocks in (1, 6):
        process = command.start()
        command.wait_for_blocks(blocks, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    command.finish()
    assert sorted(command.done()) == list(range(N_BLOCKS))
    assert stored(command.path) == expected(small_config, tmp_path, undisturbed)


def test_a_client_killed_before_the_first_block_leaves_nothing_in_the_way(
    command: Command, small_config: Any, tmp_path: Path, undisturbed: Any
) -> None:
    process = command.start()
    while not (command.path / "run").exists():
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    command.finish()
    assert stored(command.path) == expected(small_config, tmp_path, undisturbed)


def test_a_killed_run_that_corrects_and_leaves_out_frames_is_finished_the_same(
    small_config: Any, tmp_path: Path
) -> None:
    np.save(tmp_path / "dark.npy", np.random.default_rng(3).poisson(2, (128, 128)))
    small_config["correction"] = {"dark": str(tmp_path / "dark.npy"), "defects": [[5, 9]]}
    small_config["exclude"] = {"frames": ["1:60:5", "12-23"]}
    undisturbed = {**small_config["output"], "path": str(tmp_path / "undisturbed.zarr")}
    run({**small_config, "output": undisturbed})
    command = Command(small_config, tmp_path)
    try:
        for blocks in (1, 6):
            process = command.start()
            command.wait_for_blocks(blocks, process)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        assert len(command.done()) < N_BLOCKS
        command.finish()
    finally:
        command.clean_up()
    assert sorted(command.done()) == list(range(N_BLOCKS))
    assert stored(command.path) == stored(undisturbed["path"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_ends_at_a_block_and_resumes(
    command: Command,
    small_config: Any,
    tmp_path: Path,
    undisturbed: Any,
    number: signal.Signals,
) -> None:
    process = command.start()
    command.wait_for_blocks(2, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: the workers get it as well
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "The same command finishes the run." in errors
    assert "Traceback" not in errors
    stopped_at = len(command.done())
    assert stopped_at < N_BLOCKS

    command.finish()
    assert sorted(command.done()) == list(range(N_BLOCKS))
    assert stored(command.path) == expected(small_config, tmp_path, undisturbed)


def test_a_killed_worker_is_replaced_and_the_run_goes_on(
    small_config: Any, tmp_path: Path, undisturbed: Any
) -> None:
    small_config["output"]["path"] = str(tmp_path / "disturbed.zarr")
    killed: list[int] = []

    def kill(event: Progress) -> None:
        if event.blocks_done in (2, 6):
            store = RunStore.view(small_config["output"]["path"])
            records = store.done_blocks("align").values()
            worker = max(records, key=lambda record: record.finished).worker
            killed.append(int(worker.split(":")[1]))
            os.kill(killed[-1], signal.SIGKILL)

    run(small_config, progress=kill)
    assert len(set(killed)) == 2
    records = RunStore.view(small_config["output"]["path"]).done_blocks("align")
    assert {record.worker.split(":")[1] for record in records.values()} > set(map(str, killed))
    found = stored(small_config["output"]["path"])
    assert found == expected(small_config, tmp_path, undisturbed)


@dataclass(frozen=True)
class DeadlySource:
    """Frames of another source, one of which kills the worker that reads it."""

    inner: Any
    coordinator: int
    deadly: int

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "narrow":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def read(self, start: int, stop: int) -> Any:
        if start <= self.deadly < stop and os.getpid() != self.coordinator:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.read(start, stop)


def test_a_frame_that_kills_workers_is_found_and_set_aside(
    small_config: Any, small_stack_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DeadlySource(open_source(str(small_stack_file)), os.getpid(), deadly=17)
    monkeypatch.setattr(planning, "open_source", lambda *_, **__: source)
    monkeypatch.setattr(execute, "Limits", partial(Limits, attempts=1))
    impatient = {**settings.SETTINGS, "distributed.scheduler.allowed-failures": 0}
    monkeypatch.setattr(settings, "SETTINGS", impatient)
    result = run(small_config)
    status = result.status.values
    assert np.flatnonzero(status & Status.UNREADABLE).tolist() == [17]
    assert not (status & Status.PENDING).any()
    reasons = RunStore.view(small_config["output"]["path"]).read_note(SET_ASIDE_NOTE)
    assert list(reasons) == ["17"]
    assert "died" in reasons["17"]


@dataclass(frozen=True)
class StickySource:
    """Frames of another source; the reading of one hangs, once for each file in a folder."""

    inner: Any
    coordinator: int
    sticky: int
    hangs: Path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "narrow":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def read(self, start: int, stop: int) -> Any:
        if start <= self.sticky < stop and os.getpid() != self.coordinator:
            hang = next(iter(sorted(self.hangs.iterdir())), None)
            if hang is not None:
                hang.unlink()
                time.sleep(1000)
        return self.inner.read(start, stop)


@pytest.fixture
def sticky(
    small_stack_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], None]:
    """Makes a worker hang on frame 17 of the next run, so many times."""

    def use(n_hangs: int) -> None:
        hangs = tmp_path / "hangs"
        hangs.mkdir()
        for number in range(n_hangs):
            (hangs / f"{number:03d}").touch()
        source = StickySource(open_source(str(small_stack_file)), os.getpid(), 17, hangs)
        monkeypatch.setattr(planning, "open_source", lambda *_, **__: source)
        patience = partial(Limits, attempts=2, hang_factor=3.0, least_hang_seconds=6.0)
        monkeypatch.setattr(execute, "Limits", patience)

    return use


def test_a_worker_that_hangs_is_restarted_and_the_run_finishes(
    sticky: Callable[[int], None],
    small_config: Any,
    tmp_path: Path,
    undisturbed: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sticky(1)
    run(small_config)
    assert not list((tmp_path / "hangs").iterdir())  # a worker did hang
    found = stored(small_config["output"]["path"])
    monkeypatch.undo()
    assert found == expected(small_config, tmp_path, undisturbed)


def test_a_worker_that_is_given_up_before_it_is_back_is_replaced(
    sticky: Callable[[int], None],
    small_config: Any,
    tmp_path: Path,
    undisturbed: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # no Python has imported a worker's packages after so little time, however quiet the machine
    hasty = {**settings.SETTINGS, "distributed.deploy.lost-worker-timeout": "100ms"}
    monkeypatch.setattr(settings, "SETTINGS", hasty)
    sticky(1)
    run(small_config)
    assert not list((tmp_path / "hangs").iterdir())
    found = stored(small_config["output"]["path"])
    monkeypatch.undo()
    assert found == expected(small_config, tmp_path, undisturbed)


@pytest.mark.timeout(900)  # many workers have to be waited for, and on a busy machine for long
def test_a_frame_on_which_every_worker_hangs_is_set_aside(
    sticky: Callable[[int], None], small_config: Any
) -> None:
    sticky(100)
    result = run(small_config)
    status = result.status.values
    assert np.flatnonzero(status & Status.UNREADABLE).tolist() == [17]
    assert not (status & Status.PENDING).any()
    reasons = RunStore.view(small_config["output"]["path"]).read_note(SET_ASIDE_NOTE)
    assert "no worker finished it" in reasons["17"]


def test_a_stopped_worker_is_replaced(
    small_config: Any, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a process that stands still takes its block along for ever
    patience = partial(Limits, hang_factor=3.0, least_hang_seconds=4.0)
    monkeypatch.setattr(execute, "Limits", patience)
    small_config["output"]["path"] = str(tmp_path / "disturbed.zarr")
    stopped: list[int] = []

    def stop(event: Progress) -> None:
        if event.blocks_done == 3 and not stopped:
            store = RunStore.view(small_config["output"]["path"])
            (record, *_) = store.done_blocks("align").values()
            stopped.append(int(record.worker.split(":")[1]))
            os.kill(stopped[0], signal.SIGSTOP)

    run(small_config, progress=stop)
    assert stopped
    found = stored(small_config["output"]["path"])
    assert found == expected(small_config, tmp_path, undisturbed)
