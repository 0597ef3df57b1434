"""Workers killed in the middle of each step of a block: what is done again, and what is not."""

from __future__ import annotations

import importlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
from distributed import WorkerPlugin

from stillstack.flight import Limits
from stillstack.run import run
from stillstack.sources import open_source
from stillstack.storage import RunStore
from stillstack.verification import verify_store
from stores import stored
from test_run import ScriptedSource
from workers import worker_processes

planning = importlib.import_module("stillstack.plan")  # stillstack.plan is the function

N_BLOCKS, BLOCK_FRAMES, N_WORKERS = 15, 4, 2
# Where a worker dies: the function that it is about to call, for the how-manieth time, and whether
# it does the work before.
STEPS = {
    "read": ("test_run:ScriptedSource.read", 3, False),
    "register": ("stillstack.blockwork:register_block", 3, False),
    "align": ("stillstack.blockwork:align_block", 7, False),
    "write": ("stillstack.storage.objects:LocalObjects.stage", 6, True),
    "name": ("stillstack.storage.objects:LocalObjects._name", 6, True),
    "done": ("stillstack.blockwork:_written", 2, True),
}


class DieOnce(WorkerPlugin):
    """Kills one worker of a cluster, once, at the n-th call of a function in its process."""

    def __init__(self, target: str, count: int, after: bool, flag: Path) -> None:
        self.target, self.count, self.after, self.flag = target, count, after, flag
        self.name = "die-once"

    def setup(self, worker: Any) -> None:
        del worker
        module, _, path = self.target.partition(":")
        owner = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0

        def then(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            result = call(*arguments, **options) if self.after else None
            if calls == self.count:
                self.die()
            return result if self.after else call(*arguments, **options)

        return then

    def die(self) -> None:
        try:
            os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def own_cluster() -> Iterator[distributed.Client]:
    """Two workers that nobody else uses, since what they run is tampered with."""
    make_client: Any = distributed.Client  # not typed
    with (
        worker_processes(N_WORKERS) as cluster,
        make_client(cluster, set_as_default=True) as client,
    ):
        yield client


@pytest.fixture
def scripted(
    small_stack_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ScriptedSource:
    """Frames that note who reads them; runs of this test read them."""
    source = ScriptedSource(open_source(str(small_stack_file)), str(tmp_path / "reads"))
    monkeypatch.setattr(planning, "open_source", lambda *_, **__: source)
    return source


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_in_a_step_costs_what_it_held_and_no_more(
    step: str,
    own_cluster: distributed.Client,
    small_config: Any,
    scripted: ScriptedSource,
    tmp_path: Path,
) -> None:
    flag, path, log = tmp_path / "died", tmp_path / "disturbed.zarr", Path(scripted.log)
    run(small_config)
    undisturbed = stored(small_config["output"]["path"])
    log.write_text("")
    own_cluster.register_plugin(DieOnce(*STEPS[step], flag))
    small_config["output"]["path"] = str(path)

    run(small_config)

    assert flag.exists(), "no worker died"
    assert stored(path) == undisturbed
    assert verify_store(path).sound
    records = RunStore.view(path).done_blocks("align").values()
    assert sorted(record.block for record in records) == list(range(N_BLOCKS))
    read = blocks_read(log)
    # what was in flight at most: the block being done, and those done but not fetched yet
    assert sum(read.values()) - N_BLOCKS <= N_WORKERS * Limits().blocks_per_thread, read
    assert set(read) == set(range(N_BLOCKS))


def blocks_read(log: Path) -> Counter[int]:
    """How often the workers read each block as a whole."""
    found: Counter[int] = Counter()
    for line in log.read_text().splitlines():
        process, start, stop = (int(word) for word in line.split())
        if process != os.getpid() and stop - start == BLOCK_FRAMES:
            found[start // BLOCK_FRAMES] += 1
    assert not np.any([count > 2 for count in found.values()])
    return found
