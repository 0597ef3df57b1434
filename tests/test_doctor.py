"""stillstack doctor: real workers, fit and unfit, and what it says of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from distributed import Client, LocalCluster
from typer.testing import CliRunner, Result

from object_servers import DENIED, Bucket, Fault, Request
from stillstack.checkup import check_clocks, check_memory, check_output, check_threads
from stillstack.cli import app
from stillstack.cluster import THREAD_CAPS
from stillstack.errors import AccessError, InputError
from stillstack.memory import Memory
from stillstack.storage import RunStore, RunTemplate, lock_run, meet, meeting_place, unmet
from stillstack.storage.remote import RemoteObjects
from stillstack.worker_view import InputView, WorkerView

make_client: Any = Client  # distributed is not typed
make_cluster: Any = LocalCluster

CHECKS = ["workers", "versions", "answers", "input", "output", "threads", "memory", "scratch"]
CHECKS += ["clocks"]


def doctor(config: dict[str, Any], folder: Path, *options: str) -> Result:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    return CliRunner().invoke(app, ["doctor", str(path), *options])


def examined(config: dict[str, Any], folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = doctor(config, folder, "--json", *options)
    assert result.stdout, result.stderr
    found = json.loads(result.stdout)
    assert found["sound"] == (result.exit_code == 0)
    found["checks"] = {check["name"]: check for check in found["checks"]}
    return result.exit_code, found


def said(check: dict[str, Any]) -> str:
    return " ".join(f"{each['what']} {each['cure']}" for each in check["findings"])


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Address of a scheduler without workers."""
    before = dict(os.environ)
    with make_cluster(
        n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=40
    ) as cluster:
        yield str(cluster.scheduler_address)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def worker(scheduler: str, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts a worker in a process of its own, with what is given in its environment."""
    processes: list[subprocess.Popen[bytes]] = []
    scratch = tmp_path / "scratch"

    def start(*options: str, before: tuple[str, ...] = (), **environment: str) -> None:
        command = [*before, sys.executable, "-m", "distributed.cli.dask_worker", scheduler]
        command += ["--nthreads=1", "--no-nanny", "--host=127.0.0.1", "--no-dashboard"]
        command += [f"--local-directory={scratch}", *options]
        with (tmp_path / f"worker-{len(processes)}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
            )
        deadline = time.monotonic() + 120
        with make_client(scheduler, set_as_default=False) as client:
            while len(client.nthreads()) < len(processes):  # one that pauses counts, too
                assert time.monotonic() < deadline
                time.sleep(0.1)

    yield start
    for process in processes:
        process.terminate()
        process.wait(timeout=60)
    with make_client(scheduler, set_as_default=False) as client:
        while client.nthreads():
            time.sleep(0.1)


@pytest.fixture
def at_address(small_config: Any, scheduler: str) -> Any:
    return {**small_config, "cluster": {"kind": "address", "address": scheduler}}


def prepended(folder: Path) -> str:
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


# ------------------------------------------------------------------ fit


def test_a_sound_cluster_is_told_so_and_nothing_is_left_behind(
    small_config: Any, tmp_path: Path
) -> None:
    result = doctor({**small_config, "cluster": {"workers": 2}}, tmp_path)
    assert result.exit_code == 0, result.output
    assert "Dashboard: http://127.0.0.1:" in result.stderr
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()[1:]]
    assert [name for name, _ in lines] == ["cluster", *CHECKS]
    found = dict(lines)
    assert found["workers"] == "2 are there"
    assert found["answers"] == "all 2 workers answer"
    assert not any("error" in text or "warning" in text for text in found.values())
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.yaml"]


def test_a_folder_of_an_unfinished_run_is_tried_inside(tmp_path: Path) -> None:
    (tmp_path / "out.zarr" / "run").mkdir(parents=True)
    with meeting_place(tmp_path / "out.zarr") as folder:
        assert isinstance(folder, Path)
        assert folder.parent == tmp_path / "out.zarr" / "run"
        assert meet(folder, "somebody") < 5.0
        assert unmet(folder, ["somebody"]) == []
    assert not list((tmp_path / "out.zarr" / "run").iterdir())


# ------------------------------------------------------------------ unfit


def test_a_worker_with_other_versions_is_found(
    at_address: Any, worker: Callable[..., None], tmp_path: Path
) -> None:
    other = tmp_path / "other" / "numba-0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numba\nVersion: 0.1\n")
    worker()
    worker(PYTHONPATH=prepended(other.parent))
    code, found = examined(at_address, tmp_path)
    assert code == 1
    (finding,) = found["checks"]["versions"]["findings"]
    assert "numba 0.1 instead of" in finding["what"]
    assert "numpy" not in finding["what"]
    assert finding["consequence"]
    assert "same" in finding["cure"]
    assert found["checks"]["input"]["state"] == "good"


def test_a_worker_without_stillstack_is_found(
    at_address: Any, worker: Callable[..., None], tmp_path: Path
) -> None:
    without = tmp_path / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text("import sys\nsys.modules['stillstack'] = None\n")
    worker()
    worker(PYTHONPATH=prepended(without))
    code, found = examined(at_address, tmp_path)
    assert code == 1
    assert "cannot look around" in said(found["checks"]["answers"])
    assert "stillstack" in said(found["checks"]["answers"])


def test_a_plain_worker_lacks_caps_and_one_with_little_memory_is_refused(
    at_address: Any, worker: Callable[..., None], tmp_path: Path
) -> None:
    caps = {name: "1" for name in THREAD_CAPS if name != "NUMBA_NUM_THREADS"}
    caps["MALLOC_TRIM_THRESHOLD_"] = "65536"
    worker("--memory-limit=100MB", **caps)
    code, found = examined(at_address, tmp_path)
    assert code == 1
    assert found["checks"]["memory"]["state"] == "error"
    assert "95.37 MiB" in said(found["checks"]["memory"])
    assert found["checks"]["threads"]["state"] == "warning"
    assert "No NUMBA_NUM_THREADS in" in said(found["checks"]["threads"])
    assert "steps of 65536 bytes" in said(found["checks"]["threads"])


def may_unshare() -> bool:
    command = ["unshare", "--mount", "true"]
    found = shutil.which(command[0]) is not None
    return found and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(
    not may_unshare(),
    reason="other file systems for one process need unshare and root",
)
@pytest.mark.parametrize("hidden", ["input", "output"])
def test_a_worker_on_which_a_folder_is_not_mounted_is_found(
    at_address: Any, worker: Callable[..., None], tmp_path: Path, hidden: str
) -> None:
    frames = tmp_path / "input" / "frames.npy"
    frames.parent.mkdir()
    shutil.copy(at_address["input"]["path"], frames)
    (tmp_path / "output").mkdir()
    at_address["input"]["path"] = str(frames)
    at_address["output"]["path"] = str(tmp_path / "output" / "out.zarr")
    script = f'mount -t tmpfs none "{tmp_path / hidden}" && exec "$@"'
    worker()
    worker(before=("unshare", "--mount", "bash", "-c", script, "worker"))
    code, found = examined(at_address, tmp_path)
    assert code == 1
    other = {"input": "output", "output": "input"}[hidden]
    assert found["checks"][hidden]["state"] == "error"
    assert found["checks"][other]["state"] == "good"
    assert {"input": "frames.npy", "output": "FileNotFoundError"}[hidden] in said(
        found["checks"][hidden]
    )
    assert "Mount" in said(found["checks"][hidden])


def test_workers_that_do_not_come_and_what_speaks_against_the_run_are_told_together(
    at_address: Any, tmp_path: Path
) -> None:
    at_address["registration"]["max_shift_px"] = 500
    code, found = examined(at_address, tmp_path, "--wait=1")
    assert code == 2
    assert "max_shift_px is 500" in found["plan_findings"][0]["what"]
    assert "No worker has come in 1 s" in said(found["checks"]["workers"])


def test_a_cluster_that_does_not_answer_is_for_the_user_to_mend(
    small_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillstack.cluster.client._CONNECT_SECONDS", 1)
    cluster = {"kind": "address", "address": "tcp://127.0.0.1:9"}
    result = doctor({**small_config, "cluster": cluster}, tmp_path)
    assert result.exit_code == 2
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in result.stdout


# ------------------------------------------------------------------ judged by numbers


VIEW = WorkerView(
    host="n1",
    name="n1-7",
    threads=1,
    cores=4,
    memory_limit=2**30,
    pause=0.8,
    spill=False,
    environment=dict(THREAD_CAPS),
    scratch="/tmp/dask",  # noqa: S108
    scratch_free=2**30,
    seen=InputView("", ""),
    output_lag=0.0,
    output_fault="",
    clock=1000.0,
)


@pytest.mark.parametrize(("clock", "text"), [(1000.5, ""), (1062.0, r"+60 s"), (990.0, "-10 s")])
def test_clocks_are_judged_by_what_is_certain(clock: float, text: str) -> None:
    views = {"tcp://a": replace(VIEW, clock=clock)}
    check = check_clocks(views, began=1000.0, ended=1002.0)
    assert [text in str(finding) for finding in check.findings] == ([True] if text else [])


@pytest.mark.parametrize(("limit", "state"), [(0, "good"), (1000, "good"), (999, "error")])
def test_a_worker_of_two_threads_needs_room_for_two_blocks(limit: int, state: str) -> None:
    views = {"tcp://a": replace(VIEW, threads=2, memory_limit=limit)}
    memory = Memory(task=300, worker=500, limit=0, total=0, available=0)
    assert check_memory(memory, views).state == state


def test_more_threads_than_cores_are_counted_by_host() -> None:
    three = {f"tcp://a{n}": replace(VIEW, threads=2) for n in range(3)}
    apart = {address: replace(view, host=address) for address, view in three.items()}
    assert "6 threads and 4 cores" in str(check_threads(three).findings[0])
    assert check_threads(apart).state == "good"


def test_what_a_worker_wrote_and_nobody_sees_is_an_error() -> None:
    views = {"tcp://a": VIEW, "tcp://b": replace(VIEW, name="n2-8", output_lag=3.0)}
    check = check_output(Path("/data"), views, ["n1-7"])
    assert [finding.level for finding in check.findings] == ["error", "warning"]
    assert "tcp://a" in check.findings[0].what
    assert "3.0 s" in check.findings[1].what


def test_a_word_that_is_not_what_was_written_is_no_meeting(tmp_path: Path) -> None:
    with meeting_place(tmp_path / "out.zarr") as folder:
        assert isinstance(folder, Path)
        (folder / "word").write_text("something else")
        with pytest.raises(OSError, match="something else"):
            meet(folder, "somebody")


# ------------------------------------------------------------------ an object store


def stored(bucket: Bucket) -> list[str]:
    return [key for key in RemoteObjects(bucket.place("")).keys()]  # noqa: SIM118, C416


@pytest.fixture
def in_store(at_address: Any, bucket: Bucket) -> Any:
    """As at an address, with the output in an object store."""
    place = bucket.place("runs/out.zarr")
    at_address["output"] = {"path": place.url, "options": bucket.options}
    return at_address


def test_workers_that_can_use_the_store_are_told_so_and_nothing_is_left_there(
    in_store: Any, bucket: Bucket, worker: Callable[..., None], tmp_path: Path
) -> None:
    worker()
    worker()
    code, found = examined(in_store, tmp_path)
    assert code == 0
    output = found["checks"]["output"]
    assert output["state"] == "good"
    assert "s3://" in output["summary"]
    assert "on condition" in output["summary"]
    put = [key for key in bucket.front.stored if "/runs/out.zarr/run/doctor-" in key]
    assert len([key for key in put if key.endswith(".once")]) == 3  # two workers, and from here
    assert stored(bucket) == []


def test_a_worker_without_credentials_is_found(
    in_store: Any, bucket: Bucket, worker: Callable[..., None], tmp_path: Path
) -> None:
    worker()
    without = ("env", "-u", "AWS_ACCESS_KEY_ID", "-u", "AWS_SECRET_ACCESS_KEY")
    worker(before=without, AWS_METADATA_ENDPOINT="http://127.0.0.1:9")
    code, found = examined(in_store, tmp_path)
    assert code == 1
    output = found["checks"]["output"]
    assert output["state"] == "error"
    assert len(output["findings"]) == 2  # it can do nothing, and hence left nothing
    assert "credentials" in said(output)
    assert found["checks"]["input"]["state"] == "good"
    assert stored(bucket) == []


FORBIDDEN: dict[str, Callable[[Request], bool]] = {
    "to write": lambda request: request.method == "PUT" and not request.conditional,
    "to write on condition": lambda request: request.method == "PUT" and request.conditional,
    "to delete": lambda request: request.method in ("DELETE", "POST"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_store_that_forbids_a_kind_of_request_is_found_before_the_run(
    bucket: Bucket, what: str
) -> None:
    bucket.front.fault = lambda request: DENIED if FORBIDDEN[what](request) else None
    with (
        pytest.raises(AccessError, match="permission is denied"),
        meeting_place(bucket.place("out.zarr")),
    ):
        pass


def test_what_only_a_worker_may_not_do_is_found_by_it(bucket: Bucket) -> None:
    with meeting_place(bucket.place("out.zarr")) as place:
        assert meet(place, "one") < 5.0
        bucket.front.fault = lambda r: DENIED if r.method in ("DELETE", "POST") else None
        with pytest.raises(AccessError, match="permission is denied"):
            meet(place, "two")
        bucket.front.fault = lambda _: None
        assert unmet(place, ["one", "two", "three"]) == ["three"]
    assert stored(bucket) == []


def test_a_store_that_ignores_conditions_is_no_place_for_a_run(bucket: Bucket) -> None:
    bucket.front.fault = lambda request: "blind" if request.method == "PUT" else None
    with (
        pytest.raises(InputError, match="If-None-Match"),
        meeting_place(bucket.place("out.zarr")),
    ):
        pass
    assert stored(bucket) == []


def test_answers_that_are_lost_are_no_fault(bucket: Bucket) -> None:
    seen: set[str] = set()

    def lose_the_first(request: Request) -> Fault | None:
        first = request.method == "PUT" and request.conditional and request.key not in seen
        seen.add(request.key if first else "")
        return "lose" if first else None

    bucket.front.fault = lose_the_first
    with meeting_place(bucket.place("out.zarr")) as place:
        meet(place, "somebody")
    assert bucket.front.injected["lose"] == 2


def test_what_a_killed_doctor_left_does_not_refuse_a_run_and_is_swept(bucket: Bucket) -> None:
    place = bucket.place("out.zarr")
    RemoteObjects(place).put("run/doctor-killed/word", b"word")
    with lock_run(place) as lock:
        RunStore.create(lock, template())
        assert not RemoteObjects(place).names("run/doctor-killed")
        RemoteObjects(place).put("run/doctor-killed/word", b"word")
        RunStore.resume(lock)
        assert not RemoteObjects(place).names("run/doctor-killed")


def template() -> RunTemplate:
    image = np.ones((8, 8), np.float32)
    return RunTemplate(8, (8, 8), "config", "source", image, image > 0, image > 0)
