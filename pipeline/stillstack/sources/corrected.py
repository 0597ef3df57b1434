"""Frames corrected for the detector as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.config import CorrectionConfig, ValidConfig
from stillstack.kernels.validity import ValueRules
from stillstack.sources.correction import Correction, read_images
from stillstack.sources.fingerprint import digest
from stillstack.sources.protocol import Source
from stillstack.sources.selected import token_of
from stillstack.sources.stack import Reads, narrowed
from stillstack.sources.stretches import pieces


@dataclass(frozen=True)
class CorrectedReader:
    """Corrected frames of a reader: what a task carries."""

    frames: Reads
    correction: Correction

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``, corrected."""
        raw = self.frames.read(start, stop)
        out = np.empty(raw.shape, np.float32)
        self.correction.apply(raw, out)
        return out


@dataclass(frozen=True)
class CorrectedSource:
    """Frames of a source as ``(raw - dark) * gain`` in float32, NaN where a pixel does not count.

    Which pixels count is judged on the raw counts, as the detector wrote them: defects, values
    outside the rules, and without the rule ``above`` the largest value of an integer type, which
    is saturated. Registration calls such a pixel not finite, and pixels around it count, while
    around a saturated pixel of an uncorrected frame they do not.

    Parameters
    ----------
    whole
        The raw frames.
    correction
        What is done to them.
    """

    whole: Source
    correction: Correction

    @property
    def recorded(self) -> Source:
        """The raw frames, as the detector wrote them."""
        return self.whole

    @property
    def name(self) -> str:
        """Short name for messages: that of the raw frames."""
        return self.whole.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        return self.whole.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return np.dtype(np.float32)

    @property
    def chunk_frames(self) -> int:
        """Of the raw frames."""
        return self.whole.chunk_frames

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """Of the raw frames."""
        return self.whole.coords

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Of the raw frames; what a value of theirs meant holds no more."""
        return {name: v for name, v in self.whole.attrs.items() if name != "invalid_value"}

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``, corrected.

        Raises
        ------
        UnreadableFrameError
            When one of the raw frames cannot be read.
        RunFaultError
            When the images of the correction cannot be read here, or have changed.
        """
        out = np.empty((stop - start, *self.shape[1:]), np.float32)
        for first, last in pieces(self.whole, start, stop):
            self.correction.apply(self.whole.read(first, last), out[first - start : last - start])
        return out

    def narrow(self, start: int, stop: int) -> CorrectedReader:
        """Return what a task that reads these frames has to carry, and no more."""
        return CorrectedReader(narrowed(self.whole, start, stop), self.correction)

    def fingerprint(self) -> str:
        """Of the raw frames and of what is in the images, read afresh."""
        return digest([self.whole.fingerprint(), self.correction.fingerprint()])

    @property
    def token(self) -> str:
        """Names the corrected frames in graphs, without looking at the files again."""
        how = f"{self.correction.digest} {self.correction.rules}"
        return digest([type(self).__name__, token_of(self.whole), how])


def corrected(source: Source, config: CorrectionConfig, valid: ValidConfig | None = None) -> Source:
    """Return a source whose frames are corrected; the source itself where nothing is to be done.

    Parameters
    ----------
    source
        The raw frames.
    config
        Section ``correction``.
    valid
        Section ``valid.frames``, whose rules about values are about raw frames.

    Raises
    ------
    InputError
        When an image cannot be read or does not fit the frames.

    Examples
    --------
    >>> import tempfile
    >>> from stillstack.sources import open_source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/frames.npy", np.full((3, 2, 2), 10, "u2"))
    ...     np.save(f"{folder}/dark.npy", np.array([[1, 2], [3, 4]], "u2"))
    ...     config = CorrectionConfig(dark=f"{folder}/dark.npy", defects=((0, 1),))
    ...     corrected(open_source(f"{folder}/frames.npy"), config).read(0, 1)
    array([[[ 9., nan],
            [ 7.,  6.]]], dtype=float32)
    """
    if config == CorrectionConfig():
        return source
    rules = ValueRules()
    if valid is not None:
        rules = ValueRules(valid.below, valid.above, tuple(valid.equal))
    shape = (source.shape[1], source.shape[2])
    images = read_images(config, shape)
    return CorrectedSource(source, Correction(config, shape, rules, images.digest))
