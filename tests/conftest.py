"""Fixtures that every test file may use: one test body on every scheduler, and real frames."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import hypothesis
import numpy as np
import pytest

import browser as browsers
from object_servers import KEY_ID, SECRET, Bucket, Front, make_bucket, moto_server
from stillstack.simulation import SimulatedStack, beam_block_figure, simulate_stack
from workers import worker_processes

# How long an example takes says something of the machine, and nothing of the program.
hypothesis.settings.register_profile("stillstack", deadline=None)
hypothesis.settings.load_profile("stillstack")


def without(what: str) -> None:
    """Skip a test for want of a program; fail where whoever runs the tests installed them all."""
    if os.environ.get("STILLSTACK_SERVERS_INSTALLED"):
        pytest.fail(what)
    pytest.skip(what)


ENGINES = ("synchronous", "threads", "distributed")


@pytest.fixture(scope="session")
def local_cluster() -> Iterator[Any]:
    """One cluster of one worker process for the whole session; made when first asked for."""
    with worker_processes(1) as cluster:
        yield cluster


@pytest.fixture
def cluster_client(local_cluster: Any) -> Iterator[Any]:
    """A Client on the session's cluster, the default one inside the test only."""
    from distributed import Client

    with Client(local_cluster, set_as_default=True) as client:
        yield client


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of the Dask scheduler on which everything in the test computes."""
    name: str = request.param
    with contextlib.ExitStack() as stack:
        if name == "distributed":
            request.getfixturevalue("cluster_client")
        else:
            stack.enter_context(dask.config.set(scheduler=name))
        yield name


@pytest.fixture(scope="session")
def real_frames() -> Path:
    """Folder of real frames: ``STILLSTACK_REAL_FRAMES``, else ``../shared/data``."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STILLSTACK_REAL_FRAMES", beside))
    if not (folder / "chromium_1.tif").is_file():
        pytest.skip(f"no real frames in {folder}; CONTRIBUTING says what belongs there")
    return folder


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> Iterator[browsers.Browser]:
    """A browser of the test's own; tests that take it have the mark ``browser``."""
    if why_not := browsers.missing():
        without(why_not)
    with browsers.running(request.node.name) as started:
        yield started


@pytest.fixture(scope="session")
def small_stack() -> SimulatedStack:
    """60 drifting frames of 128x128 behind a beam-block, with one bad one of each kind."""
    return simulate_stack(60, (128, 128), seed=4, drift_px=5.0)


@pytest.fixture(scope="session")
def small_stack_file(small_stack: SimulatedStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small stack as a .npy file."""
    path = tmp_path_factory.mktemp("stack") / "small.npy"
    np.save(path, small_stack.read(0, len(small_stack)))
    return path


@pytest.fixture
def small_config(small_stack: SimulatedStack, small_stack_file: Path, tmp_path: Path) -> Any:
    """Sections of a config that runs the small stack into a fresh folder."""
    block = beam_block_figure(small_stack.scene.shape, margin_px=3.0)
    return {
        "input": {"path": str(small_stack_file)},
        "output": {"path": str(tmp_path / "out.zarr"), "block_frames": 4},
        "valid": {"frames": {"exclude": [{"rectangle": block.rod}, {"circle": block.disc}]}},
        "registration": {"max_shift_px": 16},
        "cluster": {"workers": 1},
    }


@pytest.fixture(scope="session")
def object_server() -> Iterator[str]:
    """Host and port of an S3 server on loopback."""
    with moto_server() as address:
        yield address


@contextlib.contextmanager
def store_environment(folder: Path) -> Iterator[None]:
    """Credentials of the loopback server in the environment, and no others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
        patch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
        patch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield


@pytest.fixture
def bucket(object_server: str, tmp_path: Path) -> Iterator[Bucket]:
    """A bucket of the test's own; the environment has credentials for it."""
    with store_environment(tmp_path):
        name = f"bucket-{uuid.uuid4().hex}"
        make_bucket(object_server, name)
        front = Front(object_server)
        yield Bucket(name, front)
        front.close()
