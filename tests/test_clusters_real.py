"""Real clusters on this machine: Slurm, hosts over SSH, workers that come and go."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from distributed import Client

import held
import slurm
from conftest import without
from stillstack.cluster import THREAD_CAPS, client_for, settings, thread_count
from stillstack.config.cluster import ClusterConfig
from stillstack.errors import InputError, MissingExtraError, RunFaultError
from stillstack.run import run
from stillstack.sources import open_source
from stillstack.storage import RunStore
from stillstack.verification import verify_store
from stores import stored

planning = importlib.import_module("stillstack.plan")  # stillstack.plan is the function

# remote workers cannot import this file: its functions travel as they are
cloudpickle.register_pickle_by_value(sys.modules[__name__])

# what remote workers import must be what is tested, and the source that holds frames back
SEARCHED = os.pathsep.join(
    [str(Path(settings.__file__).parents[2]), str(held.FOLDER), os.environ.get("PYTHONPATH", "")]
)


def environment_of_worker(names: list[str]) -> dict[str, str]:
    import os

    return {name: os.environ.get(name, "unset") for name in names}


def memory_settings_of_worker() -> list[Any]:
    import dask

    return [dask.config.get(f"distributed.worker.memory.{name}") for name in ("spill", "pause")]


def assert_caps_and_settings(client: Client, n_workers: int) -> None:
    environments = client.run(environment_of_worker, list(THREAD_CAPS))
    assert list(environments.values()) == [dict(THREAD_CAPS)] * n_workers
    assert list(client.run(memory_settings_of_worker).values()) == [[False, 0.8]] * n_workers


def workers_that_wrote(path: str) -> set[str]:
    return {record.worker for record in RunStore.view(path).done_blocks("align").values()}


def answers(link: str) -> bool:
    with urllib.request.urlopen(link, timeout=30) as page:  # noqa: S310  # http, on loopback
        return bool(page.status == 200)


@pytest.fixture
def aside(small_config: Any, tmp_path: Path) -> dict[str, Any]:
    """Store of the same run on this machine's own workers."""
    output = {**small_config["output"], "path": str(tmp_path / "aside.zarr")}
    run({**small_config, "output": output})
    return stored(output["path"])


@pytest.fixture
def hold(
    small_stack_file: Path, monkeypatch: pytest.MonkeyPatch, aside: dict[str, Any]
) -> Callable[..., None]:
    """Makes the next run's workers wait for their frames."""

    def use(**how: Any) -> None:
        source = held.HeldSource(open_source(str(small_stack_file)), os.getpid(), **how)
        monkeypatch.setattr(planning, "open_source", lambda *_, **__: source)

    return use


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has lost workers given up soon, so that what replaces them comes soon."""
    soon = {**settings.SETTINGS, "distributed.deploy.lost-worker-timeout": "5s"}
    monkeypatch.setattr(settings, "SETTINGS", soon)


# ------------------------------------------------------------------ Slurm


def skip_without_dask_jobqueue() -> None:
    if find_spec("dask_jobqueue") is None:  # to import it would have Ctrl-C end the tests at once
        without("dask-jobqueue is not installed")


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[dict[str, str]]:
    skip_without_dask_jobqueue()
    why_not = slurm.missing()
    if why_not:
        without(why_not)
    with slurm.running() as environment:
        yield environment


@pytest.fixture
def slurm_here(
    slurm_cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Path]:
    """Folder of the jobs' logs."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm_cluster[name])
    monkeypatch.setenv("PYTHONPATH", SEARCHED)
    yield tmp_path / "jobs"
    slurm.cancel_all(slurm_cluster)


def slurm_section(logs: Path, **changes: Any) -> dict[str, Any]:
    options = {"interface": "lo", "log_directory": str(logs), "memory": "2GB"}
    options["scheduler_options"] = {"dashboard_address": "127.0.0.1:0"}  # type: ignore[assignment]
    options |= changes.pop("options", {})
    section = {"kind": "slurm", "workers": 2, "walltime": "00:20:00", "options": options}
    return {**section, **changes}


def jobs(*states: str) -> list[str]:
    command = ["squeue", "--noheader", "--format=%i"]
    command += [f"--states={','.join(states)}"] if states else []
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slurm
def test_a_run_on_slurm_gives_the_store_of_a_local_one(
    slurm_here: Path, small_config: Any, aside: dict[str, Any]
) -> None:
    links: list[str] = []
    run(
        {**small_config, "cluster": slurm_section(slurm_here)},
        on_link=lambda link: links.append(link) if answers(link) else None,
    )
    path = small_config["output"]["path"]
    assert stored(path) == aside
    assert verify_store(path).sound
    assert len(links) == 1
    wait_until(lambda: not jobs())  # no job is left behind


