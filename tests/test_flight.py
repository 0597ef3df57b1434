"""Which tasks hang: those that a worker has had for long, and never those that wait for one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client, LocalCluster

from stillstack.errors import RunFaultError
from stillstack.flight import Flight, Limits
from stillstack.job import Block

RELEASED = threading.Event()
make_client: Any = Client  # distributed is not typed
make_cluster: Any = LocalCluster


def stay(job_digest: str, stage: str, block: Block) -> None:
    RELEASED.wait(120)


@pytest.fixture
def client() -> Iterator[Any]:
    """Client of a cluster without workers, which would be threads of this process."""
    RELEASED.clear()
    with (
        make_cluster(n_workers=0, processes=False, threads_per_worker=1,
                     dashboard_address=None) as cluster,
        make_client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        yield client
        RELEASED.set()


@pytest.fixture
def flight(client: Any) -> Flight:
    flight = Flight(client, Limits(hang_factor=1.0, least_hang_seconds=0.4), "test")
    flight.note_time(0.1)
    for index in range(3):
        flight.submit(stay, "job", "stage", Block(index, index, index + 1))
    return flight


def test_a_task_that_waits_for_a_worker_does_not_hang_and_one_that_a_worker_has_does(
    client: Any, flight: Flight
) -> None:
    deadline = time.monotonic() + 2.0  # five times as long as a task may take
    while time.monotonic() < deadline:
        assert flight.hung() is None
        time.sleep(0.05)

    client.cluster.scale(1)
    deadline = time.monotonic() + 60
    while (key := flight.hung()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert key in {key for keys in client.processing().values() for key in keys}

    with pytest.raises(RunFaultError, match="started without a nanny"):
        flight.restart_worker_of(key)


def test_tasks_that_no_worker_has_are_taken_back(client: Any, flight: Flight) -> None:
    client.cluster.scale(1)
    client.wait_for_workers(1, timeout=60)
    while not any(client.processing().values()):
        time.sleep(0.05)
    given = {key for keys in client.processing().values() for key in keys}
    flight.drop_waiting()
    assert len(flight) == len(given) < 3
    RELEASED.set()
    deadline = time.monotonic() + 120
    while len(flight):
        assert time.monotonic() < deadline
        key = flight.finished(timeout=1.0)
        if key is not None:  # what was taken back finishes, too: as cancelled
            assert key in given
            flight.take(key)
