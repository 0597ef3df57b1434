"""The packages whose versions decide on what is stored, and which versions are installed."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
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


def version_differences(
    expected: Mapping[str, str], found: Mapping[str, str], names: Iterable[str]
) -> str:
    """Which of the named versions are not as expected, in words; empty where all are.

    Examples
    --------
    >>> version_differences({"zarr": "3.1", "numpy": "2.4"}, {"zarr": "3.2"}, ["zarr", "numpy"])
    'zarr 3.2 instead of 3.1, numpy missing instead of 2.4'
    """
    told = [
        (name, expected.get(name, "missing"), found.get(name, "missing"))
        for name in names
        if expected.get(name) != found.get(name)
    ]
    return ", ".join(f"{name} {there} instead of {wanted}" for name, wanted, there in told)
