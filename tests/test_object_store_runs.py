"""The main job with its input and its output in an object store, and what may disturb it."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from conftest import store_environment
from object_servers import (
    DENIED,
    KEY_ID,
    SECRET,
    Bucket,
    Fault,
    Front,
    Request,
    make_bucket,
    sometimes,
)
from stillstack.address import Address, located
from stillstack.cli import app
from stillstack.errors import AccessError, InputError
from stillstack.execute import Progress
from stillstack.explore.opened import frames_of_run
from stillstack.ingest import StackOptions, ingest
from stillstack.model import Status, is_good
from stillstack.prepare import job_for
from stillstack.run import open_run, run
from stillstack.simulation import SimulatedStack, beam_block_figure
from stillstack.sources import open_source
from stillstack.storage import RunStore, lock_run
from stillstack.storage.places import objects_at
from stillstack.storage.remote import RemoteObjects
from stillstack.verification import verify_store
from workers import worker_processes

N_BLOCKS = 15
INPUT = "frames-of-all-tests"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two worker processes with the credentials in their environment."""
    with (
        store_environment(tmp_path_factory.mktemp("none")),
        worker_processes(2) as started,
    ):
        yield started


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    from distributed import Client

    with Client(cluster, set_as_default=True) as connected:  # type: ignore[no-untyped-call]
        connected.wait_for_workers(2)
        yield connected


