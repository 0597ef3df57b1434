"""Simulated pump-probe runs: a powder whose rings fade after the pump, with the truth of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillstack.errors import InputError
from stillstack.simulation.longrun import LongRun, Motion, simulate_long_run
from stillstack.simulation.scene import Part, Rings, Scene, powder_scene

ON = "on"
OFF = "off"


def pump_response(delay: ArrayLike, rise: float) -> NDArray[np.float64]:
    """How much of the pump's effect is there at a delay: 0 up to time zero, then 1 - exp(-t/rise).

    Examples
    --------
    >>> pump_response([-1.0, 0.0, 0.5], rise=0.5).round(3)
    array([0.   , 0.   , 0.632])
    """
    after = np.maximum(np.asarray(delay, np.float64), 0.0)
    response: NDArray[np.float64] = -np.expm1(-after / rise)
    return response


def simulate_pump_probe(
    delays: Sequence[float] | NDArray[np.float64],
    shape: tuple[int, int],
    *,
    scans: int = 4,
    repeats: int = 4,
    fading: float = 0.3,
    rise: float = 0.5,
    dose: float = 60.0,
    seed: int = 0,
    hours: float = 24.0,
    motion: Motion | None = None,
) -> LongRun:
    """Pump-probe run behind a static beam-block: pumped and unpumped frames in turn, drifting.

    Long after the pump the rings have faded as lattice vibrations make them (Debye and Waller): the
    ring at radius r is left with ``(1 - fading) ** ((r / largest r) ** 2)`` of its height.

    Parameters
    ----------
    delays
        Of the probe after the pump, in any unit of time.
    shape
        Rows and columns.
    scans
        How often all delays are gone through.
    repeats
        Pairs of a pumped and an unpumped frame at each delay of a scan.
    fading
        Part of the outermost ring's height that is gone long after the pump, 0 to 1.
    rise
        Time in which 63 % of the effect come, in the unit of the delays.
    dose
        Mean counts a pixel of an unpumped frame over the valid area.
    seed
        Of everything. Equal arguments give equal frames.
    hours
        From the first frame to the last.
    motion
        How it moves, and what interrupts it. Default: ``Motion()``.

    Returns
    -------
    LongRun
        Its coordinates are ``time``, ``delay``, ``pump`` ("on" or "off"), ``scan``, and
        ``content``, the response of each frame. ``scenes`` are the unpumped pattern and that long
        after the pump; a frame in between is their mean, weighted by its response.

    Raises
    ------
    InputError
        For sizes, events or changes that make no sense.

    Examples
    --------
    >>> run = simulate_pump_probe([-1.0, 0.5, 2.0], (64, 64), scans=5, seed=1)
    >>> len(run), run.coords["pump"][:4].tolist(), float(run.content.max().round(3))
    (120, ['on', 'off', 'on', 'off'], 0.982)
    """
    times = np.asarray(delays, np.float64)
    if times.ndim != 1 or not times.size or not np.all(np.isfinite(times)):
        raise InputError(f"The delays are {delays}.", cure="Give a list of finite numbers.")
    if scans < 1 or repeats < 1 or not 0 < fading < 1 or not rise > 0:
        raise InputError(
            f"{scans} scans of {repeats} pairs were asked for, fading by {fading} in {rise}.",
            consequence="No such run can be simulated.",
            cure="Use one scan and pair or more, a fading between 0 and 1, a positive rise.",
        )
    delay = np.tile(np.repeat(times, 2 * repeats), scans)
    pump = np.tile([ON, OFF], delay.size // 2)
    unpumped = powder_scene(shape, dose, seed=seed)
    return simulate_long_run(
        delay.size,
        shape,
        hours=hours,
        seed=seed,
        motion=motion,
        content=np.where(pump == ON, pump_response(delay, rise), 0.0),
        scenes=(unpumped, _faded(unpumped, fading)),
        coords={
            "delay": delay,
            "pump": pump,
            "scan": np.repeat(np.arange(scans), delay.size // scans),
        },
    )


def _faded(scene: Scene, fading: float) -> Scene:
    return replace(scene, parts=tuple(_faded_part(part, fading) for part in scene.parts))


def _faded_part(part: Part, fading: float) -> Part:
    if not isinstance(part, Rings):
        return part
    radius = np.array(part.radius_px)
    left = (1.0 - fading) ** ((radius / radius.max()) ** 2)
    return replace(part, height=tuple((np.array(part.height) * left).tolist()))
