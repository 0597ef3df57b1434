"""A source around another one: what tests of failures and of who read what are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.sources import Source


@dataclass(frozen=True)
class WrappedSource:
    """Says of itself what the source inside does, and names a log of what was read."""

    inner: Source
    log: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.inner.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.inner.dtype

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        return self.inner.coords

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.inner.attrs

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(getattr(self.inner, "notes", ()))

    def fingerprint(self) -> str:
        return self.inner.fingerprint()
