"""Which dataset of an HDF5 file is the stack, and what the file says of it, by known layouts.

NeXus, EMD of NCEM and of py4DSTEM, EMD of Velox, and HyperSpy's; anything else is plain HDF5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.sources.layouts import emd, hyperspy, nexus, velox
from stillstack.sources.layouts.nodes import (
    Stack,
    could_be_stack,
    datasets_of,
    folded,
    listing,
    values_of,
)

__all__ = ["Stack", "find_stack"]


def find_stack(file: Any, path: str, variable: str | None) -> Stack:
    """Return the stack of a file.

    Parameters
    ----------
    file
        Open, of h5py.
    path
        For messages.
    variable
        Name of a dataset, or of the group that holds one; None: the one that the file declares
        to be its data, else the only one of three or four dimensions and numbers.

    Raises
    ------
    InputError
        When there is none, or more than one that could be meant.
    """
    if variable is not None:
        return _named(file, path, variable)
    for layout in _LAYOUTS:
        declared = layout.declared(file)
        if len(declared) == 1:
            return layout.describe(file, declared[0])
        if declared:
            raise _several(path, [file[names[0]] for names in declared])
    datasets = [each for each in datasets_of(file) if could_be_stack(each)]
    if len(datasets) == 1:
        return _plain(file, (datasets[0].name,))
    if datasets:
        raise _several(path, datasets)
    raise InputError(
        f"{path} holds no dataset of three or four dimensions and numbers.",
        cure=f"It holds: {listing(datasets_of(file)) or 'nothing'}.",
    )


def _named(file: Any, path: str, variable: str) -> Stack:
    found = file.get(variable)
    if found is not None and hasattr(found, "keys"):
        inside = f"{found.name.rstrip('/')}/"
        for layout in _LAYOUTS:
            within = [names for names in layout.declared(file) if names[0].startswith(inside)]
            if len(within) == 1:
                return layout.describe(file, within[0])
    if found is None or hasattr(found, "keys"):
        raise InputError(
            f"{path} has no dataset {variable!r}.",
            cure=f"It has: {listing(datasets_of(file)) or 'no datasets at all'}.",
        )
    for layout in _LAYOUTS if could_be_stack(found) else ():
        if layout.has(found):
            return layout.describe(file, (found.name,))
    return _plain(file, (found.name,))


def _several(path: str, datasets: list[Any]) -> InputError:
    return InputError(
        f"{path} holds {len(datasets)} stacks: {listing(datasets)}.",
        consequence="Which of them is meant is not for the program to guess.",
        cure="Name one: input.variable in the config, the option --variable, or the path with "
        "'::/NAME' behind it.",
    )


def _plain(file: Any, names: tuple[str, ...]) -> Stack:
    dataset = file[names[0]]
    coords = _scales(dataset) if dataset.ndim == 3 else folded(dataset.shape)
    return Stack(names, "HDF5", tuple(range(dataset.ndim)), coords, {})


def _scales(dataset: Any) -> dict[str, NDArray[Any]]:
    """Dimension scales along the first axis, by name; netCDF files and h5py write them."""
    coords: dict[str, NDArray[Any]] = {}
    for scale in dataset.dims[0].values():
        mere_length = b"This is a netCDF dimension but not" in bytes(scale.attrs.get("NAME", b""))
        name = scale.name.rpartition("/")[2]
        if scale.shape == dataset.shape[:1] and not mere_length and name not in {"frame", "y", "x"}:
            coords[name] = values_of(scale)
    return coords


@dataclass(frozen=True)
class _Layout:
    """How a kind of HDF5 file says what its data are.

    Parameters
    ----------
    declared
        Names of the stacks that a file declares.
    describe
        Of one of them.
    has
        Whether a dataset lies where this layout has its data.
    """

    declared: Callable[[Any], list[tuple[str, ...]]]
    describe: Callable[[Any, tuple[str, ...]], Stack]
    has: Callable[[Any], bool]


_LAYOUTS: Final = (
    _Layout(hyperspy.declared, hyperspy.describe, hyperspy.has),
    _Layout(velox.declared, velox.describe, velox.has),
    _Layout(emd.declared, emd.describe, emd.has),
    _Layout(nexus.declared, nexus.describe, nexus.has),
)
