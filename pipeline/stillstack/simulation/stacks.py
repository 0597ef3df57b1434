"""Stacks of diffraction frames with known shifts, generated from formulas, never interpolated.

Each frame is its scene evaluated where the drift has carried it, behind a beam-block that stands
still, with Poisson noise. It is the oracle that registration and resampling are held to, and shares
no code with either. A frame is made from its number and the seed alone, with a counter-based
generator: any process can make any frame, in any order, and a long stack needs no memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.simulation.beamblock import beam_block_valid, transmission
from stillstack.simulation.scene import (
    Image,
    Scene,
    Valid,
    crystal_scene,
    generator,
    powder_scene,
    textured_scene,
)

PLANTED_REJECTS: Final = ("blank", "saturated", "noise", "jumped")
PLANTED_KINDS: Final = (*PLANTED_REJECTS, "struck")
SCENES: Final = ("powder", "crystal", "textured")

# The seed's streams of random numbers. Frames use their own number, which never gets this far.
_PATH_STREAM: Final = 2**63
_PLANT_STREAM: Final = 2**63 + 1
_INTENSITY_STREAM: Final = 2**63 + 2


def drift_path(
    n_frames: int, seed: int = 0, drift_px: float = 6.0, jitter_px: float = 0.3
) -> NDArray[np.float64]:
    """Return registering shifts of a slow drift with jitter, (0, 0) at frame 0.

    Parameters
    ----------
    n_frames
        Number of frames.
    seed
        Of the path.
    drift_px
        Largest distance along one axis that the slow part gets from where it began.
    jitter_px
        Standard deviation per axis of the part that is new in every frame.

    Returns
    -------
    ndarray of float64, shape (n_frames, 2), (y, x) in pixels.

    Examples
    --------
    >>> drift_path(5, seed=1)[0]
    array([0., 0.])
    """
    rng = generator(seed, _PATH_STREAM)
    time = np.linspace(0, 1, n_frames)[:, None, None]
    turns = np.arange(1, 5)[:, None]
    wave = np.cos(np.pi * turns * time + rng.uniform(0, 2 * np.pi, (4, 2)))
    slow = (wave * rng.normal(size=(4, 2)) / turns).sum(axis=1)
    slow -= slow[:1]
    largest = np.abs(slow).max(initial=0)
    path: NDArray[np.float64] = slow * (drift_px / largest if largest > 0 else 1.0)
    path[1:] += rng.normal(0, jitter_px, (max(n_frames - 1, 0), 2))
    return path


@dataclass(frozen=True, eq=False)
class SimulatedStack:
    """A drifting stack that is made frame by frame, with its truth; see `simulate_stack`.

    Parameters
    ----------
    scene
        What drifts.
    shift
        (n, 2) registering shifts in pixels; NaN where a planted frame shows no scene.
    intensity
        (n,) brightness of each frame relative to the scene.
    planted
        Frame numbers of each planted kind.
    seed
        Of the noise.
    saturation
        Counts at which a pixel saturates.
    dark
        Expected counts behind the beam-block.
    """

    scene: Scene
    shift: NDArray[np.float64]
    intensity: NDArray[np.float64]
    planted: dict[str, tuple[int, ...]]
    seed: int
    saturation: int
    dark: float

    def __len__(self) -> int:
        return len(self.shift)

    def __repr__(self) -> str:
        n_frames, height, width = self.shape
        return f"<SimulatedStack of {n_frames} frames of {height} x {width}, seed {self.seed}>"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        return (len(self), *self.scene.shape)

    @property
    def dtype(self) -> np.dtype[np.uint16]:
        """Of the frames."""
        return np.dtype(np.uint16)

    @property
    def valid(self) -> Valid:
        """True where a pixel counts: outside the beam-block and its margin."""
        return beam_block_valid(self.scene.shape)

    @property
    def rejects(self) -> tuple[int, ...]:
        """Planted frames that no registration may call good, ascending."""
        return tuple(sorted(i for kind in PLANTED_REJECTS for i in self.planted.get(kind, ())))

    def kind(self, index: int) -> str | None:
        """Which planted kind a frame is, or None for an ordinary one."""
        return next((kind for kind, frames in self.planted.items() if index in frames), None)

    def expected(self, index: int) -> Image:
        """Return one frame's expected counts behind the beam-block, before noise and faults."""
        bright = self.scene.expected(self.shift[index])
        return self._behind_block(bright * self.intensity[index])

    def frame(self, index: int) -> NDArray[np.uint16]:
        """One frame, uint16 (y, x): the same for the same seed and index, in any process.

        Raises
        ------
        IndexError
            Where there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of a stack of {len(self)}")
        kind = self.kind(index)
        if kind == "blank":
            # both ways in which a camera gives nothing: no charge, or its offset alone
            offset = 7 * (self.planted["blank"].index(index) % 2)
            return np.full(self.scene.shape, offset, np.uint16)
        if kind == "saturated":
            return np.full(self.scene.shape, self.saturation, np.uint16)
        rng = generator(self.seed, index)
        if kind == "noise":
            counts = rng.poisson(self._behind_block(np.full(self.scene.shape, self._mean())))
        else:
            counts = rng.poisson(self.expected(index))
        if kind == "struck":
            _strike(counts, self._mean(), rng)
        return np.minimum(counts, self.saturation).astype(np.uint16)

    def read(self, start: int, stop: int) -> NDArray[np.uint16]:
        """Frames ``start`` to ``stop``, the last excluded, as one array."""
        frames = np.empty((max(stop - start, 0), *self.scene.shape), np.uint16)
        for place, index in enumerate(range(start, stop)):
            frames[place] = self.frame(index)
        return frames

    def _behind_block(self, bright: Image) -> Image:
        # The block stands still: it is applied after the scene has been displaced.
        through = transmission(self.scene.shape)
        return bright * through + self.dark * (1 - through)

    def _mean(self) -> float:
        return float(self.scene.expected()[self.valid].mean())


def _strike(counts: NDArray[np.int64], mean: float, rng: np.random.Generator) -> None:
    """Add X-ray hits to 0.1 % of the pixels, each of 20 to 1000 times the mean."""
    n_hits = max(1, counts.size // 1000)
    where = rng.choice(counts.size, n_hits, replace=False)
    times = np.exp(rng.uniform(np.log(20), np.log(1000), n_hits))
    counts.flat[where] += np.rint(mean * times).astype(np.int64)


def simulate_stack(
    n_frames: int,
    shape: tuple[int, int],
    *,
    dose: float = 60.0,
    seed: int = 0,
    planted: bool | Mapping[str, Sequence[int]] = True,
    scene: Scene | str = "powder",
    drift_px: float = 6.0,
    jitter_px: float = 0.3,
    intensity_std: float = 0.0,
    jumped_px: float | None = None,
    saturation: int = 4095,
    dark: float = 5.0,
) -> SimulatedStack:
    """Drifting diffraction stack behind a static beam-block, with Poisson noise and bad frames.

    Parameters
    ----------
    n_frames, shape
        Number of frames; rows and columns of each.
    dose
        Mean counts a pixel over the valid area; not used where ``scene`` is a `Scene`.
    seed
        Of everything. Equal arguments give equal frames.
    planted
        Whether to plant a few bad frames of each kind, or which frames of which kind. *blank*,
        *saturated*, *noise* and *jumped* must be rejected; *struck* must still be registered.
    scene
        "powder", "crystal", "textured", or a `Scene` of the same shape.
    drift_px, jitter_px
        See `drift_path`.
    intensity_std
        Relative standard deviation of the frames' brightness.
    jumped_px
        How far jumped frames are displaced along y, and 0.3 times that along x; by default a fifth
        of the smaller side, at least 64.
    saturation
        Counts at which a pixel saturates, also those that were struck.
    dark
        Expected counts behind the beam-block.

    Returns
    -------
    SimulatedStack
        Nothing is computed before a frame is asked for.

    Raises
    ------
    InputError
        For sizes, doses, kinds or frames that make no sense.

    Examples
    --------
    >>> stack = simulate_stack(40, (64, 64), seed=3)
    >>> stack.frame(5).dtype, stack.shape, len(stack.rejects)
    (dtype('uint16'), (40, 64, 64), 4)
    """
    if n_frames < 1 or not 0 < saturation <= np.iinfo(np.uint16).max or dark < 0:
        raise InputError(
            f"{n_frames} frames were asked for, saturating at {saturation}, dark at {dark} counts.",
            consequence="No such stack can be simulated.",
            cure="Use at least one frame, a saturation of 1 to 65535, a dark level of 0 or more.",
        )
    faults = _planted(planted, n_frames, seed)
    path = drift_path(n_frames, seed, drift_px, jitter_px)
    jump = max(64.0, 0.2 * min(shape)) if jumped_px is None else jumped_px
    for place, index in enumerate(faults.get("jumped", ())):
        path[index] += np.array([1.0, 0.3]) * jump * (-1) ** place
    for kind in ("blank", "saturated", "noise"):
        path[list(faults.get(kind, ()))] = np.nan
    spread = generator(seed, _INTENSITY_STREAM).normal(0, intensity_std, n_frames)
    return SimulatedStack(
        scene=_scene(scene, shape, dose, seed),
        shift=path,
        intensity=np.exp(spread),
        planted=faults,
        seed=seed,
        saturation=saturation,
        dark=dark,
    )


def _planted(
    planted: bool | Mapping[str, Sequence[int]], n_frames: int, seed: int
) -> dict[str, tuple[int, ...]]:
    """Frame numbers of each kind: as given, or about 1 % of the frames each, evenly spread."""
    if isinstance(planted, Mapping):
        given = {kind: tuple(int(i) for i in frames) for kind, frames in planted.items()}
        chosen = [index for frames in given.values() for index in frames]
        sound = all(0 <= i < n_frames for i in chosen) and len(set(chosen)) == len(chosen)
        if not sound or not set(given) <= set(PLANTED_KINDS):
            raise InputError(
                f"Planted frames {dict(planted)} do not fit a stack of {n_frames} frames.",
                consequence="Each kind needs frames of the stack, and a frame can be of one kind.",
                cure=f"Use the kinds {', '.join(PLANTED_KINDS)}.",
            )
        return given
    if not planted:
        return {}
    each = min(max(n_frames // 100, 1), 5)
    total = each * len(PLANTED_KINDS)
    if n_frames <= total:
        raise InputError(
            f"{n_frames} frames are too few to plant {total} bad ones.",
            cure=f"Simulate at least {total + 1} frames, or plant none.",
        )
    # One bad frame somewhere in each of as many equal spans; frame 0 stays the origin.
    edges = 1 + np.arange(total + 1) * (n_frames - 1) // total
    where = generator(seed, _PLANT_STREAM).uniform(0, 1, total)
    frames = edges[:-1] + np.floor(where * np.diff(edges)).astype(int)
    return {
        kind: tuple(int(i) for i in frames[place :: len(PLANTED_KINDS)])
        for place, kind in enumerate(PLANTED_KINDS)
    }


def _scene(scene: Scene | str, shape: tuple[int, int], dose: float, seed: int) -> Scene:
    if isinstance(scene, Scene):
        if scene.shape != tuple(shape):
            raise InputError(
                f"The scene has shape {scene.shape}, the stack {tuple(shape)}.",
                cure="Make the scene for the frames' shape.",
            )
        return scene
    if scene == "powder":
        return powder_scene(shape, dose, seed=seed)
    if scene == "crystal":
        return crystal_scene(shape, dose, seed=seed)
    if scene == "textured":
        return textured_scene(shape, dose, seed=seed)
    raise InputError(
        f"There is no scene called {scene!r}.", cure=f"Use one of {', '.join(SCENES)}."
    )
