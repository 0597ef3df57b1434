"""The picture of a plan: the valid area over a frame, and a beam-block that may be missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.picture_file import write_picture
from stillstack.pictures import plot_valid
from stillstack.valid import describe_region, propose_beam_block

if TYPE_CHECKING:
    from stillstack.plan import Plan

_LEAST_UNCOVERED: Final = 0.1


@dataclass(frozen=True, eq=False)
class Proposal:
    """Something that looks like a beam-block and is not excluded.

    Attributes
    ----------
    inside
        Boolean (y, x), True inside it.
    yaml
        Lines for the config.
    """

    inside: NDArray[np.bool_]
    yaml: str

    @property
    def share(self) -> float:
        """Its part of all pixels."""
        return float(self.inside.mean())


def beam_block_proposal(plan: Plan) -> Proposal | None:
    """Propose a beam-block where one is seen and less than nine tenths of it are excluded."""
    inside = propose_beam_block(plan.typical)
    uncovered = int((inside & plan.valid).sum())
    if not inside.any() or uncovered < _LEAST_UNCOVERED * inside.sum():
        return None
    return Proposal(inside, describe_region(inside))


def draw_plan(plan: Plan, proposal: Proposal | None, path: Path) -> Path:
    """Write the picture of a plan as PNG, and say where it is.

    Parameters
    ----------
    plan
        What is going to be done.
    proposal
        Drawn dashed.
    path
        The file; one that is there is replaced.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    figure = plot_valid(
        plan.typical.astype(float),
        plan.valid,
        proposed=None if proposal is None else proposal.inside,
        title=plan.source.name,
        label="mean counts of the sampled frames",
    )
    return write_picture(figure, path)