@pytest.fixture(scope="module")
def frames_in_store(
    object_server: str, small_stack_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """URL of the small stack as Zarr in the store."""
    with store_environment(tmp_path_factory.mktemp("none")):
        make_bucket(object_server, INPUT)
        front = Front(object_server)
        options = {"endpoint": front.endpoint, "region": "us-east-1"}
        url = f"s3://{INPUT}/small.zarr"
        written = ingest(open_source(small_stack_file), located(url, options), StackOptions(2))
        assert str(written.path) == url
        front.close()
    return url


@pytest.fixture
def config(bucket: Bucket, frames_in_store: str, small_stack: SimulatedStack) -> dict[str, Any]:
    """Sections of a config from store to store, through the test's own front."""
    block = beam_block_figure(small_stack.scene.shape, margin_px=3.0)
    return {
        "input": {"path": frames_in_store, "options": bucket.options},
        "output": {"path": bucket.place("out.zarr").url, "options": bucket.options,
                   "block_frames": 4},
        "valid": {"frames": {"exclude": [{"rectangle": block.rod}, {"circle": block.disc}]}},
        "registration": {"max_shift_px": 16},
        "cluster": {"workers": 1},
    }  # fmt: skip


def stored(place: str | Path | Address) -> dict[str, Any]:
    """Everything in a store that has to be the same, however it came about."""
    objects = objects_at(located(place))
    keys = [key for key in objects.keys() if not key.startswith("run/")]  # noqa: SIM118
    found: dict[str, Any] = {key: objects.read(key) for key in keys}
    found["zarr.json"] = json.loads(found["zarr.json"])
    members = found["zarr.json"].get("consolidated_metadata") or {}
    return {**found, "members": members}


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """The store of the local run, once it was made."""
    return {}


@pytest.fixture
def local_run(
    kept: dict[str, Any], config: dict[str, Any], client: Any, tmp_path: Path
) -> dict[str, Any]:
    """What the same config writes into a folder, undisturbed."""
    if not kept:
        place = tmp_path / "local.zarr"
        run({**config, "output": {"path": str(place), "block_frames": 4}})
        kept.update(stored(place))
    return kept


def ledger(place: Address, stage: str = "align") -> list[int]:
    """Blocks as the ledger's objects have them, after a look at their numbers."""
    objects = RemoteObjects(place)
    names = objects.names(f"run/ledger-{stage}")
    assert [int(name.removesuffix(".json")) for name in names] == list(range(len(names)))
    texts = (objects.read(f"run/ledger-{stage}/{name}") for name in names)
    return [json.loads(text or b"")["record"]["block"] for text in texts]


def test_a_run_in_a_store_equals_one_in_a_folder(
    config: dict[str, Any], bucket: Bucket, local_run: dict[str, Any]
) -> None:
    result = run(config)
    place = bucket.place("out.zarr")
    assert stored(place) == local_run
    assert sorted(ledger(place)) == list(range(N_BLOCKS))
    store = RunStore.view(place)
    assert len({record.worker for record in store.done_blocks("align").values()}) == 2
    assert result.attrs["complete"] is True
    assert result["aligned"].chunks is not None
    chunks = [key for key in bucket.front.stored if "/aligned/c/" in key]
    assert len(chunks) == 60
    assert all(bucket.front.stored[key] == 1 for key in chunks)
    bucket.front.seen.clear()
    run(config)  # nothing is left to do
    assert not any(key.startswith("PUT") and "/run/" not in key for key in bucket.front.seen)


def test_the_same_store_where_requests_fail_and_take_long(
    config: dict[str, Any], bucket: Bucket, local_run: dict[str, Any]
) -> None:
    bucket.front.fault = sometimes(0.12, seed=1)
    result = run(config)
    loaded = result["status"].load()
    injected = dict(bucket.front.injected)
    bucket.front.fault = lambda _: None
    assert set(injected) == {"503", "drop", "lose", "cut", "0.2"}
    assert not (loaded & (Status.PENDING | Status.UNREADABLE)).any()
    assert stored(bucket.place("out.zarr")) == local_run
    assert sorted(ledger(bucket.place("out.zarr"))) == list(range(N_BLOCKS))


def test_a_killed_worker_is_replaced_and_the_store_is_the_same(
    config: dict[str, Any], bucket: Bucket, local_run: dict[str, Any]
) -> None:
    killed: list[int] = []

    def kill(event: Progress) -> None:
        if event.blocks_done in (2, 6):
            records = RunStore.view(bucket.place("out.zarr")).done_blocks("align").values()
            worker = max(records, key=lambda record: record.finished).worker
            killed.append(int(worker.split(":")[1]))
            os.kill(killed[-1], signal.SIGKILL)

    run(config, progress=kill)
    assert len(set(killed)) == 2
    assert stored(bucket.place("out.zarr")) == local_run
    assert sorted(ledger(bucket.place("out.zarr"))) == list(range(N_BLOCKS))


SCRIPT = """
import sys
from stillstack.cli import main

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def command(config: dict[str, Any], tmp_path: Path) -> Iterator[Any]:
    """Starts ``stillstack run`` in a process group of its own."""
    file, script = tmp_path / "run.yaml", tmp_path / "main.py"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    script.write_text(SCRIPT)
    groups = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(script), "run", str(file), "--debug"],
            start_new_session=True,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        groups.append(process)
        return process

    yield start
    for process in groups:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_a_killed_client_is_replaced_by_the_same_command_and_no_secret_is_told(
    command: Any, bucket: Bucket, local_run: dict[str, Any], tmp_path: Path
) -> None:
    place = bucket.place("out.zarr")
    process = command()
    deadline = time.monotonic() + 120
    while len(RemoteObjects(place).names("run/ledger-align")) < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    said, _ = process.communicate()
    done = ledger(place)
    assert 3 <= len(done) < N_BLOCKS
    assert RemoteObjects(place).read("run/lock.json") is not None  # of the dead

    process = command()
    more, _ = process.communicate(timeout=120)
    assert process.returncode == 0, more
    assert ledger(place)[: len(done)] == done
    assert sorted(ledger(place)) == list(range(N_BLOCKS))  # each once: none was done again
    assert stored(place) == local_run
    page = tmp_path / "out.html"
    assert page.exists()
    assert "As recorded" in page.read_text()  # the report has found the raw frames
    objects = RemoteObjects(place)
    everything = [objects.read(key) or b"" for key in objects.keys()]  # noqa: SIM118
    for secret in (SECRET, KEY_ID):
        assert not any(secret.encode() in content for content in everything)
        assert secret not in said + more + page.read_text()


def test_two_runs_on_one_output_are_refused(
    config: dict[str, Any], bucket: Bucket, client: Any
) -> None:
    with lock_run(bucket.place("out.zarr")):
        before = RemoteObjects(bucket.place("out.zarr")).keys()
        with pytest.raises(InputError, match=f"is being written by process {os.getpid()} on"):
            run(config)
        assert RemoteObjects(bucket.place("out.zarr")).keys() == before


def test_a_store_that_forbids_is_not_the_fault_of_the_frames(
    config: dict[str, Any], bucket: Bucket, local_run: dict[str, Any]
) -> None:
    forbidden: list[str] = []

    def fault(request: Request) -> Fault | None:
        if INPUT in request.key and "/c/" in request.key and forbidden:
            return DENIED
        return None

    def forbid(event: Progress) -> None:
        if event.stage == "align" and event.blocks_done == 2:
            forbidden.append("now")

    bucket.front.fault = fault
    with pytest.raises(AccessError, match="permission is denied"):
        run(config, progress=forbid)
    store = RunStore.view(bucket.place("out.zarr"))
    assert store.read_note("set_aside") is None
    forbidden.clear()
    run(config)
    assert stored(bucket.place("out.zarr")) == local_run


def test_damage_is_found_and_repaired(
    config: dict[str, Any], bucket: Bucket, local_run: dict[str, Any]
) -> None:
    run(config)
    place = bucket.place("out.zarr")
    objects = RemoteObjects(place)
    assert verify_store(place).sound
    data = bytearray(objects.read("aligned/c/17/0/0") or b"")
    data[len(data) // 2] ^= 4
    objects.put("aligned/c/17/0/0", data)
    found = verify_store(place)
    assert [(block.start, block.stop) for block in found.damaged] == [(16, 20)]
    assert found.taken_back
    run(config)
    assert stored(place) == local_run
    assert verify_store(place).sound
    assert ledger(place)[N_BLOCKS:] == [4, 4]  # taken back, and done again


def test_what_travels_to_workers_is_small_and_holds_no_secret(
    config: dict[str, Any], bucket: Bucket, local_run: dict[str, Any]
) -> None:
    from stillstack.config import make_config
    from stillstack.plan import plan

    result = run(config)
    made = plan(make_config(config))
    store = RunStore.view(bucket.place("out.zarr"))
    job = job_for(made, store, made.layout.stages[0], store.read_table())
    for thing, limit in ((job, 20_000), (result["aligned"].data[:4], 20_000)):
        travels = pickle.dumps(thing)
        assert len(travels) < limit
        assert SECRET.encode() not in travels
        assert KEY_ID.encode() not in travels
    opened = open_run(bucket.place("out.zarr").url, options=bucket.options)
    np.testing.assert_array_equal(opened["shift"], result["shift"])


def test_frames_of_a_run_in_a_store_are_browsed(
    config: dict[str, Any], bucket: Bucket, client: Any, small_stack: SimulatedStack
) -> None:
    result = run(config)
    number = int(np.flatnonzero(is_good(result["status"].values))[5])
    bucket.front.seen.clear()
    frames = frames_of_run(bucket.place("out.zarr"))
    assert not any("/aligned/c/" in key for key in bucket.front.seen)
    before, after = frames.before(number).pixels, frames.after(number).pixels
    np.testing.assert_array_equal(before, small_stack.frame(number))
    np.testing.assert_array_equal(after, result["aligned"][number].values)


def test_the_commands_take_addresses(
    config: dict[str, Any],
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.front.endpoint)
    file = tmp_path / "run.yaml"
    config["input"].pop("options")
    config["output"].pop("options")
    file.write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    url = config["output"]["path"]

    def command(*words: str) -> Any:
        outcome = CliRunner().invoke(app, list(words))
        assert outcome.exit_code == 0, outcome.output
        return outcome

    planned = json.loads(command("plan", "run.yaml", "--json").stdout)
    assert planned["output"]["bytes_free"] is None
    assert not any("free" in finding["what"] for finding in planned["findings"])
    assert json.loads(command("run", "run.yaml", "--json").stdout)["output"] == url
    assert (tmp_path / "out.html").exists()
    assert json.loads(command("verify", url, "--json").stdout)["sound"] is True
    assert "elsewhere.html" in command("report", url, "--out", "elsewhere.html").stdout
    copy = f"{bucket.place('copy.zarr')}"
    command("ingest", config["input"]["path"], copy)
    assert stored(copy)["frames/c/0/0/0"]
    simulated = f"{bucket.place('made.zarr')}"
    command("simulate", simulated, "--frames", "60", "--shape", "64", "--no-planted")
    assert yaml.safe_load((tmp_path / "made.yaml").read_text())["input"]["path"] == simulated
