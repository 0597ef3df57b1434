"""A scene measured in frames, moved by any fraction of a pixel without touching its noise.

What is moved is an estimate of the expectation, never a noisy frame: spatial frequencies at which
two independent halves of the data agree are kept whole, those at which they do not are left out.
Noise that remains is structure that moves with the scene; the reference of the trials has none of
it, so that it brings no information, and only displaces the origin that all trials share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from stillstack.kernels.smoothing import fill_invalid

Image = NDArray[np.float64]
Valid = NDArray[np.bool_]

# Beyond the furthest shift: what rings at the border of the padded image stays outside the frame.
_MARGIN_PX: Final = 16
_RINGS: Final = 128
# A ring of spatial frequencies holds signal where the halves agree by more than chance allows.
_AGREES: Final = 4.0
# Part of the squared gradients that may lie above the limit.
_LEFT_OUT: Final = 0.002
_HIGHEST: Final = 0.5
_FADE_PX: Final = 3
_ROLL_OFF: Final = 1.3
_DARKEST: Final = 1e-3


@dataclass(frozen=True, eq=False)
class MovingScene:
    """Expected counts of a frame, at any displacement.

    Parameters
    ----------
    spectrum
        Transform of the padded image less its mean, limited to the frequencies that hold signal.
        Single precision is a thousand times finer than the noise that is drawn.
    mean
        Counts.
    shape
        Of the frames.
    padding
        First row and column of the frame in the padded image, and the padded image's shape.
    limit
        Highest spatial frequency that is kept, cycles per pixel.
    floor
        Smallest expectation, counts.
    """

    spectrum: NDArray[np.complex64]
    mean: float
    shape: tuple[int, int]
    padding: tuple[int, int, int, int]
    limit: float
    floor: float

    @cached_property
    def _frequencies(self) -> tuple[Image, Image]:
        _, _, rows, columns = self.padding
        return fft.fftfreq(rows), fft.rfftfreq(columns)

    def expected(self, shift: NDArray[np.float64]) -> Image:
        """Return the expected counts of the frame whose registering shift is ``shift``, px."""
        first_y, first_x, rows, columns = self.padding
        along_y, along_x = (
            np.exp(2j * np.pi * f * s).astype(np.complex64)
            for f, s in zip(self._frequencies, shift, strict=True)
        )
        moved = self.spectrum * along_y[:, None]
        moved *= along_x
        image = fft.irfft2(moved, (rows, columns), overwrite_x=True)
        height, width = self.shape
        inside = image[first_y : first_y + height, first_x : first_x + width]
        return np.asarray(np.maximum(inside + self.mean, self.floor), np.float64)


def moving_scene(image: Image, known: Valid, other: Image, furthest_px: float) -> MovingScene:
    """Scene out of a mean of aligned frames, made ready to be moved.

    Parameters
    ----------
    image
        (y, x), counts; mean of aligned frames.
    known
        True where it has a value; holes are filled smoothly.
    other
        An image of the same scene with noise of its own: both are compared to find the spatial
        frequencies that hold signal.
    furthest_px
        Largest shift that will be asked for.
    """
    mean = float(image[known].mean())
    filled, compared = (fill_invalid(np.where(known, i, mean), known) for i in (image, other))
    padded, padding = _padded(filled, int(np.ceil(furthest_px)) + _MARGIN_PX, mean)
    limit = signal_limit(filled, compared, known)
    spectrum = fft.rfft2(padded - mean)
    spectrum *= _low_pass(_radius(padded.shape), limit)
    height, width = image.shape
    return MovingScene(
        spectrum=spectrum.astype(np.complex64),
        mean=mean,
        shape=(height, width),
        padding=padding,
        limit=limit,
        floor=_DARKEST * max(mean, 0.0),
    )


def signal_limit(image: Image, other: Image, known: Valid) -> float:
    """Spatial frequency, cycles per pixel, under which two images of one scene agree.

    Rings of frequencies in which the images' product is above its chance level hold signal; of
    the squared gradients in them, next to nothing lies above the limit. Borders and holes, which
    both images have in common, are faded out first.

    Parameters
    ----------
    image, other
        (y, x), with noise of their own.
    known
        True where they have values.

    Examples
    --------
    >>> y, x = np.mgrid[:128, :128]
    >>> wave = 100 + 20 * np.cos(2 * np.pi * 0.2 * x)
    >>> rng = np.random.default_rng(0)
    >>> one, other = rng.poisson(wave), rng.poisson(wave)
    >>> 0.2 < signal_limit(one, other, np.ones((128, 128), bool)) < 0.3
    True
    """
    window = _faded(known)
    if not window.any():
        return _HIGHEST
    one, two = (fft.rfft2((i - np.average(i, weights=window)) * window) for i in (image, other))
    ring = (_radius(known.shape) * (_RINGS / _HIGHEST)).astype(np.intp).ravel()
    product = (one * np.conj(two)).ravel()
    # What fits into no whole ring says little.
    together = np.bincount(ring, product.real, _RINGS)[:_RINGS]
    # The scene itself has no part in the imaginary part, however few of its frequencies stand out.
    chance = np.sqrt(np.bincount(ring, product.imag**2, _RINGS))[:_RINGS]
    centre = (np.arange(_RINGS) + 0.5) * _HIGHEST / _RINGS
    signal = np.where(together > _AGREES * chance, together, 0.0) * centre**2
    if not signal.any():
        return float(centre[0])
    above = 1.0 - np.cumsum(signal) / signal.sum()
    return float(centre[int(np.argmax(above <= _LEFT_OUT))])


def _faded(known: Valid) -> Image:
    """One well inside what is known, zero outside, smooth between."""
    # Lone dead pixels, which are filled in well, are no borders.
    closed = ndimage.binary_closing(np.pad(known, _FADE_PX, mode="edge"), iterations=2)
    whole = closed[_FADE_PX:-_FADE_PX, _FADE_PX:-_FADE_PX] | known
    inside = ndimage.binary_erosion(whole, iterations=3 * _FADE_PX)
    return np.asarray(ndimage.gaussian_filter(inside.astype(float), _FADE_PX, mode="constant"))


def _radius(shape: tuple[int, ...]) -> Image:
    """Spatial frequencies of a real transform, cycles per pixel."""
    return np.asarray(np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :]))


def _low_pass(radius: Image, limit: float) -> Image:
    """One up to the limit, falling to nothing like a cosine above it."""
    beyond = np.clip((radius - limit) / ((_ROLL_OFF - 1.0) * limit + 1.0 / _RINGS), 0.0, 1.0)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * beyond), np.float64)


def _padded(image: Image, margin: int, mean: float) -> tuple[Image, tuple[int, int, int, int]]:
    """Mirrored at its borders and faded to the mean, so that it can be continued periodically."""
    sizes = [fft.next_fast_len(n + 2 * margin, real=True) for n in image.shape]
    before = [(size - n) // 2 for size, n in zip(sizes, image.shape, strict=True)]
    widths = [
        (first, size - n - first) for first, size, n in zip(before, sizes, image.shape, strict=True)
    ]
    fades = [
        np.pad(np.ones(n), width, mode="linear_ramp", end_values=0.0)
        for n, width in zip(image.shape, widths, strict=True)
    ]
    fade_y, fade_x = (0.5 - 0.5 * np.cos(np.pi * fade) for fade in fades)
    padded = np.pad(image - mean, widths, mode="symmetric") * fade_y[:, None] * fade_x
    return padded + mean, (before[0], before[1], sizes[0], sizes[1])
