"""HyperSpy's layout, in HDF5 (.hspy) and in Zarr (.zspy)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.sources.facts import calibration, plain_scalar, series, told
from stillstack.sources.layouts.nodes import Stack, could_be_stack, datasets_of, folded

_HYPERSPY: Final = re.compile(r"^/Experiments/[^/]+/data$")


def declared(file: Any) -> list[tuple[str, ...]]:
    """Return the names of signals of images; of all signals, where there is none."""
    found = [n for n in datasets_of(file) if has(n) and could_be_stack(n)]
    images = [n for n in found if image_signal(hyperspy_axes(_tree(n.parent, "axis-")))]
    return [(n.name,) for n in images or found]


def image_signal(axes: list[Mapping[str, Any]]) -> bool:
    """Whether the last two axes of a signal are those of an image."""
    return not axes or [bool(axis.get("navigate")) for axis in axes[-2:]] == [False, False]


def describe(file: Any, names: tuple[str, ...]) -> Stack:
    """Say what axes and metadata tell of a signal."""
    dataset = file[names[0]]
    coords, attrs = hyperspy_facts(
        dataset.shape,
        hyperspy_axes(_tree(dataset.parent, "axis-")),
        _tree(dataset.parent, "metadata").get("metadata", {}),
    )
    return Stack(names, "HyperSpy", tuple(range(dataset.ndim)), coords, attrs)


def hyperspy_axes(tree: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the axes of a HyperSpy signal, in their order in the array."""
    axes = {key: each for key, each in tree.items() if key.startswith("axis-")}
    return [axes[key] for key in sorted(axes, key=lambda key: int(key.removeprefix("axis-")))]


def hyperspy_facts(
    shape: tuple[int, ...], axes: list[Mapping[str, Any]], metadata: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the coordinates and attributes of a HyperSpy signal of images.

    Raises
    ------
    InputError
        When it is one of spectra.
    """
    if not image_signal(axes):
        raise InputError(
            f"The signal of shape {shape} holds spectra: its last two axes are not those of an "
            "image.",
            cure="Save a signal of images: signal.transpose(signal_axes=2) in HyperSpy.",
        )
    plain = [{key: plain_scalar(value) for key, value in axis.items()} for axis in axes]
    attrs = {**told(metadata), **calibration(plain[-2:], "pixel_size")}
    if len(shape) == 4:
        attrs |= calibration(plain[:2], "scan_step")
        names = tuple(str(axis.get("name") or "") for axis in plain[:2])
        return folded(shape, names), attrs
    coords = series({**plain[0], "size": shape[0]}) if len(plain) == 3 else {}
    return dict(coords), attrs


def _tree(group: Any, start: str) -> dict[str, Any]:
    """Attributes of the groups whose names begin so, and of what is in them."""
    found: dict[str, Any] = {}
    for key in group:
        if key.startswith(start) and group.get(key, getclass=True).__name__ == "Group":
            inside = group[key]
            found[key] = {**dict(inside.attrs), **_tree(inside, "")}
    return found


def has(node: Any) -> bool:
    """Whether a dataset lies where HyperSpy has its data."""
    return bool(_HYPERSPY.match(node.name))
