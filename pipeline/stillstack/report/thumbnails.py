"""Frames worth a look, as small images: the worst ones, and one for each status bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from stillstack.errors import StillstackError
from stillstack.model import REJECTING, Status, status_words
from stillstack.pictures import IMAGE_COLOURS, display_image, image_norm
from stillstack.report.comparison import Image, small_image
from stillstack.report.embedded import thumbnail
from stillstack.sources import Source
from stillstack.summary import MEANINGS, reason, worst_frames

_THUMBNAIL_PX: Final = 192
_COUNTED: Final = {Status.STRUCK: "n_struck", Status.CLIPPED: "n_clipped"}


@dataclass(frozen=True)
class Thumbnail:
    """A frame worth a look."""

    index: int
    words: str
    why: str
    good: bool
    picture: str | None = field(default=None, repr=False)
    small: str | None = field(default=None, repr=False)


def thumbnails(
    run: xr.Dataset, raw: Source | None, set_aside: dict[int, str], mean: Image | None
) -> list[Thumbnail]:
    """Small images of the frames that are worth a look.

    Parameters
    ----------
    run
        A run's Dataset.
    raw
        The frames as recorded; None where they are no longer there.
    set_aside
        Why frames could not be read.
    mean
        Mean of good frames, (y, x), whose scale is that of all; None where there is none.
    """
    norm = _scale(mean)
    status = np.asarray(run["status"].values).astype(int)
    rows = []
    for index, why in _chosen(run, status).items():
        aside = set_aside.get(index)
        bits = int(status[index])
        frame = None if bits & Status.UNREADABLE else _frame(raw, index)
        rows.append(
            Thumbnail(
                index=index,
                words=", ".join(status_words(bits)) or "good",
                why=why + (f": {aside}" if aside else ""),
                good=not bits & REJECTING,
                picture=None if frame is None else _large(frame, norm),
                small=None if frame is None else _coloured(small_image(frame), norm),
            )
        )
    return rows


def hover_pictures(
    shown: Sequence[Thumbnail], small: Mapping[int, NDArray[np.float32]], mean: Image | None
) -> dict[int, str]:
    """Small pictures of frames, by number, that points of the plots show.

    Parameters
    ----------
    shown
        Frames worth a look.
    small
        Small images of other frames, by number.
    mean
        Mean of good frames, (y, x), whose scale is that of all; None where there is none.
    """
    norm = _scale(mean)
    pictures = {number: _coloured(image, norm) for number, image in small.items()}
    pictures |= {one.index: one.small for one in shown if one.small is not None}
    return dict(sorted(pictures.items()))


def _scale(mean: Image | None) -> Normalize | None:
    return None if mean is None else image_norm(display_image(mean, _THUMBNAIL_PX)[0])


def _chosen(run: xr.Dataset, status: Any) -> dict[int, str]:
    """Frames to show and why: the worst, then an example of each bit that none of them has."""
    chosen = {index: reason(run, index) for index in worst_frames(run)}
    for bit in Status:
        if bit & (REJECTING | Status.EXCLUDED) or any(status[i] & bit for i in chosen):
            continue
        having = np.flatnonzero(status & bit)
        if not having.size:
            continue
        amount = run[_COUNTED[bit]].values[having] if bit in _COUNTED else np.zeros(having.size)
        index = int(having[np.argmax(np.nan_to_num(amount))])
        chosen[index] = f"an example: {MEANINGS[bit]}"
    return chosen


def _frame(raw: Source | None, index: int) -> NDArray[Any] | None:
    if raw is None:
        return None
    try:
        return np.asarray(raw.read(index, index + 1)[0])
    except StillstackError:
        return None


def _large(frame: NDArray[Any], norm: Normalize | None) -> str:
    return _coloured(display_image(np.asarray(frame, float), _THUMBNAIL_PX)[0], norm)


def _coloured(image: NDArray[np.floating[Any]], norm: Normalize | None) -> str:
    scaled = np.clip((norm or image_norm(image))(image), 0, 1)
    return thumbnail(mpl.colormaps[IMAGE_COLOURS](scaled, bytes=True))
