"""Time and memory of registering one frame: ``python tests/benchmarks/registration.py``.

CPU time of one thread on uint16 powder frames with a beam-block, 60 counts a pixel, whose true
shifts are known. Every answer is checked before anything is timed. Frames come from memory: as many
different ones are taken in turn as no cache holds (12 of 2048x2048), and the figure is the mean
over them of the least time of each. Memory is what the process grows by, above its level before
the first call on frames of that size, so that scratch kept between calls counts; the code was
compiled and run before, on small frames. What is compared is timed by turns in one process.
``--short`` takes fewer runs, leaves out 8192x8192 (whose frames and reference take minutes and
8 GiB to make) and looks at scikit-image's memory on 1024x1024. ``--out FILE`` writes the tables as
Markdown, ``--strict`` exits with 1 if a figure is missed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from numpy.typing import NDArray
from scorecard import Row, finish, header, options, table
from skimage.registration import phase_cross_correlation

from stillstack import Reference, prepare_reference, register_frame
from stillstack.simulation import beam_block, beam_block_valid, powder_scene

MAX_SHIFT_PX = 64
DOSE = 60.0
N_REFERENCE = 64
RANGE_PX = 30.0
# Together larger than the last cache of most machines.
IN_TURN_BYTES = 100e6
OUT = 0.01


@dataclass(frozen=True, eq=False)
class Case:
    """Frames with their true shifts, and the image that they are registered to."""

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    frames: list[NDArray[np.uint16]]
    shifts: NDArray[np.float64]

    def reference(self) -> Reference:
        return prepare_reference(
            self.image, self.valid, max_shift_px=MAX_SHIFT_PX, n_frames=N_REFERENCE
        )

    def validities(self, seed: int = 1) -> list[NDArray[np.bool_]]:
        """Valid pixels of each frame, others in each, with one in a hundred out."""
        rng = np.random.default_rng(seed)
        return [self.valid & (rng.random(self.valid.shape) > OUT) for _ in self.frames]


@dataclass(frozen=True, eq=False)
class Kind:
    """Frames, and how they are registered."""

    frames: list[NDArray[Any]]
    reference: Reference
    own: list[Any]


def make_case(side: int, width: float, n_frames: int | None = None) -> Case:
    shape = (side, side)
    rng = np.random.default_rng(side)
    scene = powder_scene(shape, dose=DOSE, ring_width_px=width)
    through = beam_block(shape).astype(np.float32)
    if n_frames is None:
        n_frames = int(np.clip(np.ceil(IN_TURN_BYTES / (2 * side**2)), 3, 48))

    def expected(shift: Any) -> NDArray[np.float64]:
        made = scene.expected(shift)
        made *= through
        return made

    shifts = rng.uniform(-RANGE_PX, RANGE_PX, (n_frames, 2))
    image = (rng.poisson(expected((0.0, 0.0)) * N_REFERENCE) / N_REFERENCE).astype(np.float32)
    frames = [rng.poisson(expected(shift)).astype(np.uint16) for shift in shifts]
    return Case(image, beam_block_valid(shape), frames, shifts)


def check(case: Case, reference: Reference, own: list[Any]) -> float:
    """Largest error, px; none may be rejected or further off than its error bar allows."""
    errors = []
    for frame, shift, valid in zip(case.frames, case.shifts, own, strict=True):
        found = register_frame(frame, reference, valid)
        assert found.good, found
        error = np.abs(found.shift - shift)
        limit = 5.0 * np.hypot(found.shift_std, reference.reference_std)
        assert np.all(error < limit), (found.shift, shift, limit)
        errors.append(error)
    return float(np.max(errors))


def least_seconds(kinds: list[Kind], rounds: int) -> list[float]:
    """For each kind, mean over its frames of the least CPU time of each, s.

    The frames are taken in turn and the kinds by turns, so that all see the same machine.
    """
    best = [np.full(len(kind.frames), np.inf) for kind in kinds]
    for _ in range(rounds):
        for kind, least in zip(kinds, best, strict=True):
            for k, (frame, valid) in enumerate(zip(kind.frames, kind.own, strict=True)):
                started = time.process_time()
                register_frame(frame, kind.reference, valid)
                least[k] = min(least[k], time.process_time() - started)
    return [float(least.mean()) for least in best]


# ------------------------------------------------------------------ memory of one call


def settle_memory() -> int:
    """Give back what is free, and return the resident bytes from which to count."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    return memory("VmRSS")


