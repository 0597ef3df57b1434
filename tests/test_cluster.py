"""The Client of a run: made here, at an address, or the one that is there already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed import Client, LocalCluster

from stillstack.cluster import (
    THREAD_CAPS,
    active_client,
    client_for,
    local,
    machine_size,
    thread_count,
)
from stillstack.cluster import client as client_module
from stillstack.config.cluster import ClusterConfig
from stillstack.errors import InputError, RunFaultError


def _worker_environment() -> dict[str, str]:
    return {name: os.environ.get(name, "unset") for name in THREAD_CAPS}


def _handler_of_ctrl_c() -> Any:
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_local_workers_are_limited_to_one_thread_each_and_nothing_leaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in THREAD_CAPS:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with client_for(ClusterConfig(), workers=2, memory_limit=2**30) as client:
        assert dict(os.environ) == before
        assert thread_count(client) == 2
        assert list(client.run(_worker_environment).values()) == [dict(THREAD_CAPS)] * 2
        assert all(client.run(_handler_of_ctrl_c).values())
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert {worker["memory_limit"] for worker in workers} == {2**30}
        assert {worker["nthreads"] for worker in workers} == {1}
        assert active_client() is None  # a user's own computations stay where they were
        assert client.scheduler_info()["address"].startswith("tcp://127.0.0.1:")
    assert client.status == "closed"
    assert dict(os.environ) == before


@pytest.mark.parametrize("profiled", [False, True])
def test_dask_watches_what_workers_do_for_a_performance_report_alone(*, profiled: bool) -> None:
    with client_for(ClusterConfig(), workers=1, profiled=profiled) as client:
        assert client.submit(_is_watched).result() is profiled
        client.submit(_work).result()
        untyped: Any = client
        assert bool(untyped.profile()["count"]) is profiled


def _work() -> None:
    time.sleep(1.5)  # what Dask saw is gathered once a second


def _is_watched() -> bool:
    return "profile" in distributed.get_worker().periodic_callbacks


def test_the_active_client_is_used_and_never_closed(cluster_client: Client) -> None:
    with client_for(ClusterConfig(), workers=7) as client:
        assert client is cluster_client
    assert cluster_client.status == "running"


def test_an_address_is_connected_to_and_left_running(local_cluster: Any) -> None:
    config = ClusterConfig(kind="address", address=local_cluster.scheduler_address)
    with client_for(config) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert client.status == "closed"
    assert local_cluster.status.name == "running"


def test_an_address_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_CONNECT_SECONDS", 1)
    config = ClusterConfig(kind="address", address="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match="No Dask scheduler answers at tcp"):
        client_for(config).__enter__()


def test_the_machine_has_cores_and_memory() -> None:
    cores, memory = machine_size()
    assert cores >= 1
    assert memory > 2**28


SCRIPT = """
import sys
from pathlib import Path
import stillstack

with Path(sys.argv[2]).open("a") as log:
    log.write("once\\n")
print(stillstack.run(sys.argv[1]).sizes["frame"])
"""


@pytest.mark.parametrize("how", [["mine.py"], ["-m", "mine"]], ids=["script", "module"])
def test_a_script_without_a_guard_runs_once(
    small_config: Any, tmp_path: Path, how: list[str]
) -> None:
    script, config, log = tmp_path / "mine.py", tmp_path / "run.yaml", tmp_path / "log"
    script.write_text(SCRIPT)
    config.write_text(json.dumps(small_config))
    command = [sys.executable, *how, str(config), str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "60"
    assert log.read_text() == "once\n"


# ------------------------------------------------------------------ workers that die while starting


@pytest.mark.parametrize("n_deaths", [2, 99])
def test_workers_that_die_while_they_start_are_started_again_a_few_times(
    monkeypatch: pytest.MonkeyPatch, n_deaths: int
) -> None:
    real: Any = LocalCluster
    started: list[int] = []

    def dying(**options: Any) -> Any:
        started.append(options["n_workers"])
        if len(started) <= n_deaths:
            raise RuntimeError("Nanny failed to start.")
        return real(**options)

    monkeypatch.setattr(local, "LocalCluster", dying)
    if n_deaths > 3:
        with (
            pytest.raises(RunFaultError, match="die while they start"),
            local.local_client(1, None),
        ):
            pass
    else:
        with local.local_client(1, None) as client:
            assert client.submit(sum, [1, 2]).result() == 3
    assert started == [1] * min(n_deaths + 1, 4)
