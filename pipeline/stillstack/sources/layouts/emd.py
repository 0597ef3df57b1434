"""EMD of NCEM (0.2) and of py4DSTEM (1.0): a group with a dataset and its dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.sources.facts import calibration, plain_scalar, seconds_of, series
from stillstack.sources.layouts.nodes import Stack, could_be_stack, folded, groups_of, text_of


def declared(file: Any) -> list[tuple[str, ...]]:
    """Return the names of datasets in groups that say that they hold data."""
    holders = [node for node in groups_of(file) if "emd_group_type" in node.attrs]
    return [
        (f"{node.name}/data",)
        for node in holders
        if isinstance(node.get("data", getclass=True), type) and could_be_stack(node.get("data"))
    ]


def describe(file: Any, names: tuple[str, ...]) -> Stack:
    """Say what the dimensions beside a dataset, and the file's notes, tell of it."""
    group = file[names[0]].parent
    dataset = file[names[0]]
    axes = _emd_axes(group, dataset.shape)
    order = _emd_order([str(axis["name"]).lower() for axis in axes])
    axes = [axes[place] for place in order]
    shape = tuple(dataset.shape[place] for place in order)
    attrs = {**_emd_facts(file), **calibration(axes[-2:], "pixel_size")}
    if dataset.ndim == 4:
        attrs |= calibration(axes[:2], "scan_step")
        names_of_scan = tuple(str(axis["name"]) for axis in axes[:2])
        return Stack(names, "EMD", order, folded(shape, names_of_scan), attrs)
    return Stack(names, "EMD", order, _emd_coords(axes[0]), attrs)


def _emd_axes(group: Any, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Name, values, step and units of each dimension; counted from 1, or from 0 by py4DSTEM."""
    first = 0 if "dim0" in group else 1
    axes = []
    for place, length in enumerate(shape):
        node = group.get(f"dim{place + first}")
        if not hasattr(node, "dims") or node.size == 0 or node.dtype.kind not in "uif":
            axes.append({"name": "", "units": "", "scale": 1.0, "size": length})
            continue
        values = np.ravel(node[...]).astype(float)
        if len(values) == 2 and length != 2:  # the first two of an even row
            values = values[0] + (values[1] - values[0]) * np.arange(length)
        units = text_of(node.attrs.get("units")).strip("[]").replace("_", "")
        step = float(values[1] - values[0]) if len(values) > 1 else 1.0
        name = text_of(node.attrs.get("name"))
        axes.append({"name": name, "units": units, "scale": step, "size": length, "values": values})
    return axes


def _emd_order(names: list[str]) -> tuple[int, ...]:
    """Axes in the order frame(s), y, x, where the names say that the image comes first.

    Examples
    --------
    >>> _emd_order(["x", "y", "time"]), _emd_order(["time", "y", "x"])
    ((2, 1, 0), (0, 1, 2))
    """
    natural = tuple(range(len(names)))
    if set(names[:2]) != {"x", "y"} or set(names[-2:]) == {"x", "y"}:
        return natural
    rest = natural[2:][::-1] if names[0] == "x" else natural[2:]
    return (*rest, names.index("y"), names.index("x"))


def _emd_coords(axis: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    values = axis.get("values")
    if values is None or len(values) != axis["size"]:
        return {}
    factor = seconds_of(str(axis["units"]))
    if factor is not None:
        return {"time": values * factor}
    found = series({**axis, "scale": axis["scale"], "offset": 0.0})
    return dict.fromkeys(found, values)


def _emd_facts(file: Any) -> dict[str, Any]:
    """Attributes of the groups that EMD 0.2 keeps for them."""
    found: dict[str, Any] = {}
    for name in ("microscope", "sample", "user"):
        group = file.get(name)
        for key, value in (group.attrs if group is not None else {}).items():
            plain = plain_scalar(value)
            if plain not in (None, ""):
                found[f"{name}_{key}".replace(" ", "_").lower()] = plain
    for name in ("microscope_voltage", "microscope_accelerating_voltage"):
        if name in found:
            found["voltage"] = found.pop(name)
    return found


def has(node: Any) -> bool:
    """Whether a dataset lies where EMD has its data."""
    return "emd_group_type" in node.parent.attrs
