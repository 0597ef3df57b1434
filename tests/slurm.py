"""A real Slurm on this machine: munged, slurmctld and two slurmd in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue", "sinfo")
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
NODES = ("n1", "n2")

CONFIG = """
ClusterName=stillstack
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=2
SchedulerParameters=sched_interval=2,batch_sched_delay=0
PropagateResourceLimits=NONE
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
{nodes}
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Say why Slurm cannot be started here; empty where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]
    if absent:
        return f"{', '.join(absent)}: not installed (Debian's slurm-wlm and munge)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """Environment in which Slurm's commands talk to a cluster of two nodes."""
    with contextlib.ExitStack() as stack:
        for attempt in range(3):
            try:
                environment = stack.enter_context(_started())
                break
            except TimeoutError:  # another process may have taken a port in the meantime
                if attempt == 2:
                    raise
        yield environment


def cancel_all(environment: dict[str, str]) -> None:
    """End every job, and wait until the nodes are free again."""
    subprocess.run(["scancel", "--user=root"], env=environment, check=False)
    folder = Path(environment["SLURM_CONF"]).parent
    _wait_for(lambda: _idle_nodes(environment) == len(NODES), folder)


@contextlib.contextmanager
def _started() -> Iterator[dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    environment = {**os.environ, "PATH": SEARCHED, "SLURM_CONF": str(folder / "slurm.conf")}
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *command: str) -> None:
        with (folder / f"{name}.out").open("wb") as said:
            processes.append(
                subprocess.Popen(
                    command, env=environment, stdout=said, stderr=said, start_new_session=True
                )
            )

    try:
        start("munged", *_munge_command(folder))
        _wait_for((folder / "munge" / "socket").exists, folder)
        _write_config(folder)
        start("slurmctld", "slurmctld", "-D", "-i")
        for node in NODES:
            start(node, "slurmd", "-D", "-N", node)
        _wait_for(lambda: _idle_nodes(environment) == len(NODES), folder)
        yield environment
        cancel_all(environment)
    finally:
        for process in reversed(processes):
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _munge_command(folder: Path) -> list[str]:
    """Command that starts munged as its own user, with a key of its own."""
    user = pwd.getpwnam("munge")
    home = folder / "munge"
    home.mkdir(mode=0o755)
    key = home / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for path in (home, key):
        os.chown(path, user.pw_uid, user.pw_gid)
    named = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
    named["seed-file"] = "seed"
    options = [f"--{option}={home / name}" for option, name in named.items()]
    as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [*as_user, str(shutil.which("munged", path=SEARCHED)), "--foreground", *options]


def _write_config(folder: Path) -> None:
    ports = _free_ports(1 + len(NODES))
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=8000"
        for node, port in zip(NODES, ports[1:], strict=True)
    )
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "slurm.conf").write_text(
        CONFIG.format(folder=folder, host=host, controller_port=ports[0], nodes=nodes)
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _idle_nodes(environment: dict[str, str]) -> int:
    command = ["sinfo", "--noheader", "--Node", "--format=%N %T"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return sum(line.split()[-1:] == ["idle"] for line in done.stdout.splitlines())


def _wait_for(condition: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(
                f"--- {file.name}\n{file.read_text(errors='replace')[-2000:]}"
                for file in [*sorted(folder.glob("*.log")), *sorted(folder.glob("*.out"))]
            )
            raise TimeoutError(f"Slurm did not start:\n{logs}")
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
