"""How many workers there are: as many as there are tasks, within limits, and lost ones replaced."""

from __future__ import annotations

import time
from typing import Any, Final

import dask
from dask.utils import parse_timedelta
from distributed import Adaptive
from distributed.deploy.spec import SpecCluster

# Of work for a worker that Dask finds worth starting one for. A run keeps so few tasks on the
# scheduler that each of them deserves a worker, up to the most that are allowed.
_WORTH_A_WORKER: Final = "1ms"


class ReplacingAdaptive(Adaptive):
    """Replaces jobs of several workers too, when all of these have ended.

    Dask replaces a worker that it started, after ``distributed.deploy.lost-worker-timeout``. In a
    job of several it does not know the workers by their names, and after the first walltime there
    would be none.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._last_seen: dict[str, float] = {}

    async def adapt(self) -> None:
        """Look at what has ended, and bring the number of workers to what it should be."""
        await self._give_up_ended_jobs()
        await super().adapt()

    async def _give_up_ended_jobs(self) -> None:
        now, here = time.monotonic(), self.observed
        patience = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
        cluster: Any = self.cluster
        for name, spec in list(cluster.worker_spec.items()):
            workers = {f"{name}{suffix}" for suffix in spec.get("group", ())}
            if workers & here:
                self._last_seen[name] = now
            elif now - self._last_seen.get(name, now) > patience and name in cluster.workers:
                del self._last_seen[name]
                await cluster.workers.pop(name).close()


def keep_workers(cluster: Any, fewest: int, most: int) -> None:
    """Have a cluster keep between so many workers, and replace those that are lost."""
    if isinstance(cluster, SpecCluster):
        cluster.adapt(
            Adaptive=ReplacingAdaptive,
            minimum=fewest,
            maximum=most,
            target_duration=_WORTH_A_WORKER,
        )
    else:
        cluster.adapt(minimum=fewest, maximum=most)


__all__ = ["ReplacingAdaptive", "keep_workers"]
