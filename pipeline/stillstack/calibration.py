"""How long the user's own first block takes, measured as a worker would do it.

A process of its own (`stillstack.firstblock`), with a worker's environment and nothing of the
caller's, prepares a stand-in for the reference (made of a few frames), and does the first block a
few times, into a folder beside the output that is removed at the end. What a cluster costs on top
is counted in `stillstack.forecast`.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.cluster import THREAD_CAPS
from stillstack.errors import RunFaultError
from stillstack.layout import Layout
from stillstack.sources import Source

_MOST_BYTES: Final = 128 * 2**20
_TIMEOUT_SECONDS: Final = 300


@dataclass(frozen=True)
class Calibration:
    """Seconds of one worker with the first frames.

    Parameters
    ----------
    frames
        How many frames were timed.
    starting
        From starting a process to having everything imported.
    preparing
        To prepare the reference and to keep it.
    loading
        To read what was kept.
    warming
        What the first block takes longer than the next: kernels are loaded.
    block
        To do the frames, the shortest of a few times.
    block_cpu
        CPU time of that, all threads.
    cold_read
        What the first reading took longer than the next: the disk, where the frames were not in
        memory yet.
    read, register, align
        Of ``block``; the rest is to encode and write.
    written
        Bytes that were stored for the frames; 0 where only shifts are wanted.
    peak
        Largest memory of the process, bytes.
    planning
        To look at the input, as a run does before it begins.
    """

    frames: int
    starting: float
    preparing: float
    loading: float
    warming: float
    block: float
    block_cpu: float
    cold_read: float
    read: float
    register: float
    align: float
    written: int
    peak: int
    planning: float = 0.0

    @property
    def frame(self) -> float:
        """Seconds of one frame."""
        return (self.block + self.cold_read) / self.frames

    @property
    def beside(self) -> float:
        """CPU seconds of one frame beside that: while it is written the next one is computed."""
        return max(0.0, self.block_cpu - self.block) / self.frames

    @property
    def write(self) -> float:
        """Seconds to encode and write the frames."""
        return max(0.0, self.block - self.read - self.register - self.align)

    def to_json(self) -> dict[str, float]:
        """Plain values for JSON."""
        return {key: round(value, 5) for key, value in {**vars(self), "write": self.write}.items()}


@dataclass(frozen=True, eq=False)
class Trial:
    """What the process needs to know; it pickles.

    Parameters
    ----------
    source, layout
        The frames, and how they are cut up.
    image, reference_valid, valid
        Stand-in for the reference, and valid pixels.
    settings
        Keywords of `prepare_reference`.
    interpolation, codec, durable
        As the config says.
    folder
        Where to write.
    began
        When the process was started.
    """

    source: Source
    layout: Layout
    image: NDArray[np.float32]
    reference_valid: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    settings: Mapping[str, Any]
    interpolation: str
    codec: Any
    durable: bool
    folder: str = ""
    began: float = 0.0


def calibrate(trial: Trial, beside: Path) -> Calibration:
    """Time the first block.

    Parameters
    ----------
    trial
        What to do; ``folder`` and ``began`` are filled in here.
    beside
        Folder on the disk that will be written to.

    Raises
    ------
    RunFaultError
        If it could not be done; the message says why.
    """
    trial = replace(trial, layout=_shortened(trial.layout))
    environment = {**THREAD_CAPS, **os.environ}
    with tempfile.TemporaryDirectory(prefix=".stillstack-plan-", dir=beside) as folder:
        package = str(Path(__file__).parents[1])
        path = os.pathsep.join([package, *filter(None, [environment.get("PYTHONPATH")])])
        given = pickle.dumps(replace(trial, folder=folder, began=time.time()))
        try:
            done = subprocess.run(  # this very interpreter
                # -P: nothing in the current folder can stand in for a module
                [sys.executable, "-P", "-m", "stillstack.firstblock"],
                input=given,
                capture_output=True,
                env={**environment, "PYTHONPATH": path},
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunFaultError(f"The first block took over {_TIMEOUT_SECONDS} s.") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing was said"]
        raise RunFaultError(f"The first block could not be tried: {said[-1]}")
    return Calibration(**json.loads(done.stdout.splitlines()[-1]))


def _shortened(layout: Layout) -> Layout:
    """One block and no more, cut down where frames are many or large."""
    frames = min(layout.block_frames, layout.n_frames)
    most = max(1, _MOST_BYTES // max(1, layout.source_bytes))
    if frames > most and not layout.sharded:
        chunk = min(layout.chunk_frames, most)
        frames = most // chunk * chunk
    block = -(-frames // layout.chunk_frames) * layout.chunk_frames
    return replace(layout, n_frames=frames, block_frames=block)
