"""One image from one file: what a folder's frames, a reference or a valid area are read from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from stillstack.address import is_address
from stillstack.errors import InputError
from stillstack.sources.guard import opening
from stillstack.sources.npy import read_header

if TYPE_CHECKING:
    from PIL.Image import Image

TIFF_SUFFIXES = (".tif", ".tiff")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, ".npy", *PICTURE_SUFFIXES)

# tifffile logs what it is about to raise: without a handler Python would print it twice.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class ColourError(ValueError):
    """An image has colours, where each pixel has to be one number."""


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of the image in it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n_images: int = 1
    taken: datetime | None = None


def read_image_header(path: str) -> ImageHeader:
    """Shape and dtype of the image in a file, without decoding it; raises anything.

    Raises
    ------
    ColourError
        When the image has colours.
    """
    suffix = Path(path).suffix.lower()
    if suffix in TIFF_SUFFIXES:
        return _tiff_header(path)
    if suffix == ".npy":
        shape, _, dtype, _ = read_header(path)
        return ImageHeader(shape, dtype.newbyteorder("="))
    with _open_picture(path) as picture:
        dtype = _grey_dtype(picture)
        return ImageHeader((picture.height, picture.width), dtype)


def read_image(path: str, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Pixels of the first image in a file, native byte order; raises anything.

    Parameters
    ----------
    path
        The file.
    out
        Contiguous array that the pixels are written to where that saves a copy; it has to have
        the image's shape and dtype.
    """
    suffix = Path(path).suffix.lower()
    if suffix in TIFF_SUFFIXES:
        with tifffile.TiffFile(path) as tiff:
            return read_page(tiff.pages.first, out)
    if suffix == ".npy":
        image = np.load(path, allow_pickle=False)
    else:
        with _open_picture(path) as picture:
            _grey_dtype(picture)
            image = np.asarray(picture)
    image = image.astype(image.dtype.newbyteorder("="), order="C", copy=False)
    if out is not None:
        _refuse_other(image.shape, image.dtype, out)
        out[...] = image
    return image if out is None else out


