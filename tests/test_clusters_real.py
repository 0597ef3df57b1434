"""Real clusters on this machine: Slurm, hosts over SSH, workers that come and go."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import slurm
from stillstack.cluster import THREAD_CAPS, client_for, thread_count
from stillstack.cluster_config import ClusterConfig
from stillstack.errors import InputError, MissingExtraError, RunFaultError
from stillstack.run import run
from stillstack.storage import RunStore
from stillstack.verification import verify_store
from test_run_kill import stored


def environment_of_worker() -> dict[str, str]:
    return {name: os.environ.get(name, "unset") for name in THREAD_CAPS}


def memory_settings_of_worker() -> list[Any]:
    import dask

    return [dask.config.get(f"distributed.worker.memory.{name}") for name in ("spill", "pause")]


def workers_that_wrote(path: str) -> set[str]:
    return {record.worker for record in RunStore.view(path).done_blocks("align").values()}


@pytest.fixture
def aside(small_config: Any, tmp_path: Path) -> dict[str, Any]:
    """Store of the same run on this machine's own workers."""
    config = {
        **small_config,
        "output": {**small_config["output"], "path": str(tmp_path / "a.zarr")},
    }
    run(config)
    return stored(tmp_path / "a.zarr")


# ------------------------------------------------------------------ Slurm


@pytest.fixture
def slurm_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("dask_jobqueue")
    why_not = slurm.missing()
    if why_not:
        pytest.skip(why_not)
    with slurm.running() as environment:
        for name in ("PATH", "SLURM_CONF"):
            monkeypatch.setenv(name, environment[name])
        yield


