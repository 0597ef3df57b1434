"""References for frames of few counts, which are registered in sums of neighbours.

What a frame does not show, the sum of its neighbourhood does. So the reference is made of sums, and
frames are found on it by way of their sums' trajectory.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stillstack.config import TrajectoryConfig
from stillstack.drift import SumQuality, choose_sum, sum_ranges
from stillstack.errors import InputError
from stillstack.kept_references import settings_of_sums
from stillstack.kernels.validity import ValueRules
from stillstack.model import is_good
from stillstack.plan import Plan
from stillstack.reference import Compute, ReferenceMaker
from stillstack.reference_image import ReferenceImage
from stillstack.sources import SummedSource

# So many sums there have to be for drift to be told from noise.
_FEWEST_SUMS = 16


def made_of_sums(
    plan: Plan, following: TrajectoryConfig, compute: Compute
) -> tuple[ReferenceImage, SummedSource, int]:
    """Reference image of sums, the sums themselves, and how many frames each has.

    Parameters
    ----------
    plan
        What is to be run.
    following
        Its section ``trajectory``; ``sum_frames`` is a number of frames, or ``"auto"``.
    compute
        ``dask.compute``, bound to a scheduler.

    Raises
    ------
    InputError
        If not even large sums can be registered.
    """
    tried: dict[int, tuple[ReferenceImage, SummedSource]] = {}

    def quality(k: int) -> SumQuality:
        # sums that share frames share noise: the reference is made of such as do not
        maker = _maker(plan, _sums(plan, following, k, stride=k), k, compute)
        try:
            made = maker.make()
        except InputError:
            return SumQuality(0.0, math.inf)
        tried[k] = made, _sums(plan, following, k)
        return _quality(maker, made)

    wanted = following.sum_frames
    if wanted == "auto":
        k = choose_sum(quality, max(2, plan.layout.n_frames // _FEWEST_SUMS))
    else:
        k = int(wanted)
        if not quality(k).share_good:
            raise InputError(
                f"No sum of {k} frames can be registered to the mean of the others.",
                cure="Set trajectory.sum_frames to a larger number, or to auto.",
            )
    made, sums = tried[k]
    return made, sums, k


def sums_in(plan: Plan, ranges: NDArray[np.int64]) -> SummedSource:
    """Sums over ranges of a plan's frames, without frames and pixels that do not count."""
    settings = plan.settings
    rules = ValueRules(settings["below"], settings["above"], tuple(settings["equal"]))
    left_out = frozenset(int(number) for number in np.flatnonzero(plan.left_out))
    pairs = tuple((int(start), int(stop)) for start, stop in ranges)
    return SummedSource(plan.source, pairs, left_out, rules)


def _sums(
    plan: Plan, following: TrajectoryConfig, k: int, stride: int | None = None
) -> SummedSource:
    n_frames = plan.layout.n_frames
    time = plan.source.coords.get(following.coordinate or "")
    return sums_in(plan, sum_ranges(time, n_frames, min(k, n_frames), stride, following))


def _maker(plan: Plan, sums: SummedSource, k: int, compute: Compute) -> ReferenceMaker:
    config, ranges = plan.config.reference, np.array(sums.ranges)
    # numbers of frames in the config become numbers of the sums that hold them
    places = {
        "start": int(np.searchsorted(ranges[:, 1], config.start, side="right")),
        "stop": None if config.stop is None else int(np.searchsorted(ranges[:, 0], config.stop)),
        "index": None
        if config.index is None
        else int(np.searchsorted(ranges[:, 1], config.index, side="right")),
    }
    return ReferenceMaker(
        sums,
        config.model_copy(update=places),
        plan.valid,
        plan.reference_valid,
        settings_of_sums(plan.settings, k),
        compute,
    )


def _quality(maker: ReferenceMaker, made: ReferenceImage) -> SumQuality:
    """How well sums register to a reference that is made of them."""
    table = maker.located(made)
    good = is_good(table["status"].values)
    std = table["shift_std"].values[good].max(axis=1)
    return SumQuality(float(good.mean()), float(np.median(std)) if good.any() else math.inf)


def per_frame(made: ReferenceImage, k: int) -> ReferenceImage:
    """Reference in counts of a frame, from that in counts of sums of k frames."""
    image = (made.image / np.float32(k)).astype(np.float32)
    return replace(made, image=image, n_frames=made.n_frames * k)
