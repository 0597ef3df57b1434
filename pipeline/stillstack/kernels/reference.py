"""A reference made ready, and how frames are registered to it: plain frozen values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.between import Between
from stillstack.kernels.columns import StaticBins, static_bins
from stillstack.kernels.footprints import ValidPixels
from stillstack.kernels.levels import Array, Level
from stillstack.kernels.search import Search, Transforms
from stillstack.kernels.validity import ValueRules


@dataclass(frozen=True)
class Settings:
    """How frames are registered to a reference: see :func:`prepare_reference`."""

    max_shift_px: int = 32
    n_frames: float = 1.0
    gain: float = 1.0
    read_noise: float = 0.0
    min_overlap: float = 0.3
    min_ncc: float | None = None
    max_peak_ratio: float = 0.95
    rules: ValueRules = field(default_factory=ValueRules)

    @property
    def noise(self) -> tuple[float, float]:
        """Gain (counts per event) and read noise (counts)."""
        return self.gain, self.read_noise


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference made ready for registering many frames to it; made by :func:`prepare_reference`.

    Picklable, six or seven times the size of the image. Nothing in it changes but what is kept
    because it was needed: see `Level`.

    Parameters
    ----------
    image, valid
        The reference (y, x), float32, and its valid pixels.
    frame_valid
        Pixels that are valid in every frame.
    settings
        How frames are registered.
    digest
        Hash of all that determines the results.
    reference_std
        Uncertainty (y, x) of the origin that noise in the reference causes, px: common to all
        frames, hence not part of their ``shift_std``.
    smoothing_px
        Width to which the reference was smoothed.
    offset
        Mean of the reference over its valid pixels, counts.
    pedestal
        Part of the counts that brings no photon noise, as the image itself shows.
    ceiling
        Largest value of a bin of the reference, counts: far brighter bins of a frame are struck.
    search
        What the coarse search needs.
    levels
        Regressors from coarse to fine; only the last has a bank for each whole-pixel offset.
    slope, unslope
        (2, 2): step of the linear model per true displacement, and its inverse.
    cubic
        (2, 4): cubic terms of the displacement, px^-2.
    between
        How the normal equations are interpolated between whole pixels. None where one linear step
        does. Needed where half a pixel is far for the features, or where the gradients hold so
        much noise that ``slope`` is measured on each frame instead, since a wrong belief about the
        reference's noise would make steps too short.
    n_valid, n_usable
        Valid pixels of the reference; bins of the finest level that count in every frame.
    """

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    frame_valid: NDArray[np.bool_]
    settings: Settings
    digest: str
    reference_std: Array
    smoothing_px: float
    offset: float
    pedestal: float
    ceiling: float
    search: Search
    levels: tuple[Level, ...]
    slope: Array
    unslope: Array
    cubic: Array
    between: Between | None
    n_valid: int
    n_usable: int

    def __repr__(self) -> str:
        height, width = self.image.shape
        y, x = (float(std) for std in self.reference_std)
        return (
            f"<Reference of {height} x {width}, {self.n_valid / self.image.size:.1%} valid, "
            f"max_shift_px {self.max_shift_px}, origin known to {y:.2g}, {x:.2g} px>"
        )

    @property
    def max_shift_px(self) -> int:
        """Largest shift that is looked for, px along each axis."""
        return self.settings.max_shift_px

    @cached_property
    def static_pixels(self) -> ValidPixels:
        """``frame_valid`` made ready for resampling the frames in which no other pixel is out."""
        return ValidPixels(self.frame_valid, self.frame_valid.shape)

    @cached_property
    def static_bins(self) -> StaticBins:
        """``frame_valid`` made ready for binning frames to the finest level."""
        level = self.levels[-1]
        return replace(static_bins(self.frame_valid, level.factor), usable=level.usable)

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take, bytes."""
        arrays = [getattr(self, f.name) for f in fields(self)]
        arrays += [getattr(self.search, f.name) for f in fields(Search)]
        if self.search.transforms is not None:
            arrays += [getattr(self.search.transforms, f.name) for f in fields(Transforms)]
        for level in self.levels:
            arrays += [getattr(level, f.name) for f in fields(Level)]
        return sum(a.nbytes for a in arrays if isinstance(a, np.ndarray | Between))

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("stillstack.Reference", self.digest)


def digest_of(
    image: NDArray[np.float32],
    valid: NDArray[np.bool_],
    frame_valid: NDArray[np.bool_],
    settings: Settings,
) -> str:
    """Hash of all that determines what frames are registered to."""
    digest = hashlib.sha256(repr((image.shape, settings)).encode())
    for array in (image, np.packbits(valid), np.packbits(frame_valid)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
