"""Compiled kernels give the same bits whether just compiled or taken from the cache."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from stillstack import kernels
from stillstack.kernels.compiling import locked

PROGRAM = """
import hashlib
import numpy as np
from stillstack import prepare_reference, register_frame
from stillstack.kernels.resampling import INTERPOLATIONS, resample_frame
from stillstack.simulation import beam_block_valid, crystal_scene, powder_scene

bits = hashlib.sha256()
rng = np.random.default_rng(0)
shape = (150, 170)
valid = beam_block_valid(shape)
for scene in (crystal_scene(shape), powder_scene(shape, ring_width_px=9.0)):
    for n_frames in (1, 64):
        image = rng.poisson(scene.expected() * n_frames) / n_frames
        reference = prepare_reference(image, valid, max_shift_px=16, n_frames=n_frames)
        for dtype in ("u2", "f4"):
            frame = rng.poisson(scene.expected((3.3, -2.2))).astype(dtype)
            frame[40, 50] = 9000
            found = register_frame(frame, reference)
            for name in found.__dataclass_fields__:
                bits.update(np.asarray(getattr(found, name)).tobytes())
            for interpolation in INTERPOLATIONS:
                some = valid & (rng.random(shape) > 0.01)
                moved = resample_frame(
                    frame, (3.3, -2.2), valid=some, interpolation=interpolation, dtype=dtype
                )
                bits.update(moved.image.tobytes())
print(bits.hexdigest())
"""


def bits(cache: Path, blas_threads: int = 1) -> str:
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(cache),
        "OPENBLAS_NUM_THREADS": str(blas_threads),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.slow
def test_results_are_the_same_bits_when_kernels_come_from_the_cache(tmp_path: Path) -> None:
    fresh = bits(tmp_path)
    assert list(tmp_path.rglob("*.nbi"))
    assert bits(tmp_path) == fresh
    # The coordinator's libraries use all cores, a worker's one.
    assert bits(tmp_path, blas_threads=os.cpu_count() or 2) == fresh
    # What a process compiles while another has compiled only some of it, as on a cluster's start.
    for k, index in enumerate(sorted(tmp_path.rglob("*.nbi"))):
        if k % 2:
            index.unlink()
    assert bits(tmp_path) == fresh


def test_a_locked_view_is_the_array_and_cannot_be_written() -> None:
    array = np.arange(3)
    view = locked(array)
    assert np.shares_memory(view, array)
    assert array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def kernel_modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.iter_modules(kernels.__path__)]
    return [importlib.import_module(f"stillstack.kernels.{name}") for name in names]


def test_every_kernel_runs_without_the_gil_and_on_one_thread() -> None:
    found = {
        value
        for module in kernel_modules()
        for value in vars(module).values()
        if isinstance(value, Dispatcher)
    }
    assert len(found) > 50
    for kernel in found:
        assert kernel.targetoptions["nogil"], kernel
        assert not kernel.targetoptions.get("parallel"), kernel
