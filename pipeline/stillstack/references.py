"""What the frames of a run are registered to: one image, or one for each group of frames.

The images of groups are registered to one another, and their mean, the *template*, is what all
shifts refer to in the end. Everything here is made once, by the coordinator.

A frame is measured once, against its own group's image; the template enters through the group's.
Measured against the template too, it would carry the noise of the same photons twice: the errors
of both answers correlate by 0.98 and more, and their best combination gains 2 percent at most
(``tests/benchmarks/references.py``), for twice the time and whatever content has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from stillstack.config import NetworkConfig
from stillstack.errors import InputError
from stillstack.kernels.registration import Reference
from stillstack.model import AXIS, FRAME, GROUP, SUM
from stillstack.network import Edge, Groups, groups_of, measure_edges, tie_groups
from stillstack.plan import Plan
from stillstack.reference import ReferenceMaker, in_threads
from stillstack.reference_image import ReferenceImage
from stillstack.sources import SummedSource, selected
from stillstack.sums import made_of_sums, per_frame

TEMPLATE_LABEL: Final = "template"


@dataclass(frozen=True, eq=False)
class References:
    """What frames are registered to, as it is stored.

    Parameters
    ----------
    image, valid
        (y, x), or (group, y, x) with the template first.
    n_frames
        How many frames the noise of an image is worth; a list where there are groups.
    prepared
        The one that all shifts refer to.
    notes
        How they were made.
    variables
        What is known of groups, or of sums, by name.
    sum_frames
        Frames in a sum, where sums are registered.
    """

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    n_frames: int | list[int]
    prepared: Reference
    notes: tuple[str, ...]
    variables: Mapping[str, xr.Variable] = field(default_factory=dict)
    sum_frames: int = 1


def make_references(plan: Plan) -> References:
    """Make the reference of a run, or those of its groups."""
    maker = plan.maker
    if plan.given is not None:
        return _single(maker, maker.averaged(plan.given))
    following = plan.config.trajectory
    if following is not None and following.sum_frames != 1:
        made, sums, k = made_of_sums(plan, following, in_threads)
        return _summed(maker, made, sums, k)
    if plan.config.groups is None:
        return _single(maker, maker.make())
    groups = groups_of(plan.config.groups, plan.source.coords, plan.layout.n_frames)
    return _grouped(plan, maker, groups, plan.config.groups)


def _single(maker: ReferenceMaker, made: ReferenceImage) -> References:
    return References(
        made.image, made.valid, made.n_frames, maker.prepared(made), tuple(made.notes)
    )


def _summed(maker: ReferenceMaker, made: ReferenceImage, sums: SummedSource, k: int) -> References:
    """References of frames, which shifts refer to, and of the sums that are registered."""
    frames = per_frame(made, k)
    labels = np.array([TEMPLATE_LABEL, f"sums of {k} frames"])
    ranges = xr.Variable(
        (SUM, "bound"),
        np.array(sums.ranges),
        {"long_name": "first frame of a sum, and the one after its last"},
    )
    return References(
        np.stack([frames.image, made.image]),
        np.stack([frames.valid, made.valid]),
        [frames.n_frames, made.n_frames],
        maker.prepared(frames),
        (*made.notes, f"sums of {k} frames are registered"),
        {GROUP: xr.Variable(GROUP, labels), "sum_range": ranges},
        k,
    )


def _grouped(
    plan: Plan, maker: ReferenceMaker, groups: Groups, config: NetworkConfig
) -> References:
    pictures, notes = [], list(groups.notes)
    for number in range(len(groups)):
        picture, why = _picture_of(plan, groups, number)
        pictures.append(picture)
        if why:
            notes.append(why)
    tied = tie_groups(pictures, config, plan.settings, measure=_measured_in_threads)
    offsets, template = tied.offsets, tied.template
    if template is None:
        raise InputError(
            f"None of the {len(groups)} groups by {groups.name} could be tied to another.",
            cure="Choose longer groups, or leave out the section groups of the config.",
        )
    # frames of a group that has no image are registered to the template
    images = [template, *(picture or template for picture in pictures)]
    lost = np.array([picture is None for picture in pictures])
    offset = np.where(lost[:, None], 0.0, offsets.offset)
    std = np.where(lost[:, None], 0.0, offsets.std)
    return References(
        np.stack([image.image for image in images]),
        np.stack([image.valid for image in images]),
        [image.n_frames for image in images],
        maker.prepared(template),
        (*notes, *offsets.notes),
        _variables(groups, offset, std, offsets.closure),
    )


def _picture_of(plan: Plan, groups: Groups, number: int) -> tuple[ReferenceImage | None, str]:
    """Image of a group's own frames; or None, and why there is none."""
    frames = groups.frames(number)
    source = selected(plan.source, frames)
    config = plan.config.reference.model_copy(update={"start": 0, "stop": None})
    maker = replace(plan.maker, source=source, config=config, left_out=plan.left_out[frames])
    try:
        return maker.make(), ""
    except InputError as error:
        label = groups.labels[number]
        return None, f"{groups.name} {label} is registered to the template: {error.what}"


def _measured_in_threads(tasks: Sequence[tuple[Any, ...]]) -> Iterable[tuple[Edge, ...]]:
    return in_threads(*(delayed(measure_edges, traverse=False)(*task) for task in tasks))


def _variables(
    groups: Groups,
    offset: NDArray[np.float64],
    std: NDArray[np.float64],
    closure: NDArray[np.float64],
) -> dict[str, xr.Variable]:
    """What is stored of groups; the template is number 0."""
    labels = np.array([TEMPLATE_LABEL, *(str(label) for label in groups.labels)])
    nothing = np.zeros((1, 2))
    per_axis = (GROUP, AXIS)
    return {
        GROUP: xr.Variable(GROUP, labels, {"long_name": f"group by {groups.name}"}),
        "group_index": xr.Variable(
            FRAME, groups.index + np.int32(1), {"long_name": "number of the frame's group"}
        ),
        "group_shift": xr.Variable(
            per_axis,
            np.concatenate([nothing, offset]),
            {"long_name": "shift of a group's reference onto the template", "units": "pixel"},
        ),
        "group_shift_std": xr.Variable(
            per_axis,
            np.concatenate([nothing, std]).astype("f4"),
            {"long_name": "1-sigma uncertainty of group_shift", "units": "pixel"},
        ),
        "loop_closure": xr.Variable(
            GROUP,
            np.concatenate([[0.0], closure]).astype("f4"),
            {"long_name": "by how much loops through a group fail to close", "units": "pixel"},
        ),
    }
