"""What a detector does to the counts: a dark frame, a gain image and defects, in any process."""

from __future__ import annotations

import hashlib
import socket
import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.config import CorrectionConfig
from stillstack.errors import InputError, RunFaultError, StillstackError
from stillstack.kernels.validity import ValueRules
from stillstack.sources.defect_list import defects_of
from stillstack.sources.image import image_of
from stillstack.sources.values import offending

Image = NDArray[np.float32]

_KEPT: Final[dict[str, CorrectionImages]] = {}
_KEPT_LOCK: Final = threading.Lock()


@dataclass(frozen=True, eq=False)
class CorrectionImages:
    """The images themselves, as a process holds them.

    Parameters
    ----------
    dark
        (y, x) in counts; None where nothing is subtracted.
    gain
        (y, x), NaN at defects; None where nothing is multiplied.
    defects
        (y, x), True for a pixel that never counts.
    """

    dark: Image | None
    gain: Image | None
    defects: NDArray[np.bool_]

    @property
    def digest(self) -> str:
        """Hex digest of what is in them."""
        total = hashlib.sha256()
        for image in (self.dark, self.gain, self.defects):
            total.update(b"none" if image is None else image.tobytes())
        return total.hexdigest()


@dataclass(frozen=True)
class Correction:
    """How raw frames become corrected ones: small values, which travel; images stay on the disk.

    Parameters
    ----------
    config
        Section ``correction``.
    shape
        Rows and columns of the frames.
    rules
        Values of *raw* frames that do not count: the corrected pixel is NaN.
    digest
        Of the images when the correction was made.
    """

    config: CorrectionConfig
    shape: tuple[int, int]
    rules: ValueRules
    digest: str

    def images(self) -> CorrectionImages:
        """Read the images, once in each process.

        Raises
        ------
        RunFaultError
            When they cannot be read here, or are not those that the correction was made with.
        """
        with _KEPT_LOCK:
            if self.digest not in _KEPT:
                images = self._read()
                if images.digest != self.digest:
                    raise _fault("have changed since the run was started", "another correction")
                _KEPT.clear()
                _KEPT[self.digest] = images
            return _KEPT[self.digest]

    def apply(self, raw: NDArray[Any], out: Image) -> None:
        """Correct raw frames (frame, y, x) into ``out`` of the same shape."""
        images = self.images()
        # float32 holds every count of 24 bits; beyond, a small signal on a large dark would go
        wide = np.result_type(raw.dtype, np.float32)
        for frame, corrected in zip(raw, out, strict=True):
            if images.dark is None:
                corrected[...] = frame
            else:
                np.subtract(frame, images.dark, out=corrected, dtype=wide, casting="same_kind")
            if images.gain is not None:
                np.multiply(corrected, images.gain, out=corrected)
            bad = offending(frame, self.rules)
            if bad is not None:
                corrected[bad] = np.nan

    def fingerprint(self) -> str:
        """Digest of the images as they are now, and of the rules."""
        now = read_images(self.config, self.shape).digest
        return hashlib.sha256(f"{now} {self.rules}".encode()).hexdigest()

    def _read(self) -> CorrectionImages:
        try:
            return read_images(self.config, self.shape)
        except StillstackError as error:
            why = error.what.rstrip(".")
            raise _fault(f"cannot be read on {socket.gethostname()} ({why})", "none") from error


def read_images(config: CorrectionConfig, shape: tuple[int, int]) -> CorrectionImages:
    """Return the images of a correction, read now and checked.

    Parameters
    ----------
    config
        Section ``correction``.
    shape
        Rows and columns of the frames.

    Raises
    ------
    InputError
        When one cannot be read, has another shape, or a pixel that is no defect is not finite or
        has a gain of zero or less.
    """
    defects = np.zeros(shape, bool)
    if config.defects is not None:
        defects = defects_of(config.defects, shape)
        if defects.all():
            raise InputError(
                f"correction.defects names all {defects.size} pixels.",
                consequence="Nothing would be left to register.",
                cure="Give an image that is zero where a pixel is sound.",
            )
    dark = _image(config.dark, "dark", shape)
    if dark is not None:
        _refuse(~np.isfinite(dark) & ~defects, dark, "dark", "not finite")
    gain = _image(config.gain, "gain", shape)
    if gain is not None:
        wrong = ~(np.isfinite(gain) & (gain > 0)) & ~defects
        _refuse(wrong, gain, "gain", "not finite, zero or negative")
    if defects.any():
        gain = np.where(defects, np.float32(np.nan), np.float32(1) if gain is None else gain)
    return CorrectionImages(dark, gain, defects)


def _image(path: str | None, what: str, shape: tuple[int, int]) -> Image | None:
    if path is None:
        return None
    image = image_of(path)
    if image.shape != shape:
        raise InputError(
            f"correction.{what}: the image {path} has {image.shape[0]} x {image.shape[1]} pixels, "
            f"the frames {shape[0]} x {shape[1]}.",
            consequence="It cannot be that of this detector, or not as it was read out.",
            cure="Give one of the frames' size.",
        )
    if image.dtype.kind not in "buif":
        raise InputError(
            f"correction.{what}: the image {path} has pixels of type {image.dtype}.",
            cure="Save it as numbers.",
        )
    return image.astype(np.float32)


def _refuse(wrong: NDArray[np.bool_], image: Image, what: str, how: str) -> None:
    if not wrong.any():
        return
    y, x = np.argwhere(wrong)[0]
    raise InputError(
        f"correction.{what} is {how} at {int(wrong.sum())} pixels that are no defects; the first "
        f"is y = {y}, x = {x}, with {image[y, x]:g}.",
        consequence="These pixels would have no counts that mean anything.",
        cure="List them in correction.defects, or mend the image.",
    )


def _fault(what: str, otherwise: str) -> RunFaultError:
    return RunFaultError(
        f"The images of the section correction {what}.",
        consequence=f"Frames would be registered with {otherwise}. The run stopped; frames that "
        "are done are kept.",
        cure="Put the images where every worker sees them under the same path, and run the same "
        "command again.",
    )