@pytest.mark.slurm
def test_ctrl_c_is_left_to_the_run() -> None:
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
from stillstack.cluster import client_for
from stillstack.config.cluster import ClusterConfig
try:
    client_for(ClusterConfig(kind="slurm", options={"colour": "red"}), workers=1).__enter__()
except Exception as error:
    assert "colour" in str(error), error
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    skip_without_dask_jobqueue()
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slurm
def test_slurm_workers_have_thread_caps_settings_and_a_lifetime(slurm_here: Path) -> None:
    config = ClusterConfig(**slurm_section(slurm_here, workers=1))
    with client_for(config, workers=1, memory_limit=2**30) as client:
        assert_caps_and_settings(client, 1)
        cluster: Any = client.cluster
        script = cluster.job_script()
    assert "--lifetime 1080s --lifetime-stagger 60s" in script
    assert "#SBATCH -t 00:20:00" in script


@pytest.mark.slurm
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_is_killed_is_replaced_and_the_run_finishes(
    slurm_here: Path,
    small_config: Any,
    aside: dict[str, Any],
    hold: Callable[..., None],
    processes: int,
) -> None:
    gate = slurm_here.parent / "gate"
    hold(gates=((40, gate),))  # not even two workers at once finish before one is killed
    killed: list[str] = []

    def kill(progress: Any) -> None:
        if progress.blocks_done == 3 and not killed:
            killed.extend(jobs("RUNNING"))
            subprocess.run(["scancel", "--signal=KILL", "--full", *killed], check=True)
            gate.touch()

    options = {"processes": processes, "cores": processes}
    section = slurm_section(slurm_here, workers=processes, options=options)
    run({**small_config, "cluster": section}, progress=kill)
    path = small_config["output"]["path"]
    assert len(killed) == 1
    assert len(workers_that_wrote(path)) >= 2
    assert stored(path) == aside


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("impatient")
def test_a_run_outlives_the_walltime_of_its_jobs(
    slurm_here: Path,
    small_config: Any,
    aside: dict[str, Any],
    hold: Callable[..., None],
) -> None:
    hold(pause=4.0)  # 15 blocks: longer than the one minute that a job has
    section = slurm_section(slurm_here, workers=1, walltime="00:01:00")
    run({**small_config, "cluster": section})
    path = small_config["output"]["path"]
    assert len(workers_that_wrote(path)) >= 2
    assert stored(path) == aside
    logs = [file.read_text() for file in slurm_here.glob("*.err")]
    assert any("worker-lifetime-reached" in log for log in logs)
    assert not any("DUE TO TIME LIMIT" in log for log in logs)


@pytest.mark.slurm
def test_a_job_that_slurm_refuses_is_said_at_once(slurm_here: Path) -> None:
    config = ClusterConfig(**slurm_section(slurm_here, options={"queue": "nowhere"}))
    with pytest.raises(RunFaultError, match="invalid partition"):
        client_for(config, workers=1).__enter__()
    gc.collect()  # a cluster that was not closed would be heard of here


