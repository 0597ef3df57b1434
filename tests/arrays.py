"""Small arrays that tests of kernels are fed with: read-only, as kernels may not change them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Valid = NDArray[np.bool_]
TYPES = ["uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def counts(shape: tuple[int, int], seed: int, dtype: str = "uint16") -> NDArray[Any]:
    return frozen(np.random.default_rng(seed).integers(0, 120, shape).astype(dtype))


def flags(shape: tuple[int, int], seed: int, share: float = 0.7) -> Valid:
    return frozen(np.random.default_rng(seed + 1).random(shape) < share)


def tiles(array: NDArray[Any], factor: int) -> NDArray[Any]:
    """Whole bins, their pixels along the last axis."""
    n_y, n_x = (n // factor for n in array.shape)
    cut = array[: n_y * factor, : n_x * factor].reshape(n_y, factor, n_x, factor)
    return cut.swapaxes(1, 2).reshape(n_y, n_x, factor**2)
