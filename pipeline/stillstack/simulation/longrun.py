"""Simulated runs of days, with their truth: drift, day and night, jumps, gaps, changing content.

The frames are made as those of a `SimulatedStack` are: from formulas, each from its number and the
seed alone. The pattern changes while it drifts: rings or spots fade and others grow, so that the
last frames no longer resemble the first, although nothing in them has moved but the drift.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.simulation.beamblock import beam_block_valid, transmission
from stillstack.simulation.scene import (
    Part,
    Rings,
    Scene,
    Spots,
    Valid,
    at_dose,
    crystal_scene,
    generator,
    powder_scene,
)

Floats = NDArray[np.float64]

_MOTION_STREAM: Final = 2**63 + 4
_EVENT_STREAM: Final = 2**63 + 5
_CONTENT_STREAM: Final = 2**63 + 6
_DAY_S: Final = 86400.0
_SATURATION: Final = 65534


@dataclass(frozen=True)
class Motion:
    """What moves the pattern and interrupts a long run.

    Parameters
    ----------
    drift_px
        Largest distance along one axis that the slow drift gets from where it began.
    day_px
        Amplitude of the cycle of day and night.
    jitter_px
        Standard deviation per axis of what is new in every frame.
    jumps
        How many times the pattern moves at once and stays there.
    jump_px
        How far, along each axis, to either side.
    gaps
        How many times nothing is recorded for half an hour to two hours.
    losses
        How many times the beam is lost, for 0.2 % of the frames each.
    """

    drift_px: float = 5.0
    day_px: float = 1.5
    jitter_px: float = 0.1
    jumps: int = 2
    jump_px: float = 1.5
    gaps: int = 2
    losses: int = 2


@dataclass(frozen=True, eq=False)
class Timeline:
    """When each frame of a long run is taken and where it is.

    Parameters
    ----------
    time
        (n,) seconds since the first frame.
    shift
        (n, 2) registering shifts (y, x), px, (0, 0) at the first frame; NaN without a beam.
    jumps
        Numbers of the frames that are the first ones at a new place.
    gaps
        Numbers of the frames that are the first ones after a gap.
    lost
        Numbers of the frames without a beam.
    """

    time: Floats
    shift: Floats
    jumps: tuple[int, ...]
    gaps: tuple[int, ...]
    lost: tuple[int, ...]


def long_timeline(
    n_frames: int, hours: float = 72.0, motion: Motion | None = None, seed: int = 0
) -> Timeline:
    """Times and true shifts of a long run, without its frames.

    Parameters
    ----------
    n_frames
        Number of frames.
    hours
        From the first frame to the last, the gaps included.
    motion
        How it moves. Default: ``Motion()``.
    seed
        Of everything.

    Raises
    ------
    InputError
        If there are too few frames for the events, or the gaps do not fit into the hours.

    Examples
    --------
    >>> run = long_timeline(1000, hours=72, seed=1)
    >>> run.shift.shape, len(run.jumps), round(run.time[-1] / 3600)
    ((1000, 2), 2, 72)
    """
    motion = Motion() if motion is None else motion
    n_events = motion.jumps + motion.gaps + motion.losses
    if n_frames < 4 * (n_events + 1) or not hours > 2.0 * motion.gaps:
        raise InputError(
            f"{n_frames} frames in {hours} hours cannot hold {n_events} jumps, gaps and losses.",
            consequence="No such run can be simulated.",
            cure=f"Use {4 * (n_events + 1)} frames or more, over 2 hours a gap; or fewer events.",
        )
    rng = generator(seed, _EVENT_STREAM)
    # One event somewhere in the middle of each of as many equal spans: none touches another.
    edges = np.linspace(0, n_frames, n_events + 1)
    inside = rng.uniform(0.3, 0.7, n_events)
    places = rng.permutation((edges[:-1] + inside * np.diff(edges)).astype(int))
    jumps, gaps, losses = np.split(places, [motion.jumps, motion.jumps + motion.gaps])
    time = _times(n_frames, hours, np.sort(gaps), rng)
    shift = _shifts(time, motion, jumps, generator(seed, _MOTION_STREAM))
    length = max(1, n_frames // 500)
    lost = sorted({min(at + k, n_frames - 1) for at in losses.tolist() for k in range(length)})
    shift[lost] = np.nan
    return Timeline(time, shift, _numbers(jumps), _numbers(gaps), tuple(lost))


def _times(n_frames: int, hours: float, gaps: NDArray[Any], rng: np.random.Generator) -> Floats:
    pauses = rng.uniform(1800.0, 7200.0, gaps.size)
    step = (hours * 3600.0 - float(pauses.sum())) / max(n_frames - 1, 1)
    time = np.asarray(step * np.arange(n_frames), np.float64)
    for at, pause in zip(gaps, pauses, strict=True):
        time[at:] += pause
    return time


def _shifts(time: Floats, motion: Motion, jumps: NDArray[Any], rng: np.random.Generator) -> Floats:
    share = (time / max(time[-1], 1.0))[:, None, None]
    turns = np.arange(1, 5)[:, None]
    wave = np.cos(np.pi * turns * share + rng.uniform(0, 2 * np.pi, (4, 2)))
    slow = (wave * rng.normal(size=(4, 2)) / turns).sum(axis=1)
    slow -= slow[:1]
    slow *= motion.drift_px / max(np.abs(slow).max(), 1e-12)
    phase = rng.uniform(0, 2 * np.pi, 2)
    day = np.sin(2 * np.pi * time[:, None] / _DAY_S + phase)
    shift = slow + motion.day_px * (day - day[:1])
    for at in jumps:
        shift[at:] += motion.jump_px * rng.choice([-1.0, 1.0], 2)
    shift[1:] += rng.normal(0, motion.jitter_px, (len(time) - 1, 2))
    return np.asarray(shift)


def _numbers(places: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(place) for place in np.sort(places))


def evolving_scenes(
    shape: tuple[int, int], dose: float = 60.0, seed: int = 0, kind: str = "powder"
) -> tuple[Scene, Scene]:
    """First and last pattern of a sample that changes: no ring or spot is in both.

    The centre, the lattice and the smooth background are the same, and so is the mean.

    Parameters
    ----------
    shape
        Rows and columns.
    dose
        Mean counts a pixel over the valid area.
    seed
        Of the scene.
    kind
        "powder" or "crystal".

    Examples
    --------
    >>> first, last = evolving_scenes((64, 64))
    >>> first.parts[1].height[1], last.parts[1].height[0]
    (0.0, 0.0)
    """
    if kind == "powder":
        scene = powder_scene(shape, dose, seed=seed)
    elif kind == "crystal":
        scene = crystal_scene(shape, dose, seed=seed)
    else:
        raise InputError(
            f"There is no evolving scene called {kind!r}.", cure="Use powder or crystal."
        )
    first = replace(scene, parts=tuple(_half(part, seed, 0) for part in scene.parts))
    last = replace(scene, parts=tuple(_half(part, seed, 1) for part in scene.parts))
    return at_dose(first, dose), at_dose(last, dose)


def _half(part: Part, seed: int, which: int) -> Part:
    """Every other ring, or a random half of the spots; anything else as it is."""
    if isinstance(part, Rings):
        order = np.arange(len(part.height))
    elif isinstance(part, Spots):
        order = generator(seed, _CONTENT_STREAM).permutation(len(part.height))
    else:
        return part
    kept = np.where(order % 2 == which, part.height, 0.0)
    return replace(part, height=tuple(kept.tolist()))


@dataclass(frozen=True, eq=False)
class LongRun:
    """Frames of a long run, made one by one, with their truth; see `simulate_long_run`.

    It is a source as it stands: it can be read in ranges and has coordinates.

    Parameters
    ----------
    scenes
        What the frames show where ``content`` is 0 and where it is 1.
    timeline
        When and where.
    content
        (n,) 0 to 1: how much of the last pattern has come.
    seed
        Of the noise.
    more_coords
        Coordinates besides ``time`` and ``content``.
    """

    scenes: tuple[Scene, Scene]
    timeline: Timeline
    content: Floats
    seed: int
    more_coords: Mapping[str, NDArray[Any]]

    name = "simulated run"
    chunk_frames = 1

    def __len__(self) -> int:
        return len(self.content)

    def __repr__(self) -> str:
        n_frames, height, width = self.shape
        hours, names = self.timeline.time[-1] / 3600.0, ", ".join(self.coords)
        return f"<LongRun of {n_frames} frames of {height} x {width}, {hours:.3g} h, with {names}>"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        return (len(self), *self.scenes[0].shape)

    @property
    def dtype(self) -> np.dtype[np.uint16]:
        """Of the frames."""
        return np.dtype(np.uint16)

    @property
    def shift(self) -> Floats:
        """(n, 2) true registering shifts, px; NaN without a beam."""
        return self.timeline.shift

    @property
    def valid(self) -> Valid:
        """True where a pixel counts: outside the beam-block and its margin."""
        return beam_block_valid(self.scenes[0].shape)

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """``time`` in seconds, ``content``, and those that were given."""
        return {"time": self.timeline.time, "content": self.content, **self.more_coords}

    @property
    def attrs(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def expected(self, index: int) -> Floats:
        """Return one frame's expected counts, before noise: all zero without a beam."""
        shift = self.shift[index]
        if not np.all(np.isfinite(shift)):
            return np.zeros(self.scenes[0].shape)
        part = float(self.content[index])
        bright = np.zeros(self.scenes[0].shape)
        for scene, weight in zip(self.scenes, (1.0 - part, part), strict=True):
            if weight > 0.0:
                bright += weight * scene.expected(shift)
        return bright * transmission(self.scenes[0].shape)

    def frame(self, index: int) -> NDArray[np.uint16]:
        """One frame, uint16 (y, x): the same for the same seed and index, in any process."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of a run of {len(self)}")
        counts = generator(self.seed, index).poisson(self.expected(index))
        return np.minimum(counts, _SATURATION).astype(np.uint16)

    def read(self, start: int, stop: int) -> NDArray[np.uint16]:
        """Frames ``start`` to ``stop``, the last excluded, as one array."""
        frames = np.empty((max(stop - start, 0), *self.scenes[0].shape), np.uint16)
        for place, index in enumerate(range(start, stop)):
            frames[place] = self.frame(index)
        return frames

    def fingerprint(self) -> str:
        """Hex digest of what the frames are made of."""
        made_of = hashlib.sha256(repr((self.scenes, self.seed)).encode())
        made_of.update(self.shift.tobytes())
        made_of.update(self.content.tobytes())
        return made_of.hexdigest()


def simulate_long_run(
    n_frames: int,
    shape: tuple[int, int],
    *,
    hours: float = 72.0,
    dose: float = 60.0,
    seed: int = 0,
    motion: Motion | None = None,
    content: Sequence[float] | Floats | None = None,
    scenes: tuple[Scene, Scene] | str = "powder",
    coords: Mapping[str, NDArray[Any]] | None = None,
) -> LongRun:
    """Run of days behind a static beam-block, with the truth of its drift and of its content.

    Parameters
    ----------
    n_frames, shape
        Number of frames; rows and columns of each.
    hours
        From the first frame to the last.
    dose
        Mean counts a pixel over the valid area.
    seed
        Of everything. Equal arguments give equal frames.
    motion
        How it moves, and what interrupts it. Default: ``Motion()``.
    content
        (n,) 0 to 1, how much of the last pattern has come. Default: from 0 to 1 with time.
    scenes
        "powder", "crystal", or the first and the last pattern.
    coords
        More coordinates, each of shape (n,).

    Returns
    -------
    LongRun
        Nothing is computed before a frame is asked for.

    Raises
    ------
    InputError
        For sizes, events or contents that make no sense.

    Examples
    --------
    >>> run = simulate_long_run(200, (64, 64), seed=3)
    >>> run.frame(7).dtype, sorted(run.coords), float(run.content[-1])
    (dtype('uint16'), ['content', 'time'], 1.0)
    """
    timeline = long_timeline(n_frames, hours, motion, seed)
    both = evolving_scenes(shape, dose, seed, scenes) if isinstance(scenes, str) else scenes
    if content is None:
        share = timeline.time / max(timeline.time[-1], 1.0)
    else:
        share = np.asarray(content, np.float64)
    if share.shape != (n_frames,) or not (np.all(share >= 0.0) and np.all(share <= 1.0)):
        raise InputError(
            f"The content of {n_frames} frames was given with shape {share.shape}"
            + (f", from {share.min()} to {share.max()}." if share.size else "."),
            cure="Give one number from 0 to 1 for each frame.",
        )
    return LongRun(both, timeline, share, seed, dict(coords or {}))
