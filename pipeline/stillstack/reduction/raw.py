"""The raw frames that a run was made of, found again by what the run says of its input."""

from __future__ import annotations

from typing import Any

from stillstack.errors import InputError, StillstackError
from stillstack.sources import Source, open_source
from stillstack.storage import RunStore

INPUT_OPTIONS_NOTE = "input_options"


def source_of(store: RunStore) -> Source:
    """Source of a run's frames, opened again; no pixel is read.

    Parameters
    ----------
    store
        The run's.

    Raises
    ------
    InputError
        If it is not there any more, or has another shape than the run's.
    """
    given: dict[str, Any] = (store.attributes.get("config") or {}).get("input") or {}
    if not given:
        raise InputError(
            f"The run {store.path} does not say where its frames were.",
            consequence="It cannot be averaged, nor its frames be aligned again.",
            cure="Give the source, or run the config again.",
        )
    try:
        source = open_source(
            given["path"],
            variable=given.get("variable"),
            pattern=given.get("pattern"),
            options=store.read_note(INPUT_OPTIONS_NOTE),
        )
    except (StillstackError, OSError) as error:
        what = error.what if isinstance(error, StillstackError) else f"{error}."
        raise InputError(
            f"The raw frames of {store.path} are not at {given['path']} any more: {what}",
            consequence="The run's table of shifts is whole, but its frames cannot be read.",
            cure="Bring them back there, or give them as source to reduce_run or virtual_aligned.",
        ) from error
    check_fits(source, store, str(given["path"]))
    return source


def check_fits(source: Source, store: RunStore, where: str) -> None:
    """Raise InputError unless a source has as many frames as a run, of its shape."""
    expected = (store.n_frames, *store.frame_shape)
    if tuple(source.shape) != expected:
        raise InputError(
            f"{where} has the shape {tuple(source.shape)}, and the run {store.path} was made of "
            f"{expected}.",
            consequence="Its shifts would be applied to other frames.",
            cure="Bring back the frames that the run was made of.",
        )
