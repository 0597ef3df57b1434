"""What the workers' heartbeats say of their memory, as the scheduler has it."""

from __future__ import annotations

from typing import NamedTuple

from distributed import Client


class WorkerMemory(NamedTuple):
    """Bytes that a worker's process holds, and may hold; 0: no limit."""

    held: int
    limit: int


def workers_memory(client: Client) -> dict[str, WorkerMemory] | None:
    """Memory of each worker by its address; None where the scheduler does not say.

    A worker says it about twice a second; the scheduler, not the workers, is asked here.

    Parameters
    ----------
    client
        Of the cluster.
    """
    known = client.scheduler_info(n_workers=-1)
    workers = known.get("workers") or {}
    if len(workers) != known.get("n_workers", len(workers)):
        return None  # what the client remembers without its workers: the scheduler does not answer
    return {
        str(address): WorkerMemory(
            int(worker.get("metrics", {}).get("memory") or 0), int(worker.get("memory_limit") or 0)
        )
        for address, worker in workers.items()
    }