# ------------------------------------------------------------------ SSH


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Options with which to connect to an sshd of our own."""
    pytest.importorskip("asyncssh")
    program = shutil.which("sshd", path=slurm.SEARCHED)
    if program is None:
        without("sshd is not installed (Debian's openssh-server)")
    assert program is not None
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root wants it; the service makes it
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    server, port = _started_sshd(program, tmp_path)
    try:
        yield {
            "port": port,
            "username": pwd.getpwuid(os.geteuid()).pw_name,
            "client_keys": [str(tmp_path / "user")],
            "known_hosts": None,
        }
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def _started_sshd(program: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(3):  # another process may take the port in the meantime
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
            f"PermitRootLogin yes\nPasswordAuthentication no\nSetEnv PYTHONPATH={SEARCHED}\n"
        )
        server = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd_config")],
                                  stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return server, port
            time.sleep(0.1)
    raise AssertionError(f"sshd does not start: exit code {server.returncode}")


def ssh_section(connect: dict[str, Any], **changes: Any) -> dict[str, Any]:
    options = {
        "connect_options": connect,
        "remote_python": sys.executable,
        "worker_options": {"host": "127.0.0.1"},
        "scheduler_options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
    }
    hosts = ["127.0.0.1", "localhost"]
    return {"kind": "ssh", "hosts": hosts, "workers": 2, "options": options, **changes}


@pytest.mark.ssh
def test_a_run_over_ssh_gives_the_store_of_a_local_one(
    sshd: dict[str, Any], small_config: Any, aside: dict[str, Any]
) -> None:
    links: list[str] = []
    run(
        {**small_config, "cluster": ssh_section(sshd)},
        on_link=lambda link: links.append(link) if answers(link) else None,
    )
    path = small_config["output"]["path"]
    assert stored(path) == aside
    assert len(links) == 1


@pytest.mark.ssh
def test_ssh_workers_have_thread_caps_and_settings(sshd: dict[str, Any]) -> None:
    with client_for(ClusterConfig(**ssh_section(sshd)), workers=2, memory_limit=2**30) as client:
        client.wait_for_workers(2, timeout=120)
        assert thread_count(client) == 2
        assert_caps_and_settings(client, 2)


@pytest.mark.ssh
def test_a_host_that_lets_nobody_in_is_said_so(sshd: dict[str, Any], tmp_path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "stranger")]
    subprocess.run(command, check=True)
    stranger = {**sshd, "client_keys": [str(tmp_path / "stranger")]}
    config = ClusterConfig(**ssh_section(stranger))
    with pytest.raises(RunFaultError, match=r"could not be started: Permission denied"):
        client_for(config, workers=1).__enter__()


# ------------------------------------------------------------------ what needs no server


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, section in (
        ("dask_jobqueue.slurm", {"kind": "slurm"}),
        ("asyncssh", {"kind": "ssh", "hosts": ["h"]}),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"stillstack\[{section['kind']}\]"):
            client_for(ClusterConfig(**section), workers=1).__enter__()


def class_section(**options: Any) -> dict[str, Any]:
    return {"kind": "class", "class": "distributed.LocalCluster", "options": options}


def test_any_cluster_class_can_be_named_by_its_path() -> None:
    before = dict(os.environ)
    section = class_section(n_workers=0, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    with client_for(ClusterConfig(**section), workers=1) as client:
        assert client.submit(sum, [1, 2]).result(timeout=60) == 3
        assert_caps_and_settings(client, 1)
    assert dict(os.environ) == before


@pytest.mark.parametrize("path", ["no.such.Cluster", "distributed.NoCluster", "nodots"])
def test_a_class_that_is_not_there_is_refused(path: str) -> None:
    config = ClusterConfig(**{"kind": "class", "class": path})
    with pytest.raises(InputError, match="cannot be imported"):
        client_for(config, workers=1).__enter__()


@pytest.mark.parametrize("n_workers", [0, 1])
def test_options_that_the_class_does_not_know_are_refused(n_workers: int) -> None:
    options = {"n_workers": n_workers, "dashboard_address": "127.0.0.1:0", "colour": "red"}
    config = ClusterConfig(**class_section(**options))
    with pytest.raises(InputError, match=r"cluster\.options.*colour"):
        client_for(config, workers=1).__enter__()


def test_workers_that_come_later_are_like_the_first() -> None:
    with client_for(ClusterConfig(adapt=(1, 2)), workers=1) as client:
        assert thread_count(client) == 1
        naps: Any = client.map(time.sleep, [1.0] * 60, pure=False)
        client.wait_for_workers(2, timeout=120)
        assert_caps_and_settings(client, 2)
        for nap in naps:
            nap.cancel()


def test_workers_come_and_go_during_a_run(
    small_config: Any,
    aside: dict[str, Any],
    hold: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # after a few blocks all wait for a second worker, and the last one until it has gone again
    two, one = tmp_path / "two", tmp_path / "one"
    hold(gates=((12, two), (59, one)))
    clients: list[Client] = []
    threads = [1]
    over = threading.Event()

    def counting(client: Client) -> int:
        clients.append(client)
        return thread_count(client)

    def watch() -> None:
        while not over.wait(0.2):
            if clients:
                threads.append(thread_count(clients[0]))
            if threads[-1] == 2:
                two.touch()
            elif two.exists():
                one.touch()

    monkeypatch.setattr("stillstack.execute.thread_count", counting)
    small_config["cluster"] = {"adapt": [1, 2]}
    seen: list[int] = []

    def note(progress: Any) -> None:
        seen.append(threads[-1])
        if progress.blocks_done == 15:
            over.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run(small_config, progress=note)
    finally:
        over.set()
        watcher.join(timeout=60)
    assert max(threads) == 2
    assert seen[0] == seen[-1] == 1
    path = small_config["output"]["path"]
    assert len(workers_that_wrote(path)) == 2
    assert stored(path) == aside
