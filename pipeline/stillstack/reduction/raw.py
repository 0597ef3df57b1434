"""The raw frames that a run was made of, found again by what the run says of its input."""

from __future__ import annotations

from typing import Any, Final

from stillstack.config import RunConfig, make_config
from stillstack.errors import InputError, StillstackError
from stillstack.inspection import fingerprint_of
from stillstack.kept_references import KeptReference
from stillstack.sources import Source, corrected, open_source
from stillstack.storage import RunStore
from stillstack.storage.notes import INPUT_OPTIONS_NOTE

_GIVE: Final = "or give them, wherever they are, as the source of reduce_run or virtual_aligned."


def source_of(store: RunStore) -> Source:
    """Source of a run's frames, opened again and corrected as then; no pixel is read.

    Parameters
    ----------
    store
        The run's.

    Raises
    ------
    InputError
        If it is not there any more, or is another one than the run's.
    """
    given: dict[str, Any] = (store.attributes.get("config") or {}).get("input") or {}
    if not given:
        raise InputError(
            f"The run {store.path} does not say where its frames were.",
            consequence="It cannot be averaged, nor its frames be aligned again.",
            cure="Give the source, or run the config again.",
        )
    try:
        source: Source = open_source(
            given["path"],
            variable=given.get("variable"),
            pattern=given.get("pattern"),
            options=store.read_note(INPUT_OPTIONS_NOTE),
            engine=given.get("engine"),
        )
    except (StillstackError, OSError) as error:
        what = error.what if isinstance(error, StillstackError) else f"{error}."
        raise InputError(
            f"The raw frames of {store.path} are not at {given['path']} any more: {what}",
            consequence="The run's table of shifts is whole, but its frames cannot be read.",
            cure=f"Bring them back there, {_GIVE}",
        ) from error
    source = corrected_as_then(source, store, str(given["path"]))
    fingerprint = fingerprint_of(config_of(store), source, store.given_rows())
    if fingerprint != store.attributes["source_fingerprint"]:
        raise InputError(
            f"The frames at {given['path']}, or an image that the config names, have changed since "
            f"{store.path} was made of them.",
            consequence="Its shifts might belong to other frames.",
            cure=f"Bring back those it was made of, {_GIVE}",
        )
    return source


def corrected_as_then(source: Source, store: RunStore, where: str) -> Source:
    """Source whose frames are corrected as the run's config says: dark, gain, defects.

    Parameters
    ----------
    source
        Raw frames.
    store
        The run's.
    where
        What to call the source where it does not fit.

    Raises
    ------
    InputError
        If the source has not as many frames as the run, of its shape, or an image is gone.
    """
    check_fits(source, store, where)
    config = config_of(store)
    return corrected(source, config.correction, config.valid.frames)


def config_of(store: RunStore) -> RunConfig:
    """Config that makes the same run again, as far as results go.

    Parameters
    ----------
    store
        The run's.
    """
    stored = store.attributes["config"]
    return make_config({**stored, "output": {**stored.get("output", {}), "path": str(store.path)}})


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


def reference_named(store: RunStore) -> KeptReference:
    """Name the reference that all shifts of a run refer to, for processes that will need it.

    Parameters
    ----------
    store
        The run's.
    """
    digest = str(store.attributes["reference_digest"])
    return KeptReference(digest, store.prepared.sha256_of(digest))