def memory(which: str) -> int:
    """A figure of /proc/self/status, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return 1024 * int(line.split()[1])
    raise RuntimeError(which)


def grown(calls: list[Callable[[], Any]]) -> int:
    """Bytes above the level before the first call that a later call reaches."""
    before = settle_memory()
    calls[0]()
    settle_memory()
    for call in calls[1:]:
        call()
    return memory("VmHWM") - before


def touched(case: Case) -> None:
    """Have everything that the call is given in memory beforehand."""
    for array in (case.image, case.valid, *case.frames):
        array.max()


def memory_of_register(side: int, width: float, n_out: float) -> int:
    case, small = make_case(side, width, 3), make_case(512, width, 3)
    reference = case.reference()
    to = small.reference()
    for frame, valid in zip(small.frames, small.validities(), strict=True):
        register_frame(frame, to, None if n_out == 0.0 else valid)
    own: list[Any] = [None] * 3 if n_out == 0.0 else list(case.validities())
    touched(case)

    def call(k: int) -> Callable[[], Any]:
        return lambda: register_frame(case.frames[k], reference, own[k])

    return grown([call(k) for k in range(3)])


def memory_of_skimage(side: int, width: float, dtype: str) -> int:
    case, small = make_case(side, width, 2), make_case(256, width, 2)
    ours = case.image.astype(dtype), [frame.astype(dtype) for frame in case.frames]
    masks = {"reference_mask": small.valid, "moving_mask": small.valid}
    phase_cross_correlation(small.image.astype(dtype), small.frames[0].astype(dtype), **masks)
    touched(case)
    masks = {"reference_mask": case.valid, "moving_mask": case.valid}
    return grown([lambda f=f: phase_cross_correlation(ours[0], f, **masks) for f in ours[1]])  # type: ignore[misc]


def cost_of_prepare(side: int, width: float) -> tuple[float, int, int]:
    """CPU time, bytes above the level before, and bytes of what is made."""
    case, small = make_case(side, width, 3), make_case(512, width, 3)
    small.reference()
    touched(case)
    before = settle_memory()
    started = time.process_time()
    reference = case.reference()
    seconds = time.process_time() - started
    return seconds, memory("VmHWM") - before, reference.nbytes


# ------------------------------------------------------------------ time of one call


def time_of_kinds(side: int, rounds: int) -> dict[str, tuple[float, float, int]]:
    """For each kind of frame: seconds, largest error, and how many frames."""
    case, narrow = make_case(side, 9.0), make_case(side, 3.0)
    reference = case.reference()
    nothing: list[Any] = [None] * len(case.frames)
    single = replace(case, frames=[frame.astype(np.float32) for frame in case.frames])
    kinds = {
        "static": (case, reference, nothing),
        "own": (case, reference, case.validities()),
        "float32": (single, reference, nothing),
        "narrow": (narrow, narrow.reference(), [None] * len(narrow.frames)),
    }
    errors = [check(*kind) for kind in kinds.values()]
    found = least_seconds([Kind(c.frames, to, own) for c, to, own in kinds.values()], rounds)
    return {
        name: (seconds, error, len(own))
        for (name, (_, _, own)), seconds, error in zip(kinds.items(), found, errors, strict=True)
    }


def time_of_sizes(sides: tuple[int, ...], rounds: int) -> list[tuple[float, float, int]]:
    """For each size of frame: seconds, largest error, and how many frames."""
    cases = [make_case(side, 9.0) for side in sides]
    kinds, errors = [], []
    for case in cases:
        kinds.append(Kind(list(case.frames), case.reference(), [None] * len(case.frames)))
        errors.append(check(case, kinds[-1].reference, kinds[-1].own))
    found = least_seconds(kinds, rounds)
    return [(s, e, len(c.frames)) for s, e, c in zip(found, errors, cases, strict=True)]


def time_of_peer(name: str, runs: int) -> tuple[float, float]:
    """Least seconds of a peer, and its error."""
    case = make_case(2048, 9.0, runs)
    call = PEERS[name]
    best, worst = np.inf, 0.0
    # Once for nothing: plans, tables, imports.
    call(make_case(256, 9.0, 1), 0)
    for k, shift in enumerate(case.shifts):
        started = time.process_time()
        answer = call(case, k)
        best = min(best, time.process_time() - started)
        # SimpleITK answers with the displacement, of one sign or the other.
        error = min(np.abs(answer - shift).max(), np.abs(answer + shift).max())
        assert error < 1.0, (name, answer, shift)
        worst = max(worst, error)
    return float(best), float(worst)


def _skimage(case: Case, k: int, dtype: str) -> Any:
    masks = {"reference_mask": case.valid, "moving_mask": case.valid}
    return phase_cross_correlation(case.image.astype(dtype), case.frames[k].astype(dtype), **masks)[
        0
    ]


def _skimage_uint16(case: Case, k: int) -> Any:
    return _skimage(case, k, "uint16")


def _skimage_float32(case: Case, k: int) -> Any:
    return _skimage(case, k, "float32")


def _simple_itk(case: Case, k: int) -> Any:
    sitk: Any = importlib.import_module("SimpleITK")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    arrays = (case.image, case.frames[k], case.valid, case.valid)
    pictures = [sitk.GetImageFromArray(a.astype(np.float32)) for a in arrays]
    ncc = sitk.GetArrayFromImage(sitk.MaskedFFTNormalizedCorrelation(*pictures, 0, 0.3))
    peak = np.unravel_index(ncc.argmax(), ncc.shape)
    return np.array(peak) - (np.array(case.valid.shape) - 1)


PEERS: dict[str, Callable[[Case, int], Any]] = {
    "scikit-image, masked, uint16": _skimage_uint16,
    "scikit-image, masked, float32": _skimage_float32,
    "SimpleITK, masked, float32, one thread": _simple_itk,
}
SINGLE = "scikit-image, masked, float32"
FACTORS = {
    "scikit-image, masked, uint16": 5000,
    "SimpleITK, masked, float32, one thread": 10_000,
}


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


# ------------------------------------------------------------------ the tables


def speed_rows(chosen: argparse.Namespace) -> list[Row]:
    rounds, runs = (10, 1) if chosen.short else (60, 3)
    kinds = apart(time_of_kinds, 2048, rounds)
    one, error, n = kinds["static"]
    rows = [Row((f"stillstack, rings of 9 px, {n} frames in turn", ms(one), "1", px(error)))]
    own, error, _ = kinds["own"]
    what = "stillstack, each frame with its own valid pixels, 1 % of them out"
    cells = (what, ms(own), times(own, one), px(error))
    rows.append(Row(cells, "at most 1.5", own <= 1.5 * one))
    for name, what in (("float32", "float32 input"), ("narrow", "rings of 3 px")):
        seconds, error, n = kinds[name]
        cells = (f"stillstack, {what}, {n} in turn", ms(seconds), times(seconds, one), px(error))
        rows.append(Row(cells))
    single = kinds["float32"][0]
    for name in PEERS:
        if name.startswith("SimpleITK") and importlib.util.find_spec("SimpleITK") is None:
            continue
        seconds, error = apart(time_of_peer, name, runs if name.startswith("scikit") else 1)
        wanted = FACTORS.get(name)
        must = "" if wanted is None else f"at least {wanted:,}"
        reached = None if wanted is None else seconds >= wanted * one
        ratio = times(seconds, one)
        if name == SINGLE:
            ratio += f"; {times(seconds, single)} times ours of float32"
        rows.append(Row((name, ms(seconds), ratio, px(error)), must, reached))
    return rows


def size_rows(chosen: argparse.Namespace) -> list[Row]:
    sides = (2048, 256, 1024, 4096) if chosen.short else (2048, 256, 1024, 4096, 8192)
    found = dict(zip(sides, apart(time_of_sizes, sides, 10 if chosen.short else 60), strict=True))
    unit = found[2048][0] / 2048**2
    rows = []
    for side in sorted(sides):
        seconds, error, n = found[side]
        relative = seconds / side**2 / unit
        must, reached = "", None
        if side == 256:
            must, reached = "at most 1 ms", seconds <= 1e-3
        elif side != 2048:
            must, reached = "at most 1.5 times 2048's", relative <= 1.5
        per_pixel = f"{1e9 * seconds / side**2:.3f} ns, {relative:.2f}"
        rows.append(Row((f"{side}x{side}, {n}", ms(seconds), per_pixel, px(error)), must, reached))
    return rows


def memory_rows(chosen: argparse.Namespace) -> list[Row]:
    side, width = 2048, 9.0
    frame = 4 * side**2
    rows = []
    for name, n_out in (("static valid pixels", 0.0), ("its own valid pixels, 1 % out", OUT)):
        used = apart(memory_of_register, side, width, n_out)
        limit = 2.0 * frame
        rows.append(
            Row(
                (f"register_frame, {name}", mib(used), f"{used / frame:.2f}", ""),
                "at most 2 frames",
                used <= limit,
            )
        )
    used = apart(memory_of_register, side, 3.0, 0.0)
    rows.append(
        Row(
            ("register_frame, rings of 3 px", mib(used), f"{used / frame:.2f}", ""),
            "at most 2 frames",
            used <= 2.0 * frame,
        )
    )
    peer = 1024 if chosen.short else side
    for dtype in ("uint16",) if chosen.short else ("uint16", "float32"):
        used = apart(memory_of_skimage, peer, width, dtype)
        name = f"scikit-image, masked, {dtype}, {peer}x{peer}"
        rows.append(Row((name, mib(used), f"{used / (4 * peer**2):.1f}", "")))
    for width, size in (
        ((9.0, 2048),)
        if chosen.short
        else (
            (9.0, 1024),
            (9.0, 2048),
            (3.0, 2048),
            (9.0, 4096),
        )
    ):
        seconds, used, kept = apart(cost_of_prepare, size, width)
        frames = used / (4 * size**2)
        rows.append(
            Row(
                (
                    f"prepare_reference, {size}x{size}, rings of {width:g} px",
                    mib(used),
                    f"{frames:.1f}",
                    f"{seconds:.2f} s CPU; makes {mib(kept)}",
                )
            )
        )
    return rows


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f} ms"


def px(error: float) -> str:
    return f"{error:.4f}"


def mib(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def times(seconds: float, one: float) -> str:
    return f"{seconds / one:,.0f}" if seconds > 10.0 * one else f"{seconds / one:.2f}"


def main() -> None:
    """Check the answers, then time them, then print the tables."""
    chosen = options(__doc__)
    speed, sizes, used = speed_rows(chosen), size_rows(chosen), memory_rows(chosen)
    lines = [
        f"{header('registration.py', chosen)} One thread.",
        "",
        *table(
            ("one frame of 2048x2048", "CPU time", "over the first", "largest error, px"), speed
        ),
        "",
        *table(
            ("side, frames in turn", "CPU time", "a pixel, over 2048's", "largest error, px"), sizes
        ),
        "",
        *table(("memory beyond the arguments", "peak", "float32 frames", ""), used),
    ]
    finish(lines, [*speed, *sizes, *used], chosen)


if __name__ == "__main__":
    main()
