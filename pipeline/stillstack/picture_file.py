"""A figure written where a person asked for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stillstack.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_picture(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, and say where it is; a file that is there is replaced.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=130)
    except OSError as error:
        raise InputError(
            f"The picture {path} cannot be written: {error.strerror or error}.",
            cure="Name another place with --picture.",
        ) from error
    return path
