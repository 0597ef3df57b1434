"""What the metadata of an OME-Zarr image, version 0.4 or 0.5, say of its largest level.

They are read as they are, without the package that could write them: what counts of them is which
array is the image, what its axes are, and how long a step along each of them is.

Sources: https://ngff.openmicroscopy.org/0.4/, https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stillstack.errors import InputError

READ_VERSIONS: Final = ("0.4", "0.5")
SPACE, TIME, CHANNEL = "space", "time", "channel"


@dataclass(frozen=True)
class OmeAxis:
    """One axis of an image.

    Parameters
    ----------
    name, kind
        As the metadata have them; the kind is ``space``, ``time``, ``channel``, another, or empty.
    step, first
        Length of a step, and where the first item is.
    unit
        Of both; empty where there is none.
    """

    name: str
    kind: str
    step: float = 1.0
    first: float = 0.0
    unit: str = ""


@dataclass(frozen=True)
class OmeImage:
    """A level of an image.

    Parameters
    ----------
    path
        Of its array, within the group that has the metadata.
    version
        Of the specification.
    axes
        In the order of the array's.
    name
        Of the image; may be empty.
    channels
        Their labels, where the metadata have them.
    """

    path: str
    version: str
    axes: tuple[OmeAxis, ...]
    name: str = ""
    channels: tuple[str, ...] = ()


class OmeFaultError(ValueError):
    """The metadata are not as the specification wants them; the text says what is wrong."""


def is_plate(attrs: Mapping[str, Any]) -> bool:
    """Whether a group is a plate or a well, which hold many images."""
    return any(key in (attrs.get("ome") or attrs) for key in ("plate", "well"))


def is_series(attrs: Mapping[str, Any]) -> bool:
    """Whether a group holds one image or more under numbers, as bioformats2raw writes them."""
    inside = attrs.get("ome")
    return "bioformats2raw.layout" in (inside if isinstance(inside, Mapping) else attrs)


def has_image(attrs: Mapping[str, Any]) -> bool:
    """Whether a group says that it is an image."""
    inside = attrs.get("ome")
    return "multiscales" in (inside if isinstance(inside, Mapping) else attrs)


def ome_image(attrs: Mapping[str, Any], path: str | None = None) -> OmeImage | None:
    """Read the largest level of the image that a group's attributes describe.

    Parameters
    ----------
    attrs
        Of the group.
    path
        The level with this array rather than the largest.

    Returns
    -------
    None where they describe no image, or none with such a level.

    Raises
    ------
    OmeFaultError
        When they are wrong.

    Examples
    --------
    >>> axes = [{"name": "t", "type": "time"}, *({"name": n, "type": "space"} for n in "yx")]
    >>> scale = {"type": "scale", "scale": [1, 0.5, 0.5]}
    >>> level = {"path": "0", "coordinateTransformations": [scale]}
    >>> ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    >>> [axis.step for axis in ome_image({"ome": ome}).axes]
    [1.0, 0.5, 0.5]
    """
    if not has_image(attrs):
        return None
    inside = attrs.get("ome", attrs)
    described = inside["multiscales"]
    if not isinstance(described, Sequence) or not described or isinstance(described, str):
        raise OmeFaultError("multiscales is not a list of images")
    first = _mapping(described[0], "multiscales[0]")
    # format 0.4 asks for a version there, and does not insist
    version = str(inside.get("version") if "ome" in attrs else first.get("version", "0.4"))
    if version not in READ_VERSIONS:
        raise OmeFaultError(
            f"its version is {version}, and {' and '.join(READ_VERSIONS)} are understood"
        )
    axes = _axes(first.get("axes"))
    datasets = first.get("datasets")
    if not isinstance(datasets, Sequence) or not datasets:
        raise OmeFaultError("multiscales[0].datasets names no array")
    levels = [_mapping(level, f"datasets[{n}]") for n, level in enumerate(datasets)]
    chosen = next((n for n, level in enumerate(levels) if path in (None, level.get("path"))), None)
    if chosen is None:
        return None
    level = levels[chosen]
    if not isinstance(level.get("path"), str) or not level["path"].strip("/"):
        raise OmeFaultError(f"datasets[{chosen}] has no path")
    own = level.get("coordinateTransformations")
    if not own:
        raise OmeFaultError(f"datasets[{chosen}] has no coordinateTransformations")
    transforms = (*_transforms(own), *_transforms(first.get("coordinateTransformations") or ()))
    return OmeImage(
        path=level["path"].strip("/"),
        version=version,
        axes=_placed(axes, transforms),
        name=str(first.get("name") or ""),
        channels=_channels(inside),
    )


def image_of_shape(attrs: Mapping[str, Any], path: str, shape: tuple[int, ...]) -> OmeImage | None:
    """Level of an image as `ome_image` finds it, whose array has a known shape."""
    image = ome_image(attrs, path)
    if image is not None and len(image.axes) != len(shape):
        raise OmeFaultError(f"it names {len(image.axes)} axes, and {path} has the shape {shape}")
    return image


def refuse_faulty(where: str, fault: OmeFaultError) -> InputError:
    """Make the error for a group whose metadata are wrong."""
    return InputError(
        f"The OME-Zarr metadata of {where} cannot be used: {fault}.",
        consequence="Which array is meant, and what its axes are, is not for the program to guess.",
        cure="Mend the metadata (ome-zarr-models validates them), or name an array of three "
        "dimensions by itself: the option variable, or the path with '::NAME' behind it.",
    )


def _axes(given: Any) -> tuple[OmeAxis, ...]:
    if not isinstance(given, Sequence) or not given or isinstance(given, str):
        raise OmeFaultError("multiscales[0] has no axes")
    found = []
    for number, entry in enumerate(given):
        axis = _mapping(entry, f"axes[{number}]")
        if not isinstance(axis.get("name"), str) or not axis["name"]:
            raise OmeFaultError(f"axes[{number}] has no name")
        unit = axis.get("unit")
        found.append(
            OmeAxis(axis["name"], str(axis.get("type") or ""), unit=str(unit) if unit else "")
        )
    names = [axis.name for axis in found]
    if len(set(names)) != len(names):
        raise OmeFaultError(f"two axes have one name ({', '.join(names)})")
    if len(found) < 2 or [axis.kind for axis in found[-2:]] != [SPACE, SPACE]:
        kinds = ", ".join(f"{axis.name} ({axis.kind or 'no type'})" for axis in found)
        raise OmeFaultError(f"the last two axes are not of the type space: {kinds}")
    if [name.lower() for name in names[-2:]] == ["x", "y"]:
        raise OmeFaultError("its last axes are x, y: rows and columns are the other way round")
    return tuple(found)


def _transforms(given: Any) -> list[tuple[str, list[float]]]:
    found = []
    for entry in given:
        transform = _mapping(entry, "a coordinate transformation")
        kind = transform.get("type")
        if kind == "identity":
            continue
        values = transform.get(kind) if kind in ("scale", "translation") else None
        if not isinstance(values, Sequence):
            raise OmeFaultError(f"a coordinate transformation is {dict(transform)!r}")
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise OmeFaultError(f"the {kind} {list(values)} is not of finite numbers")
        if kind == "scale" and not all(v > 0 for v in values):
            raise OmeFaultError(f"the scale {list(values)} is not positive")
        found.append((str(kind), [float(v) for v in values]))
    return found


def _placed(
    axes: tuple[OmeAxis, ...], transforms: Sequence[tuple[str, list[float]]]
) -> tuple[OmeAxis, ...]:
    """Axes with their steps: what the transformations, one after the other, make of an index."""
    steps, firsts = [1.0] * len(axes), [0.0] * len(axes)
    for kind, values in transforms:
        if len(values) != len(axes):
            raise OmeFaultError(f"the {kind} {values} is not of {len(axes)} axes")
        for at, value in enumerate(values):
            if kind == "scale":
                steps[at] *= value
                firsts[at] *= value
            else:
                firsts[at] += value
    return tuple(
        OmeAxis(axis.name, axis.kind, step, first, axis.unit)
        for axis, step, first in zip(axes, steps, firsts, strict=True)
    )


def _channels(inside: Mapping[str, Any]) -> tuple[str, ...]:
    """Labels of the channels; nothing where they are not as usual: they only name things."""
    omero = inside.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(channels, Sequence):
        return ()
    return tuple(str(c.get("label") or "") if isinstance(c, Mapping) else "" for c in channels)


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise OmeFaultError(f"{what} is {value!r}")
    return value
