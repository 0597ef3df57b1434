"""Walking an HDF5 file, and what is found in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from numpy.typing import NDArray

from stillstack.scan import scan_coordinates
from stillstack.sources.facts import plain_scalar

_STACK_NDIM: Final = (3, 4)


@dataclass(frozen=True)
class Stack:
    """A dataset that holds frames.

    Parameters
    ----------
    names
        Its full name, or those of the parts that follow one another.
    layout
        By which rule it was found, for ``source_format``.
    order
        Its axes in the order frame, y, x, or scan row, scan column, y, x.
    coords, attrs
        What the file says of it.
    """

    names: tuple[str, ...]
    layout: str
    order: tuple[int, ...]
    coords: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


def listing(datasets: list[Any]) -> str:
    """Names, shapes and dtypes of datasets in a line."""
    return ", ".join(f"{each.name} {each.shape} {each.dtype}" for each in datasets)


def datasets_of(file: Any) -> list[Any]:
    """Return the datasets of a file itself, not of files that it links to."""
    return [node for node in nodes_of(file) if hasattr(node, "dims")]


def nodes_of(file: Any) -> list[Any]:
    """Return the groups and datasets of a file."""
    found: list[Any] = []
    file.visititems(lambda _, node: found.append(node))
    return found


def groups_of(file: Any) -> Iterator[Any]:
    """Yield the groups of a file, itself the first."""
    yield file
    for node in nodes_of(file):
        if hasattr(node, "keys"):
            yield node


def could_be_stack(node: Any) -> bool:
    """Whether a node is a dataset with the dimensions and numbers of frames."""
    return hasattr(node, "dims") and node.dtype.kind in "uif" and node.ndim in _STACK_NDIM


def text_of(value: Any) -> str:
    """Return text as Python's own; empty for anything else."""
    plain = plain_scalar(value)
    return plain if isinstance(plain, str) else ""


def folded(shape: tuple[int, ...], names: tuple[str | None, ...] = ()) -> dict[str, NDArray[Any]]:
    """Coordinates of the frames of a scan; none of a stack."""
    if len(shape) != 4:
        return {}
    return dict(scan_coordinates((shape[0], shape[1]), names or None))


def values_of(dataset: Any) -> NDArray[Any]:
    """Return what a dataset holds, text as fixed-width Unicode."""
    text = dataset.dtype.kind in "OS"
    values: NDArray[Any] = dataset.asstr()[...].astype(str) if text else dataset[...]
    return values
