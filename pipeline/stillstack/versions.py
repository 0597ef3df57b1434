"""The packages whose versions decide on what is stored, and which versions are installed."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Final

DECIDING_PACKAGES: Final = (
    "stillstack",
    "numpy",
    "scipy",
    "numba",
    "dask",
    "distributed",
    "xarray",
    "zarr",
)
"""Whose versions decide on what is stored: kept with a run, and the same in all its processes."""


def deciding_versions() -> dict[str, str]:
    """Version of Python and of each deciding package by name, from their metadata alone.

    Examples
    --------
    >>> list(deciding_versions())[:3]
    ['python', 'stillstack', 'numpy']
    """
    found = {name: importlib.metadata.version(name) for name in DECIDING_PACKAGES}
    return {"python": platform.python_version(), **found}