def slurm_section(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    options = {"interface": "lo", "log_directory": str(tmp_path / "jobs"), "memory": "2GB"}
    section = {"kind": "slurm", "workers": 2, "walltime": "00:20:00", "options": options}
    return {**section, **changes}


@pytest.mark.slurm
def test_a_run_on_slurm_gives_the_store_of_a_local_one(
    slurm_here: None, small_config: Any, aside: dict[str, Any], tmp_path: Path
) -> None:
    run({**small_config, "cluster": slurm_section(tmp_path)})
    path = small_config["output"]["path"]
    assert stored(path) == aside
    assert verify_store(path).sound
    assert len(workers_that_wrote(path)) >= 1
    left = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    deadline = time.monotonic() + 30
    while left.stdout.strip() and time.monotonic() < deadline:
        time.sleep(0.5)
        left = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    assert not left.stdout.strip()  # no job is left behind


@pytest.mark.slurm
def test_slurm_workers_have_thread_caps_settings_and_a_lifetime(
    slurm_here: None, tmp_path: Path
) -> None:
    config = ClusterConfig(**slurm_section(tmp_path, workers=1))
    with client_for(config, workers=1, memory_limit=2**30) as client:
        assert list(client.run(environment_of_worker).values()) == [dict(THREAD_CAPS)]
        assert list(client.run(memory_settings_of_worker).values()) == [[False, 0.8]]
        script = client.cluster.job_script()
    assert "--lifetime 1080s --lifetime-stagger 60s" in script
    assert "#SBATCH -t 00:20:00" in script


@pytest.mark.slurm
def test_a_job_that_is_cancelled_is_replaced_and_the_run_finishes(
    slurm_here: None, small_config: Any, aside: dict[str, Any], tmp_path: Path
) -> None:
    cancelled: list[str] = []

    def cancel(progress: Any) -> None:
        if progress.blocks_done == 3 and not cancelled:
            command = ["squeue", "--noheader", "--format=%i", "--states=RUNNING"]
            jobs = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            cancelled.extend(jobs.split())
            subprocess.run(["scancel", "--signal=KILL", "--full", *cancelled], check=True)

    run({**small_config, "cluster": slurm_section(tmp_path, workers=1)}, progress=cancel)
    path = small_config["output"]["path"]
    assert len(cancelled) == 1
    assert len(workers_that_wrote(path)) == 2
    assert stored(path) == aside


# ------------------------------------------------------------------ SSH


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Options with which to connect to an sshd of our own."""
    pytest.importorskip("asyncssh")
    program = shutil.which("sshd", path=slurm.SEARCHED)
    if program is None:
        pytest.skip("sshd is not installed (Debian's openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root wants it; the service makes it
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin yes\nPasswordAuthentication no\n"
    )
    server = subprocess.Popen([program, "-D", "-e", "-f", str(tmp_path / "sshd_config")],
                              stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        _wait_for_port(port)
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


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < deadline, "sshd does not answer"
        time.sleep(0.1)


def ssh_section(connect: dict[str, Any], **changes: Any) -> dict[str, Any]:
    options = {"connect_options": connect, "remote_python": sys.executable}
    return {"kind": "ssh", "hosts": ["127.0.0.1"], "workers": 2, "options": options, **changes}


@pytest.mark.ssh
def test_a_run_over_ssh_gives_the_store_of_a_local_one(
    sshd: dict[str, Any], small_config: Any, aside: dict[str, Any]
) -> None:
    run({**small_config, "cluster": ssh_section(sshd)})
    path = small_config["output"]["path"]
    assert stored(path) == aside


@pytest.mark.ssh
def test_ssh_workers_have_thread_caps_and_settings(sshd: dict[str, Any]) -> None:
    with client_for(ClusterConfig(**ssh_section(sshd)), workers=2, memory_limit=2**30) as client:
        client.wait_for_workers(2, timeout=60)
        assert thread_count(client) == 2
        assert list(client.run(environment_of_worker).values()) == [dict(THREAD_CAPS)] * 2
        assert list(client.run(memory_settings_of_worker).values()) == [[False, 0.8]] * 2


@pytest.mark.ssh
def test_a_host_that_lets_nobody_in_is_said_so(sshd: dict[str, Any], tmp_path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "stranger")]
    subprocess.run(command, check=True)
    stranger = {**sshd, "client_keys": [str(tmp_path / "stranger")]}
    config = ClusterConfig(**ssh_section(stranger))
    with pytest.raises(RunFaultError, match="could not be started"):
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


def test_any_cluster_class_can_be_named_by_its_path() -> None:
    options = {"n_workers": 0, "threads_per_worker": 1, "processes": False}
    options |= {"dashboard_address": None, "host": "127.0.0.1"}
    section = {"kind": "class", "class": "distributed.LocalCluster", "options": options}
    with client_for(ClusterConfig(**section), workers=1) as client:
        assert client.submit(sum, [1, 2]).result(timeout=30) == 3


@pytest.mark.parametrize("path", ["no.such.Cluster", "distributed.NoCluster", "nodots"])
def test_a_class_that_is_not_there_is_refused(path: str) -> None:
    config = ClusterConfig(**{"kind": "class", "class": path})
    with pytest.raises(InputError, match="cannot be imported"):
        client_for(config, workers=1).__enter__()


def test_options_that_the_class_does_not_know_are_refused() -> None:
    section = {"kind": "class", "class": "distributed.LocalCluster", "options": {"colour": "red"}}
    with pytest.raises(InputError, match=r"cluster.options.*colour"):
        client_for(ClusterConfig(**section), workers=1).__enter__()


def test_workers_come_and_go_during_a_run(
    small_config: Any, aside: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client

    from stillstack import execute

    threads: list[int] = []
    clients: list[Client] = []
    counted = execute.thread_count

    def counting(client: Client) -> int:
        clients.append(client)
        return counted(client)

    def scale(progress: Any) -> None:
        if clients:
            threads.append(counted(clients[-1]))
            wanted = {3: 2, 9: 1}.get(progress.blocks_done)
            if wanted:
                clients[-1].cluster.adapt(minimum=wanted, maximum=wanted)
                deadline = time.monotonic() + 60
                while counted(clients[-1]) != wanted and time.monotonic() < deadline:
                    time.sleep(0.1)

    monkeypatch.setattr(execute, "thread_count", counting)
    small_config["cluster"] = {"adapt": [1, 1]}
    run(small_config, progress=scale)
    path = small_config["output"]["path"]
    assert max(threads) == 2
    assert threads[0] == threads[-1] == 1
    assert len(workers_that_wrote(path)) >= 2
    assert stored(path) == aside
