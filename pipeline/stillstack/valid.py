"""Valid pixels: boolean arrays (y, x) that are True where a pixel counts.

Figures, an image file, values, and defects found in a sample combine to one static array; what
changes from frame to frame is the kernels' business. Coordinates are pixel indices in the order
(y, x); the centre of pixel ``[i, j]`` is the point (i, j), as in matplotlib's ``imshow``. A length
may be a percentage of its axis: '0%' is the outer edge of the first pixel, '100%' that of the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.config.settings_file import SettingsFile, validated
from stillstack.config.valid import Figure, Length, ValidConfig
from stillstack.defects import defect_pixels
from stillstack.errors import InputError
from stillstack.proposal import describe_region, propose_beam_block

__all__ = [
    "check_valid",
    "circle",
    "defect_pixels",
    "describe_region",
    "figures",
    "polygon",
    "propose_beam_block",
    "rectangle",
    "valid_from_config",
]

Inside = NDArray[np.bool_]
Valid = NDArray[np.bool_]
Shape = tuple[int, ...]

SMALLEST_SHARE: Final = 0.1


def rectangle(shape: Shape, y0: Length, y1: Length, x0: Length, x1: Length) -> Inside:
    """Return True inside rows y0 to y1 and columns x0 to x1, without row y1 and column x1.

    Half-open like slices, also for fractions and percentages: row i is inside where
    ``y0 <= i < y1``, with 'p%' meaning p / 100 times the number of rows. So rectangles that share
    an edge share no pixel and leave none out. Negative coordinates are outside the frame; they do
    not count from its end.

    Examples
    --------
    >>> rectangle((4, 6), 1, 3, "50%", 6).astype(int)
    array([[0, 0, 0, 0, 0, 0],
           [0, 0, 0, 1, 1, 1],
           [0, 0, 0, 1, 1, 1],
           [0, 0, 0, 0, 0, 0]])
    """
    rows, columns = np.arange(shape[0]), np.arange(shape[1])
    inside_rows = (rows >= _pixels(y0, shape[0])) & (rows < _pixels(y1, shape[0]))
    inside_columns = (columns >= _pixels(x0, shape[1])) & (columns < _pixels(x1, shape[1]))
    inside: Inside = inside_rows[:, None] & inside_columns
    return inside


def circle(shape: Shape, y: Length, x: Length, radius: Length) -> Inside:
    """Return True where a pixel's centre lies within ``radius`` of (y, x), or exactly at it.

    A radius in percent is of the shorter axis.

    Examples
    --------
    >>> circle((3, 5), 1, 2, 1).astype(int)
    array([[0, 0, 1, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 1, 0, 0]])
    """
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    away = (rows - _point(y, shape[0])) ** 2 + (columns - _point(x, shape[1])) ** 2
    inside: Inside = away <= _pixels(radius, min(shape)) ** 2
    return inside


def polygon(shape: Shape, vertices: Sequence[tuple[Length, Length]]) -> Inside:
    """Return True where a pixel's centre lies inside a closed polygon of (y, x) vertices.

    Where the outline crosses itself the even-odd rule holds. A centre exactly on the outline is
    inside where the polygon lies towards larger x (on a horizontal edge: larger y), so that
    polygons that share an edge share no pixel.

    Examples
    --------
    >>> polygon((4, 5), [(0, 0), (0, 4), (3, 4), (3, 0)]).astype(int)
    array([[1, 1, 1, 1, 0],
           [1, 1, 1, 1, 0],
           [1, 1, 1, 1, 0],
           [0, 0, 0, 0, 0]])
    """
    corners = [(_point(y, shape[0]), _point(x, shape[1])) for y, x in vertices]
    # crossings[i, j]: edges that row i crosses where the first pixel at or beyond is column j
    crossings = np.zeros((shape[0], shape[1] + 1), np.int32)
    for ends in zip(corners, corners[1:] + corners[:1], strict=True):
        (y0, x0), (y1, x1) = sorted(ends)  # rounded alike for both polygons that share an edge
        first, last = np.clip(np.ceil([y0, y1]), 0, shape[0]).astype(int)
        if first < last:
            rows = np.arange(first, last)
            at = x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(at), 0, shape[1]).astype(int)
            crossings[rows, columns] += 1
    inside: Inside = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    return inside


def figures(shape: Shape, these: Iterable[Figure], where: str = "a figure") -> Inside:
    """Return True inside any of the figures of a config.

    Raises
    ------
    InputError
        A figure covers no pixel: it cannot be what was meant. ``where`` names the setting.
    """
    inside = np.zeros(shape, bool)
    for number, figure in enumerate(these):
        name, one = _draw(shape, figure)
        if not one.any():
            raise InputError(
                f"{where}[{number}] ({name}) covers no pixel of a frame of {_by(shape)} pixels.",
                cure="Give y before x, in pixels from 0 or as '61%' of the axis.",
            )
        inside |= one
    return inside


def valid_from_config(
    spec: ValidConfig | Mapping[str, Any],
    shape: Shape,
    read_image: Callable[[str], NDArray[Any]] | None = None,
    sample: NDArray[Any] | None = None,
    *,
    where: str = "valid.frames",
) -> Valid:
    """Return the static valid pixels that a config asks for.

    Parameters
    ----------
    spec
        One of the sections of ``valid``, as a mapping or made of one.
    shape
        Rows and columns.
    read_image
        Reads an image file by its path.
    sample
        Frames (n, y, x) spread over the run, or one image (y, x). A pixel that is not finite, or
        whose value the config excludes, in more than half of them is invalid for good; in fewer,
        it is left to the check of each frame.
    where
        Name of the section, for messages.

    Raises
    ------
    InputError
        The image has another shape or several channels, a figure covers no pixel, or defects are
        asked for without a sample; or the mapping is not such a section.

    Examples
    --------
    >>> valid_from_config({"exclude": [{"rectangle": [0, 2, 1, 3]}]}, (3, 4)).astype(int)
    array([[1, 0, 0, 1],
           [1, 0, 0, 1],
           [1, 1, 1, 1]])
    """
    shape = tuple(shape)
    if not isinstance(spec, ValidConfig):
        spec = validated(ValidConfig, SettingsFile(where, dict(spec)))
    if spec.include is None:
        valid = np.ones(shape, bool)
    else:
        valid = figures(shape, spec.include, f"{where}.include")
    valid &= ~figures(shape, spec.exclude, f"{where}.exclude")
    if spec.image is not None:
        valid &= _image_valid(spec.image, shape, read_image, f"{where}.image")
    if sample is not None:
        frames = sample[None] if sample.ndim == 2 else sample
        if frames.shape[1:] != shape:
            raise ValueError(f"a sample of shape {sample.shape} for frames of shape {shape}")
        valid &= ~_mostly_excluded(spec, frames)
    if spec.defects:
        if sample is None:
            raise InputError(
                f"{where}.defects asks for hot and dead pixels, but there is no sample of frames.",
                cure="Leave it out, or give frames.",
            )
        valid &= ~defect_pixels(sample, valid)
    return valid


def check_valid(
    valid: Valid,
    image: NDArray[Any] | None = None,
    what: str = "valid.frames",
    *,
    allow_small: bool = False,
) -> list[str]:
    """Return warnings about a valid area that may have been given with the wrong sense.

    Parameters
    ----------
    valid
        True where a pixel counts.
    image
        What the area lies on: the reference, or the median of a few frames. Without it only the
        area's size is judged.
    what
        What messages call it.
    allow_small
        Warn where an error would be raised, except where nothing is valid at all.

    Raises
    ------
    InputError
        No pixel is valid; under 10 % are; or the area looks inverted: the smaller part of the
        frame and of its border, nearly all of it darker than nearly all of what is excluded, as a
        beam-block is. (Where it is darker only on average, there is a warning.)

    Examples
    --------
    >>> check_valid(np.ones((8, 8), bool))
    []
    """
    share = float(valid.mean()) if valid.size else 0.0
    inverted, brightness = _looks_inverted(valid, image) if 0 < share < 0.5 else (0, "")
    sense = f"True, white or non-zero means that a pixel counts{brightness}."
    cure = "Exclude what stands still, keep the scene; exchange the two if the sense is inverted."
    if share == 0:
        raise InputError(
            f"{what} leaves no valid pixel of {_by(valid.shape)}.",
            consequence=f"Nothing can be registered. {sense}",
            cure=cure,
        )
    faults = []
    if share < SMALLEST_SHARE:
        faults.append(f"{what} leaves {share:.2%} of the pixels, under {SMALLEST_SHARE:.0%}")
    if inverted:
        faults.append(f"{what} looks inverted: it keeps {share:.0%} of the pixels, the dark part")
    if not faults:
        return []
    told = " and ".join(faults)
    if not allow_small and (share < SMALLEST_SHARE or inverted > 1):
        raise InputError(
            f"{told}.",
            consequence=f"Shifts would be those of what stands still. {sense}",
            cure=f"{cure} If it is meant, set allow_small: true beside it.",
        )
    return [f"{told}. {sense} {cure}"]


def _looks_inverted(valid: Valid, image: NDArray[Any] | None) -> tuple[int, str]:
    """0 for no, 1 for perhaps, 2 for surely; and the brightness of both parts in words."""
    if image is None:
        return 0, ""
    finite = np.isfinite(image)
    kept, left = image[valid & finite], image[~valid & finite]
    if not kept.size or not left.size:
        return 0, ""
    floor = float(np.percentile(image[finite], 0.5))
    mean_kept, mean_left = float(kept.mean()), float(left.mean())
    words = f"; the mean is {mean_kept:.3g} where valid and {mean_left:.3g} where excluded"
    border = np.concatenate([valid[0], valid[-1], valid[:, 0], valid[:, -1]])
    # The outskirts of a scene are dark, too, but they hold the image's border.
    if border.mean() < 0.5 and np.percentile(kept, 90) < np.percentile(left, 25):
        return 2, words
    return int(mean_kept - floor < 0.5 * (mean_left - floor)), words


def _mostly_excluded(spec: ValidConfig, frames: NDArray[Any]) -> Inside:
    counts = np.zeros(frames.shape[1:], np.int32)
    for frame in frames:
        offends = ~np.isfinite(frame)
        if spec.below is not None:
            offends |= frame < spec.below
        if spec.above is not None:
            offends |= frame > spec.above
        for value in spec.equal:
            offends |= frame == value
        counts += offends
    mostly: Inside = 2 * counts > len(frames)
    return mostly


def _image_valid(
    path: str, shape: Shape, read_image: Callable[[str], NDArray[Any]] | None, where: str
) -> Valid:
    if read_image is None:
        raise ValueError(f"{where} is {path}, but no reader was given")
    image = np.asarray(read_image(path))
    while image.ndim > 2 and 1 in (image.shape[0], image.shape[-1]):
        image = image[0] if image.shape[0] == 1 else image[..., 0]
    if image.shape != shape:
        raise InputError(
            f"{where}: the image {path} has {_by(image.shape)} pixels, the frames {_by(shape)}.",
            consequence="It cannot say which of their pixels count.",
            cure="Give a single-channel image of the frames' size, non-zero where a pixel counts.",
        )
    valid: Valid = (image != 0) & np.isfinite(image)
    return valid


def _draw(shape: Shape, figure: Figure) -> tuple[str, Inside]:
    if figure.rectangle is not None:
        return "rectangle", rectangle(shape, *figure.rectangle)
    if figure.circle is not None:
        return "circle", circle(shape, *figure.circle)
    return "polygon", polygon(shape, figure.polygon or ())


def _pixels(length: Length, axis: int) -> float:
    """Return a length in pixels; percentages are of the axis."""
    return float(length.rstrip("% ")) * axis / 100 if isinstance(length, str) else float(length)


def _point(coordinate: Length, axis: int) -> float:
    """Return the place of a point; 0% and 100% are the outer edges of the outer pixels."""
    shifted = 0.5 if isinstance(coordinate, str) else 0.0
    return _pixels(coordinate, axis) - shifted


def _by(shape: Shape) -> str:
    return " x ".join(str(size) for size in shape) or "no"
