"""Makes the golden stores of this version: a complete run, one that was interrupted, their frames.

    python tests/golden/make_golden.py

Run it for each version that is released, and again while a version that is not released yet changes
what it stores. Never make those of a released version again: they stand for stores that people
have.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import yaml
from distributed import Client, LocalCluster

import stillstack
from stillstack import blockwork, prepare
from stillstack.run import run
from stillstack.simulation import beam_block_figure, simulate_stack
from stillstack.storage.prepared import FOLDER
from stillstack.watch.progress import Progress

make_cluster: Any = LocalCluster  # distributed is not typed
make_client: Any = Client

SHAPE = (64, 64)
N_FRAMES = 12
BLOCKS_DONE = 2
FRAMES = Path("/tmp/stillstack-golden/frames.npy")  # noqa: S108
"""Where the frames are when a run is made or finished: what a config says of them is part of it."""
MODIFIED_NS = 1_700_000_000 * 10**9
"""When they were modified: part of their fingerprint, and nothing that a checkout keeps."""
NAMELESS = SimpleNamespace(gethostname=lambda: "golden")


class StoppedError(Exception):
    """Ends a run in the middle."""


def place_frames(golden: Path) -> None:
    """Bring the frames to where the configs of golden runs say that they are."""
    FRAMES.parent.mkdir(exist_ok=True)
    # whole at once, for tests that run side by side
    beside = FRAMES.with_suffix(f".{os.getpid()}")
    shutil.copy(golden / "frames.npy", beside)
    os.utime(beside, ns=(MODIFIED_NS, MODIFIED_NS))
    beside.replace(FRAMES)


def write_frames(golden: Path) -> None:
    """Write 12 frames, the eighth of which is blank."""
    stack = simulate_stack(N_FRAMES, SHAPE, dose=40.0, seed=3, planted=False, drift_px=3.0)
    frames = np.minimum(stack.read(0, N_FRAMES), 250).astype(np.uint8)
    frames[7] = 0
    np.save(golden / "frames.npy", frames)


def config_of(output: str) -> dict[str, Any]:
    """Sections of the config of a golden run."""
    figure = beam_block_figure(SHAPE, margin_px=1.0)
    excluded = [{"rectangle": list(figure.rod)}, {"circle": list(figure.disc)}]
    return {
        "input": {"path": str(FRAMES)},
        "output": {"path": output, "block_frames": 3, "chunk_frames": 3},
        "valid": {"frames": {"exclude": excluded}},
        "reference": {"kind": "first"},
        "registration": {"max_shift_px": 8},
        "alignment": {"dtype": "input"},
        "cluster": {"workers": 1},
    }


def write_runs(golden: Path) -> None:
    """Make the run, and once more until two of its blocks are done."""
    found = run(config_of(str(golden / "complete.zarr")))
    shift, aligned = found["shift"].values, found["aligned"].values
    expected = {
        "shift": np.where(np.isfinite(shift), shift, 0.0).tolist(),
        "status": found["status"].values.tolist(),
        "sum": np.nansum(aligned, axis=(1, 2)).astype(float).tolist(),
    }
    (golden / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")

    def stop(now: Progress) -> None:
        if now.blocks_done == BLOCKS_DONE:
            raise StoppedError

    with contextlib.suppress(StoppedError):
        run(config_of(str(golden / "unfinished.zarr")), progress=stop)


def tidy(store: Path) -> None:
    """Remove what a run leaves that is of no use later, or serves one version alone."""
    for left in ("lock", "holder.json", "tmp", "log.txt", FOLDER.rpartition("/")[2]):
        place = store / "run" / left
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)


def main() -> None:
    """Write everything beside this script."""
    golden = Path(__file__).resolve().parent / f"run-{stillstack.__version__}"
    shutil.rmtree(golden, ignore_errors=True)
    golden.mkdir()
    write_frames(golden)
    place_frames(golden)
    config = config_of("aligned.zarr")
    (golden / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    with (
        mock.patch.object(blockwork, "socket", NAMELESS),
        mock.patch.object(prepare, "socket", NAMELESS),
        make_cluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        make_client(cluster),
    ):
        write_runs(golden)
    for name in ("complete.zarr", "unfinished.zarr"):
        tidy(golden / name)


if __name__ == "__main__":
    main()
