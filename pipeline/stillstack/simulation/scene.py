"""Analytic diffraction patterns.

A scene is a sum of analytic parts: rings of a powder, Gaussian spots of a crystal or of a texture,
and a halo. It can be evaluated at any displacement, with its gradient, to rounding. So a frame
that has drifted by a fraction of a pixel is *generated* where it drifted to, never interpolated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.simulation.beamblock import beam_block_valid

Image = NDArray[np.float64]
Valid = NDArray[np.bool_]

# Reflections of a face-centred cubic powder: h^2 + k^2 + l^2 of the allowed planes.
_FCC: Final = (3, 4, 8, 11, 12, 16, 19, 20)
# exp(-9^2 / 2) = 3e-18: beyond nine sigma a Gaussian is below the rounding of what it adds to.
_REACH: Final = 9.0
# The seed's stream of random numbers for scenes; frames use their own number as stream.
_SCENE_STREAM: Final = 2**63 + 3


class Part(Protocol):
    """One term of a scene. ``y`` and ``x`` are coordinates of rows and columns, in scene pixels."""

    def add_to(self, image: Image, y: Image, x: Image) -> None:
        """Add the values at the points ``(y[i], x[j])`` to ``image[i, j]``."""

    def add_gradient_to(self, slope_y: Image, slope_x: Image, y: Image, x: Image) -> None:
        """Add the derivatives along y and x likewise."""


@dataclass(frozen=True)
class Halo:
    """A smooth decaying background, ``height / (1 + r^2 / width^2)``."""

    centre: tuple[float, float]
    height: float
    width_px: float

    def _fall(self, y: Image, x: Image) -> Image:
        squared = (y - self.centre[0])[:, None] ** 2 + (x - self.centre[1]) ** 2
        fall: Image = 1.0 / (1.0 + squared / self.width_px**2)
        return fall

    def add_to(self, image: Image, y: Image, x: Image) -> None:
        """Add the halo."""
        image += self.height * self._fall(y, x)

    def add_gradient_to(self, slope_y: Image, slope_x: Image, y: Image, x: Image) -> None:
        """Add the derivatives of the halo."""
        slope = self._fall(y, x) ** 2 * (-2.0 * self.height / self.width_px**2)
        slope_y += slope * (y - self.centre[0])[:, None]
        slope_x += slope * (x - self.centre[1])


@dataclass(frozen=True)
class Rings:
    """Concentric rings, ``sum of height exp(-(r - radius)^2 / (2 sigma^2))``."""

    centre: tuple[float, float]
    radius_px: tuple[float, ...]
    height: tuple[float, ...]
    sigma_px: float

    def _blocks(self, y: Image, x: Image) -> Iterator[tuple[slice, Image, Image, Image]]:
        # A few rows at a time stay in the processor's cache: four times faster on large frames.
        rows = max(1, 2**16 // x.size)
        across = x - self.centre[1]
        for start in range(0, y.size, rows):
            here = slice(start, min(start + rows, y.size))
            down = (y[here] - self.centre[0])[:, None]
            yield here, down, across, np.sqrt(down**2 + across**2)

    def add_to(self, image: Image, y: Image, x: Image) -> None:
        """Add the rings."""
        for here, _, _, radius in self._blocks(y, x):
            scratch = np.empty_like(radius)
            for ring_radius, height in zip(self.radius_px, self.height, strict=True):
                np.subtract(radius, ring_radius, out=scratch)
                np.multiply(scratch, scratch, out=scratch)
                scratch *= -0.5 / self.sigma_px**2
                np.exp(scratch, out=scratch)
                scratch *= height
                image[here] += scratch

    def add_gradient_to(self, slope_y: Image, slope_x: Image, y: Image, x: Image) -> None:
        """Add the derivatives of the rings."""
        for here, down, across, radius in self._blocks(y, x):
            slope = np.zeros_like(radius)
            for ring_radius, height in zip(self.radius_px, self.height, strict=True):
                away = (radius - ring_radius) / self.sigma_px
                slope -= height / self.sigma_px * away * np.exp(-0.5 * away**2)
            slope /= np.maximum(radius, np.finfo(np.float64).tiny)
            slope_y[here] += slope * down
            slope_x[here] += slope * across


@dataclass(frozen=True)
class Spots:
    """Round Gaussian spots, ``sum of height exp(-((y - y_k)^2 + (x - x_k)^2) / (2 sigma_k^2))``."""

    y: tuple[float, ...]
    x: tuple[float, ...]
    height: tuple[float, ...]
    sigma_px: tuple[float, ...]

    def _profiles(self, y: Image, x: Image) -> Iterator[tuple[slice, slice, Image, Image]]:
        """Per spot its rows and columns, and value and slope of its profile along each axis."""
        for spot_y, spot_x, height, sigma in zip(
            self.y, self.x, self.height, self.sigma_px, strict=True
        ):
            rows, columns = _within(y, spot_y, _REACH * sigma), _within(x, spot_x, _REACH * sigma)
            if rows.stop > rows.start and columns.stop > columns.start:
                curvature = 1.0 / sigma**2
                down = height * np.exp(-0.5 * curvature * (y[rows] - spot_y) ** 2)
                across = np.exp(-0.5 * curvature * (x[columns] - spot_x) ** 2)
                slope_down = -curvature * (y[rows] - spot_y) * down
                slope_across = -curvature * (x[columns] - spot_x) * across
                yield rows, columns, np.stack([down, slope_down]), np.stack([across, slope_across])

    def add_to(self, image: Image, y: Image, x: Image) -> None:
        """Add the spots."""
        for rows, columns, (down, _), (across, _) in self._profiles(y, x):
            image[rows, columns] += down[:, None] * across

    def add_gradient_to(self, slope_y: Image, slope_x: Image, y: Image, x: Image) -> None:
        """Add the derivatives of the spots."""
        for rows, columns, (down, slope_down), (across, slope_across) in self._profiles(y, x):
            slope_y[rows, columns] += slope_down[:, None] * across
            slope_x[rows, columns] += down[:, None] * slope_across


def _within(along: Image, centre: float, reach: float) -> slice:
    """Where an ascending axis in steps of one lies within reach of a point."""
    first = int(np.ceil(centre - reach - along[0]))
    last = int(np.floor(centre + reach - along[0]))
    return slice(min(max(first, 0), along.size), min(max(last + 1, 0), along.size))


@dataclass(frozen=True)
class Scene:
    """An analytic pattern: expected counts at any displacement, exact to rounding.

    Parameters
    ----------
    shape
        Rows and columns of the frames.
    parts
        The terms, in arbitrary units.
    scale
        Counts per unit of the parts.

    Examples
    --------
    >>> scene = powder_scene((64, 64), dose=60.0)
    >>> moved = scene.expected((2.0, -1.0))
    >>> bool(np.allclose(moved[:-2, 1:], scene.expected()[2:, :-1]))
    True
    """

    shape: tuple[int, int]
    parts: tuple[Part, ...]
    scale: float = 1.0

    def _points(self, shift: Sequence[float] | NDArray[np.float64]) -> tuple[Image, Image]:
        down, across = (float(value) for value in shift)
        if not (np.isfinite(down) and np.isfinite(across)):
            raise InputError(
                f"A scene was asked for at the shift ({down}, {across}).",
                consequence="It has no value there.",
                cure="Ask for finite shifts; frames without a scene have none.",
            )
        rows, columns = self.shape
        return np.arange(rows, dtype=float) + down, np.arange(columns, dtype=float) + across

    def expected(self, shift: Sequence[float] | NDArray[np.float64] = (0.0, 0.0)) -> Image:
        """Return the expected counts of the frame whose registering shift is ``shift``.

        Parameters
        ----------
        shift
            (y, x) in pixels: applied to the frame, it lands on ``expected((0, 0))``. So the value
            at pixel x is the scene at x + shift.

        Returns
        -------
        ndarray of float64, shape (y, x), in counts; strictly positive.
        """
        y, x = self._points(shift)
        image = np.zeros(self.shape)
        for part in self.parts:
            part.add_to(image, y, x)
        image *= self.scale
        return image

    def gradient(
        self, shift: Sequence[float] | NDArray[np.float64] = (0.0, 0.0)
    ) -> tuple[Image, Image]:
        """Return the derivatives along y and x of ``expected(shift)``, in counts per pixel."""
        y, x = self._points(shift)
        slope_y, slope_x = np.zeros(self.shape), np.zeros(self.shape)
        for part in self.parts:
            part.add_gradient_to(slope_y, slope_x, y, x)
        return slope_y * self.scale, slope_x * self.scale


def powder_scene(
    shape: tuple[int, int], dose: float = 60.0, ring_width_px: float = 3.0, seed: int = 0
) -> Scene:
    """Rings of a powder over a decaying background.

    Parameters
    ----------
    shape
        Rows and columns.
    dose
        Mean counts a pixel over `beam_block_valid`.
    ring_width_px
        Sigma of the rings' Gaussian profile.
    seed
        Of the centre's fraction of a pixel and of the rings' heights.

    Examples
    --------
    >>> powder_scene((64, 64)).expected().shape
    (64, 64)
    """
    _check(shape, dose, ring_width_px)
    rng = generator(seed, _SCENE_STREAM)
    centre = _centre(shape, rng)
    half = min(shape) / 2
    radius = 0.95 * half * np.sqrt(np.array(_FCC) / _FCC[-1])
    height = np.exp(-1.5 * (radius / half) ** 2) * rng.uniform(0.6, 1.4, radius.size)
    rings = Rings(centre, _floats(radius), _floats(height), float(ring_width_px))
    return at_dose(Scene(shape, (Halo(centre, 2.0, 0.3 * half), rings)), dose)


def crystal_scene(
    shape: tuple[int, int],
    dose: float = 60.0,
    spot_sigma_px: float = 2.0,
    spacing_px: float | None = None,
    seed: int = 0,
) -> Scene:
    """Gaussian spots of a single crystal on an oblique lattice, over a decaying background.

    Parameters
    ----------
    shape
        Rows and columns.
    dose
        Mean counts a pixel over `beam_block_valid`.
    spot_sigma_px
        Sigma of the spots.
    spacing_px
        Distance of neighbouring spots; an eleventh of the smaller side where it is not given.
    seed
        Of the lattice's direction and of the spots' heights.

    Examples
    --------
    >>> bool((crystal_scene((64, 64)).expected() > 0).all())
    True
    """
    spacing = min(shape) / 11 if spacing_px is None else spacing_px
    _check(shape, dose, spot_sigma_px, spacing)
    rng = generator(seed, _SCENE_STREAM)
    centre = _centre(shape, rng)
    angle = rng.uniform(0, np.pi)
    first = spacing * np.array([np.sin(angle), np.cos(angle)])
    second = 1.08 * spacing * np.array([np.sin(angle + 1.9), np.cos(angle + 1.9)])
    # enough orders to fill 1.5 times the frame, whatever the lattice's direction
    reach = int(1.2 * max(shape) / spacing) + 1
    order = np.arange(-reach, reach + 1)
    grid = np.stack(np.meshgrid(order, order, indexing="ij"), axis=-1).reshape(-1, 2)
    place = grid @ np.stack([first, second])
    distance = np.hypot(*place.T)
    height = 20 * np.exp(-10 * (distance / max(shape)) ** 2) * rng.gamma(2.0, 0.5, len(grid))
    # Spots are kept well outside the frame too: a displaced frame sees new ones come in.
    kept = np.all(np.abs(place) < 0.75 * np.array(shape), axis=1) & (distance > spacing / 2)
    spots = Spots(
        _floats(centre[0] + place[kept, 0]),
        _floats(centre[1] + place[kept, 1]),
        _floats(height[kept]),
        (float(spot_sigma_px),) * int(kept.sum()),
    )
    return at_dose(Scene(shape, (Halo(centre, 2.0, 0.15 * min(shape)), spots)), dose)


def textured_scene(
    shape: tuple[int, int], dose: float = 60.0, grain_px: float = 4.0, seed: int = 0
) -> Scene:
    """Blobs of many sizes everywhere, as in a micrograph: no centre, no symmetry, no period.

    Parameters
    ----------
    shape
        Rows and columns.
    dose
        Mean counts a pixel over `beam_block_valid`.
    grain_px
        Sigma of the blobs, 0.7 to 1.3 times this.
    seed
        Of the blobs.

    Examples
    --------
    >>> textured_scene((64, 64)).expected().shape
    (64, 64)
    """
    _check(shape, dose, grain_px)
    rng = generator(seed, _SCENE_STREAM)
    size = np.array(shape)
    margin = 0.25 * size
    n_blobs = int(np.prod(size + 2 * margin) / (7 * grain_px) ** 2) + 8
    spots = Spots(
        _floats(rng.uniform(-margin[0], size[0] + margin[0], n_blobs)),
        _floats(rng.uniform(-margin[1], size[1] + margin[1], n_blobs)),
        _floats(rng.gamma(2.0, 0.5, n_blobs)),
        _floats(grain_px * rng.uniform(0.7, 1.3, n_blobs)),
    )
    return at_dose(Scene(shape, (Halo(_centre(shape, rng), 0.5, 2.0 * max(shape)), spots)), dose)


def _check(shape: tuple[int, int], dose: float, *lengths_px: float) -> None:
    if len(shape) != 2 or min(shape) < 8 or not dose > 0 or not all(px > 0 for px in lengths_px):
        raise InputError(
            f"A scene was asked for of shape {tuple(shape)}, dose {dose}, widths {lengths_px} px.",
            consequence="No such scene can be simulated.",
            cure="Use two sides of at least 8 pixels, and positive doses and widths.",
        )


def at_dose(scene: Scene, dose: float) -> Scene:
    """Return the scene with a mean of ``dose`` counts a pixel over `beam_block_valid`."""
    mean = scene.expected()[beam_block_valid(scene.shape)].mean()
    return replace(scene, scale=float(scene.scale * dose / mean))


def _centre(shape: tuple[int, int], rng: np.random.Generator) -> tuple[float, float]:
    fraction = rng.uniform(-0.5, 0.5, 2)
    return ((shape[0] - 1) / 2 + float(fraction[0]), (shape[1] - 1) / 2 + float(fraction[1]))


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def generator(seed: int, stream: int) -> np.random.Generator:
    """Return the counter-based generator of one stream of a seed: the same in any process."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))
