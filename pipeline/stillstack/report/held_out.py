"""Frames registered again without a part of the image, and the shift that this part is left with.

Registration uses every valid pixel, so that what it aligned says little of how well: noise in the
pixels it fitted is fitted too, and a fault that all pixels share shows nowhere. Here a few spread
frames are registered once more without four of nine tiles, each frame moved by what it then says,
and those four tiles compared by the method of `stillstack.physics.residual_shift`. They share no
pixel with the registration that they judge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from stillstack.errors import InputError
from stillstack.kept_references import stored_reference
from stillstack.kernels.registration import Reference, frame_validity, register_frame
from stillstack.kernels.resampling import resample_frame
from stillstack.model import is_good
from stillstack.physics.residual_shift import ResidualShift, residual_shift
from stillstack.storage import RunStore

_TILES_A_SIDE: Final = 3
# Reach of the interpolation and one pixel by which the second answer may differ from the first.
_RIM_PX: Final = 6
# Below, it is not the frames that are judged but half an image that is too little for them.
_LEAST_GOOD: Final = 0.75

Window = tuple[int, int, int, int]


@dataclass(eq=False)
class HeldOut:
    """Means of stretches of the run, moved by shifts that did not see the held-out tiles.

    Parameters
    ----------
    reference
        Of the run.
    window
        (y0, y1, x0, x1) in pixels of the frames: where shifts are looked for.
    n_frames, n_stretches
        Frames that will be added, and stretches that they are divided into.
    """

    reference: Reference
    window: Window
    n_frames: int
    n_stretches: int
    _held: NDArray[np.bool_] = field(init=False, repr=False)
    _total: NDArray[np.float64] = field(init=False, repr=False)
    _count: NDArray[np.int64] = field(init=False, repr=False)
    _n_good: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        y0, y1, x0, x1 = self.window
        self._held = held_out_tiles(self.reference.frame_valid.shape, self.window)
        self._total = np.zeros((self.n_stretches, y1 - y0, x1 - x0))
        self._count = np.zeros(self._total.shape, np.int64)
        self._n_good = np.zeros(self.n_stretches, np.int64)

    @classmethod
    def of(
        cls, store: RunStore, run: xr.Dataset, window: Window, n_frames: int, n_stretches: int
    ) -> HeldOut | None:
        """For a run; None where its frames were not each registered to the one reference."""
        alone = run["reference"].ndim == 2 and "sum_frames" not in store.attributes
        if n_stretches < 2 or not alone or "registration" not in store.attributes:
            return None
        return cls(stored_reference(store), window, n_frames, n_stretches)

    def add(self, place: int, frame: NDArray[np.generic], shift: NDArray[np.float64]) -> None:
        """Register a frame again, by its place among all, and add what it becomes.

        Parameters
        ----------
        place
            Of the frame among those that are added.
        frame
            (y, x), as the run read it.
        shift
            (y, x) px that the run gave it: held-out tiles stay with the pattern, not the detector.
        """
        shown = ~_moved(self._held, -np.rint(shift).astype(int))
        found = register_frame(frame, self.reference, shown)
        if not is_good(found.status) or not np.isfinite(found.shift).all():
            return
        valid = frame_validity(frame, self.reference, found.shift, found.status)
        image = resample_frame(
            frame, found.shift, valid=valid, dtype=np.float32, canvas=self.window
        ).image
        known, stretch = np.isfinite(image), place * self.n_stretches // self.n_frames
        np.add(self._total[stretch], image, out=self._total[stretch], where=known)
        self._count[stretch] += known
        self._n_good[stretch] += 1

    def residual(self) -> ResidualShift | None:
        """Shift that each stretch is left with in held-out tiles; None where it cannot be told."""
        if self._n_good.sum() < _LEAST_GOOD * self.n_frames or not self._n_good.all():
            return None
        means = np.divide(
            self._total, self._count, out=np.full(self._total.shape, np.nan), where=self._count > 0
        )
        y0, y1, x0, x1 = self.window
        inner = ndimage.binary_erosion(self._held, iterations=_RIM_PX)[y0:y1, x0:x1]
        try:
            return residual_shift(means, region=inner, n_frames=self._n_good)
        except InputError:
            return None


def held_out_tiles(shape: tuple[int, ...], window: Window) -> NDArray[np.bool_]:
    """Pixels (y, x) that registration is not shown: every other one of 3 x 3 tiles of the window.

    Examples
    --------
    >>> held_out_tiles((6, 6), (0, 6, 0, 6)).astype(int)[::2, ::2]
    array([[0, 1, 0],
           [1, 0, 1],
           [0, 1, 0]])
    """
    held = np.zeros(shape, bool)
    y0, y1, x0, x1 = window
    rows, columns = (
        np.linspace(*ends, _TILES_A_SIDE + 1).round().astype(int) for ends in ((y0, y1), (x0, x1))
    )
    for j in range(_TILES_A_SIDE):
        for i in range(_TILES_A_SIDE):
            if (i + j) % 2:
                held[rows[j] : rows[j + 1], columns[i] : columns[i + 1]] = True
    return held


def _moved(pixels: NDArray[np.bool_], by: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Pixels moved by whole ones; none come in from outside."""
    moved = np.zeros_like(pixels)
    source, target = [], []
    for offset, length in zip(by.tolist(), pixels.shape, strict=True):
        step = max(-length, min(length, offset))
        target.append(slice(max(step, 0), length + min(step, 0)))
        source.append(slice(max(-step, 0), length + min(-step, 0)))
    moved[tuple(target)] = pixels[tuple(source)]
    return moved