def read_page(page: tifffile.TiffPage, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Pixels of a TIFF page; anything that is missing raises, where tifffile would fill in zeros.

    Raises
    ------
    ValueError
        When the page is not like ``out``, or its data are not all in the file.
    """
    refuse_colour(page)
    if out is not None:
        _refuse_other(page.shape, page.dtype, out)
    end, missing = 0, not page.dataoffsets
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        end = max(end, offset + count)
        missing = missing or not offset or not count
    size = page.parent.filehandle.size
    if missing or end > size:
        why = "a part of it has no data" if missing else f"it ends at byte {end}"
        raise ValueError(f"{why}, and the file is cut off or damaged ({size} bytes)")
    row_bytes = -(-page.imagewidth * page.bitspersample // 8)
    present, needed = sum(page.databytecounts), row_bytes * page.imagelength
    if page.compression == 1 and present < needed:
        raise ValueError(f"it has {present} of its {needed} bytes")
    pixels: NDArray[Any] = page.asarray(out=out, maxworkers=1)
    return pixels if out is None else out


def refuse_colour(page: tifffile.TiffPage) -> None:
    """Raise ColourError unless each pixel of a TIFF page is one number.

    A palette of greys is a way of displaying counts, and its indices are the counts.
    """
    if page.samplesperpixel > 1:
        raise ColourError(f"it has {page.samplesperpixel} colours or channels a pixel")
    palette = page.colormap
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and palette is not None:
        red, green, blue = palette
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            raise ColourError("it has a palette of colours")


def refuse_undecodable(page: tifffile.TiffPage, path: str) -> None:
    """Raise InputError when a page is compressed in a way that nothing here can undo."""
    if page.compression == 1:
        return
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        if page.predictor != 1:
            tifffile.TIFF.UNPREDICTORS[page.predictor]
    except KeyError as error:
        raise InputError(
            f"{path} is compressed with {tifffile.COMPRESSION(page.compression).name}, "
            "which needs the package imagecodecs.",
            cure="Install it with: pip install imagecodecs.",
        ) from error


def refuse_undecodable_file(path: str) -> None:
    """Raise InputError when a file is a TIFF compressed in a way that nothing here can undo."""
    if Path(path).suffix.lower() in TIFF_SUFFIXES:
        with tifffile.TiffFile(path) as tiff:
            refuse_undecodable(tiff.pages.first, path)


def dtype_of(page: tifffile.TiffPage) -> np.dtype[Any]:
    """Return the dtype of a TIFF page; ValueError where NumPy has none like it."""
    if page.dtype is None:
        raise ValueError(f"its pixels have {page.bitspersample} bits, which NumPy does not have")
    return np.dtype(page.dtype)


def tiff_time(page: tifffile.TiffPage) -> datetime | None:
    """When a TIFF page says it was taken (tag DateTime, whole seconds), if it does."""
    text = page.tags.valueof(306)
    try:
        return datetime.strptime(text, "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007  # the tag has no zone
    except (TypeError, ValueError):
        return None


def image_of(path: str | Path) -> NDArray[Any]:
    """One two-dimensional image: a reference, or the picture of a valid area.

    Parameters
    ----------
    path
        A .tif, .npy, .png, .jpg or .bmp file; anything else that can be opened as a stack serves
        when it has exactly one frame, e.g. ``valid.h5::/mask``. A picture in grey that was stored
        as RGB counts as grey.

    Returns
    -------
    ndarray of shape (y, x), in native byte order, of the dtype of the file.

    Raises
    ------
    InputError
        When the file is missing, damaged, has colours or more than one image.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/valid.npy", np.ones((4, 6), bool))
    ...     image_of(f"{folder}/valid.npy").shape
    (4, 6)
    """
    where = str(path) if is_address(path) else str(Path(path).expanduser())
    suffix = Path(where).suffix.lower()
    if suffix not in IMAGE_SUFFIXES or not Path(where).exists():
        return _only_frame(where)
    with opening(where, "an image"):
        try:
            refuse_undecodable_file(where)
            picture = suffix in PICTURE_SUFFIXES
            n_images = 1 if picture else read_image_header(where).n_images
            image = _grey_picture(where) if picture else read_image(where)
        except ColourError as error:
            raise colour_refused(where, error) from error
    image = image.reshape(image.shape[-2:]) if image.ndim > 2 and len(image) == 1 else image
    if image.ndim != 2 or n_images > 1:
        raise InputError(
            f"{where} holds {n_images} images of shape {image.shape}: one image of "
            "dimensions y, x is wanted.",
            cure="Save the one that is meant to a file of its own.",
        )
    return image


def colour_refused(path: str, error: ColourError) -> InputError:
    """Make the error for an image in colour."""
    return InputError(
        f"{path} is a colour image: {error}.",
        consequence="Registration needs one number a pixel, and which one is not for the program "
        "to guess.",
        cure="Save it in greyscale, or save the one channel that holds the counts.",
    )


def _only_frame(path: str) -> NDArray[Any]:
    from stillstack.sources.opening import find_source

    source = find_source(path)
    if source.shape[0] != 1:
        raise InputError(
            f"{path} holds {source.shape[0]} frames: one image of dimensions y, x is wanted.",
            cure="Save the one that is meant to a file of its own.",
        )
    frame: NDArray[Any] = source.read(0, 1)[0]
    return frame


def _tiff_header(path: str) -> ImageHeader:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        refuse_colour(page)
        n_images = 1
        if tiff.pages.is_multipage:
            # a smaller copy for previews is not another frame
            others = (tiff.pages.get(number) for number in range(1, len(tiff.pages)))
            n_images += sum(not getattr(other, "is_reduced", False) for other in others)
        return ImageHeader(page.shape, dtype_of(page), n_images, tiff_time(page))


def _open_picture(path: str) -> Image:
    from PIL import Image

    return Image.open(path)


def _grey_dtype(picture: Image) -> np.dtype[Any]:
    kinds = {"1": "?", "L": "u1", "I": "i4", "F": "f4"}
    if picture.mode.startswith("I;16"):
        return np.dtype("u2")
    if picture.mode not in kinds:
        raise ColourError(f"its pixels are {picture.mode}")
    return np.dtype(kinds[picture.mode])


def _grey_picture(path: str) -> NDArray[Any]:
    with _open_picture(path) as picture:
        if picture.mode in {"RGB", "RGBA", "LA", "P", "PA"}:
            red, green, blue, alpha = np.moveaxis(np.asarray(picture.convert("RGBA")), -1, 0)
            if alpha.min() < 255:
                raise ColourError("parts of it are transparent")
            if not (np.array_equal(red, green) and np.array_equal(red, blue)):
                raise ColourError(f"its pixels are {picture.mode}")
            return np.ascontiguousarray(red)
        _grey_dtype(picture)
        image = np.asarray(picture)
        return image.astype(image.dtype.newbyteorder("="), copy=False)


def _refuse_other(shape: tuple[int, ...], dtype: Any, out: NDArray[Any]) -> None:
    if tuple(shape) != out.shape or np.dtype(dtype) != out.dtype:
        raise ValueError(
            f"it is {tuple(shape)} {dtype}, and the other frames are {out.shape} {out.dtype}"
        )
