"""Bad input is refused at the start in one clear paragraph, or costs the frames it concerns."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from numpy.typing import NDArray
from PIL import Image

from stillstack.errors import InputError, MissingExtraError, UnreadableFrameError
from stillstack.sources import folder as folder_module
from stillstack.sources import image_of, open_source, open_stack, stack_of

Frames = NDArray[Any]
SHAPE = (6, 16, 24)


@pytest.fixture
def frames() -> Frames:
    return np.random.default_rng(5).integers(0, 60_000, SHAPE).astype("uint16")


@pytest.fixture
def folder(tmp_path: Path, frames: Frames) -> Path:
    """Six single-frame TIFF files, scan0.tif to scan5.tif."""
    for number, frame in enumerate(frames):
        tifffile.imwrite(tmp_path / f"scan{number}.tif", frame)
    return tmp_path


def refused(path: Any, match: str, **options: Any) -> InputError:
    """The InputError that opening gives: with a cure, and with a cause that is not shown."""
    with pytest.raises(InputError, match=match) as caught:
        open_source(path, **options)
    assert caught.value.cure
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def cut(path: Path, keep: float) -> Path:
    """Leave the first part of a file only."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def readable(path: Any, frames: Frames) -> list[int]:
    """Numbers of the frames that can be read; what is read has to be right, the rest is named."""
    source = open_source(path)
    good, named = [], dict[int, str]()
    for number in range(source.shape[0]):
        try:
            frame = source.read(number, number + 1)[0]
        except UnreadableFrameError as error:
            named[number] = error.what
            continue
        np.testing.assert_array_equal(frame, frames[number])
        good.append(number)
    for number, what in named.items():
        assert re.match(rf"Frame {number},? ", what)
    return good


# ---- nothing there -----------------------------------------------------------------------------


def test_a_missing_file_is_named_with_what_is_like_it(folder: Path) -> None:
    error = refused(folder / "scam1.tif", "no file or folder")
    assert "Did you mean" in error.cure
    assert "scan1.tif" in error.cure
    error = refused(folder / "deep" / "down" / "x.tif", "no file or folder")
    assert str(folder) in error.cure


def test_a_pattern_without_files_is_refused(folder: Path) -> None:
    refused(folder / "run*.tif", r"No file matches .*run\*\.tif")
    refused(folder / "*" / "scan*.tif", "No file matches")


def test_an_empty_folder_and_one_without_images_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "it is empty")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.tif").write_text("hello")
    refused(tmp_path, r"no image.*\.txt")


def test_a_zarr_folder_without_metadata_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.zarr").mkdir()
    refused(tmp_path / "run.zarr", "cannot be opened as a Zarr store|no file")


def test_an_unknown_kind_of_file_is_refused_with_a_list(tmp_path: Path) -> None:
    (tmp_path / "frames.dm9").write_bytes(b"something else" * 10)
    error = refused(tmp_path / "frames.dm9", "cannot be read")
    for kind in ("Zarr", "TIFF", ".npy", "HDF5", "folder"):
        assert kind in error.cure


def test_a_stack_without_pixels_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((0, 8, 8), "u2"))
    refused(tmp_path / "a.npy", "no pixels")
    with pytest.raises(InputError, match="no pixels"):
        open_stack(xr.DataArray(np.zeros((0, 8, 8), "u2"), dims=("frame", "y", "x")))


@pytest.mark.parametrize("name", ["a.tif", "a.npy", "a.h5", "a.png"])
def test_rubbish_under_a_good_name_is_refused(tmp_path: Path, name: str) -> None:
    for content in (b"", b"II", b"this is no image of any kind, whatever its name says"):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "cannot be opened|can be read")
        with pytest.raises(InputError):
            image_of(tmp_path / name)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of a user who may do nothing, and that user's rights for the test."""
    image_warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)


def image_warm_up() -> None:
    """Import what is imported late, while there are rights to."""
    with tempfile.TemporaryDirectory() as name:
        with h5py.File(Path(name) / "a.h5", "w") as file:
            file["a"] = np.zeros((2, 4, 4))
        open_source(Path(name) / "a.h5")
        tifffile.imwrite(Path(name) / "a.tif", np.zeros((4, 4)))
        open_source(Path(name) / "a.tif").read(0, 1)


def test_what_may_not_be_read_is_refused(nobody: Path) -> None:
    tifffile.imwrite(nobody / "a.tif", np.zeros((8, 8), "u2"))
    (nobody / "a.tif").chmod(0)
    refused(nobody, r"a\.tif may not be read")
    refused(nobody / "a.tif", "may not be read")
    (nobody / "inner").mkdir(mode=0)
    refused(nobody / "inner", "may not be read")
    with pytest.raises(InputError, match="may not be read"):
        image_of(nobody / "a.tif")
    (nobody / "inner").chmod(0o700)


def test_a_file_that_may_not_be_read_any_more_is_an_unreadable_frame(nobody: Path) -> None:
    for number in range(3):
        tifffile.imwrite(nobody / f"{number}.tif", np.zeros((8, 8), "u2"))
    source = open_source(nobody)
    (nobody / "1.tif").chmod(0)
    with pytest.raises(UnreadableFrameError, match=r"Frame 1, .*1\.tif.*Permission"):
        source.read(0, 3)
    assert source.read(2, 3).shape == (1, 8, 8)


# ---- not what a stack is made of ---------------------------------------------------------------


def test_frames_of_unequal_shape_are_refused_with_both(folder: Path) -> None:
    tifffile.imwrite(folder / "scan3.tif", np.zeros((16, 25), "u2"))
    error = refused(folder, "not alike")
    for word in ("scan0.tif", "scan3.tif", "(16, 24)", "(16, 25)"):
        assert word in error.what


def test_frames_of_unequal_dtype_are_refused(folder: Path) -> None:
    tifffile.imwrite(folder / "scan5.tif", np.zeros((16, 24), "f4"))
    refused(folder, r"uint16.*scan5\.tif.*float32")


def test_an_unequal_frame_found_later_is_unreadable(
    folder: Path, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "checked_numbers", lambda n_files: [0, n_files - 1])
    tifffile.imwrite(folder / "scan3.tif", np.zeros((16, 25), "u2"))
    with pytest.raises(
        UnreadableFrameError, match=r"Frame 3, .*scan3\.tif.*\(16, 25\).*\(16, 24\)"
    ):
        open_source(folder).read(2, 5)
    assert readable(folder, frames) == [0, 1, 2, 4, 5]


def test_pages_of_unequal_shape_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.zeros((8, 8), "u2"))
        writer.write(np.zeros((8, 9), "u2"))
    refused(tmp_path / "a.tif", r"page 0 .*\(8, 8\).*page 1 .*\(8, 9\)")


def test_colour_images_are_refused(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype("u1")
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb")
    tifffile.imwrite(
        tmp_path / "planes.tif", np.moveaxis(colour, -1, 0), photometric="rgb", planarconfig=2
    )
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([colour] * 4), photometric="rgb")
    Image.fromarray(colour).save(tmp_path / "a.png")
    Image.fromarray(colour).convert("P").save(tmp_path / "palette.png")
    for name in ("a.tif", "planes.tif", "stack.tif", "a.png", "palette.png"):
        refused(tmp_path / name, "colour")
        with pytest.raises(InputError, match="colour"):
            image_of(tmp_path / name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.tif").rename(tmp_path / "folder" / "a.tif")
    refused(tmp_path / "folder", r"a\.tif is a colour image")


def test_a_palette_of_greys_is_no_colour(tmp_path: Path) -> None:
    counts = np.arange(64, dtype="u1").reshape(8, 8)
    ramp = np.arange(256, dtype="u2")[::-1] * 257
    for name, blue, works in [("grey.tif", ramp, True), ("red.tif", ramp * 0, False)]:
        colormap = np.stack([ramp, ramp, blue])
        tifffile.imwrite(tmp_path / name, counts, photometric="palette", colormap=colormap)
        if works:
            np.testing.assert_array_equal(open_source(tmp_path / name).read(0, 1)[0], counts)
        else:
            refused(tmp_path / name, "palette of colours")


@pytest.mark.parametrize("dtype", ["complex64", "bool", "U3"])
def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8), dtype))
    assert np.dtype(dtype).name in refused(tmp_path / "a.npy", "pixels of type").what
    with pytest.raises(InputError, match="pixels of type"):
        open_stack(xr.DataArray(np.zeros((3, 8, 8), dtype), dims=("frame", "y", "x")))


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    refused(tmp_path / "a.npy", "shape|pixels")
    with pytest.raises(InputError):
        image_of(tmp_path / "a.npy")


def test_a_file_of_several_frames_in_a_folder_is_refused(folder: Path) -> None:
    tifffile.imwrite(folder / "scan4.tif", np.zeros((5, 16, 24), "u2"))
    refused(folder, r"scan4\.tif holds more or less than one frame")


def test_a_pattern_that_matches_stacks_is_refused(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"run{number}.h5").write_bytes(b"")
    refused(tmp_path / "run*.h5", r"run0\.h5, which is no single image")


@pytest.mark.parametrize("shape", [(5,), (2, 2, 3, 8, 8)])
def test_arrays_of_other_dimensions_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = np.zeros(shape, "u2")
    np.save(tmp_path / "a.npy", data)
    zarr.create_array(tmp_path / "a.zarr", data=data)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = data
    for path in ("a.npy", "a.zarr", "a.h5::a"):
        refused(tmp_path / path, "the shape|an array of shape|of shape")
    refused(tmp_path / "a.h5", "no dataset of three or four dimensions")
    with pytest.raises(InputError, match="dimensions"):
        open_stack(xr.DataArray(data))


def test_an_array_in_the_wrong_order_of_named_dimensions_is_refused(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "a.zarr", data=np.zeros((8, 8, 5), "u2"), dimension_names=["y", "x", "frame"]
    )
    refused(tmp_path / "a.zarr", "order")


def test_packed_numbers_are_refused(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "a.zarr", data=np.zeros((5, 8, 8), "u2"), attributes={"scale_factor": 0.5}
    )
    refused(tmp_path / "a.zarr", "packed")


def test_a_compression_that_cannot_be_undone_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 8, 8), "u2"), compression="zlib")
    (tmp_path / "folder").mkdir()
    tifffile.imwrite(tmp_path / "folder" / "a.tif", np.zeros((8, 8), "u2"), compression="zlib")
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {1: None})
    for path in (tmp_path / "a.tif", tmp_path / "folder"):
        assert "imagecodecs" in refused(path, "compressed with ADOBE_DEFLATE").cure


def test_a_filter_of_hdf5_that_is_not_there_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=np.zeros((3, 8, 8), "u2"), compression="gzip")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda _: False)
    assert "hdf5plugin" in refused(tmp_path / "a.h5", "compressed with deflate").cure


def test_hdf5_without_h5py_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"stillstack\[hdf5\]"):
        open_source(tmp_path / "a.h5")


# ---- which one is meant ------------------------------------------------------------------------


def test_several_stacks_in_one_file_are_listed(tmp_path: Path, frames: Frames) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("pumped", "unpumped"):
            group.create_array(name, data=frames)
            file[f"entry/{name}"] = frames
    for path in ("a.zarr", "a.h5"):
        error = refused(tmp_path / path, "2 stacks.*pumped.*unpumped")
        assert "variable" in error.cure
    assert open_source(tmp_path / "a.zarr", variable="pumped").shape == SHAPE
    assert open_source(tmp_path / "a.h5", variable="entry/pumped").shape == SHAPE
    assert open_source(f"{tmp_path / 'a.zarr'}::unpumped").shape == SHAPE


def test_a_variable_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, frames: Frames
) -> None:
    zarr.create_group(tmp_path / "a.zarr").create_array("inner/frames", data=frames)
    zarr.create_array(tmp_path / "b.zarr", data=frames)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/frames"] = frames
    for path in ("a.zarr", "a.h5"):
        assert "frames" in refused(tmp_path / path, "has no", variable="frame").cure
        assert "frames" in refused(f"{tmp_path / path}::entry", "has no").cure
    refused(tmp_path / "b.zarr", "single Zarr array", variable="frames")
    refused(f"{tmp_path / 'a.h5'}::entry/frames", "another", variable="x")
    assert open_source(tmp_path / "a.zarr").shape == SHAPE


def test_options_that_mean_nothing_are_refused(folder: Path, frames: Frames) -> None:
    np.save(folder / "a.npy", frames)
    refused(folder, "no variables", variable="x")
    refused(folder / "scan*.tif", "no variables", variable="x")
    refused(folder / "a.npy", "no variables", variable="x")
    refused(folder / "a.npy", "holds a whole stack", pattern="scan{scan:d}.tif")
    with pytest.raises(InputError, match="no variable"):
        open_stack(xr.DataArray(frames), variable="x")
    for source in (folder, xr.DataArray(frames)):
        with pytest.raises(InputError, match="chunk_frames is 0"):
            open_stack(source, chunk_frames=0)


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("scan{scan:f}.tif", r"'scan0\.tif' does not match.*\{n:g\} takes both"),
        ("SCAN{scan:d}.tif", "does not match"),
        ("scan{scan:d}", "does not match"),
        ("scan{}.tif", "no named field"),
        ("scan{scan:d.tif", "no named field"),
        ("scan{scan:qqq}.tif", "cannot be understood|does not match"),
        ("scan{frame:d}.tif", "'frame', a name that is taken"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(folder: Path, pattern: str, match: str) -> None:
    refused(folder, match, pattern=pattern)


def test_ranges_outside_the_source_are_refused(folder: Path) -> None:
    source = open_source(folder)
    for start, stop in [(-1, 2), (3, 3), (4, 2), (0, 7)]:
        with pytest.raises(InputError, match="frames 0 to 6"):
            source.read(start, stop)
        with pytest.raises(InputError, match="frames 0 to 6"):
            stack_of(source, start, stop)


# ---- damage in the middle ----------------------------------------------------------------------


def test_a_file_cut_off_in_a_folder_costs_its_own_frame(folder: Path, frames: Frames) -> None:
    cut(folder / "scan2.tif", 0.6)
    (folder / "scan4.tif").write_bytes(b"")
    source = open_source(folder)
    with pytest.raises(UnreadableFrameError, match=r"Frame 2, .*scan2\.tif.*cut off") as caught:
        source.read(0, 6)
    assert caught.value.__cause__ is not None
    assert readable(folder, frames) == [0, 1, 3, 5]
    assert any("scan4.tif" in note for note in source.notes)


def test_the_first_file_may_be_the_damaged_one(folder: Path, frames: Frames) -> None:
    (folder / "scan0.tif").write_bytes(b"rubbish")
    assert readable(folder, frames) == [1, 2, 3, 4, 5]


def test_a_file_that_vanishes_costs_its_own_frame(folder: Path) -> None:
    source = open_source(folder)
    (folder / "scan1.tif").unlink()
    with pytest.raises(UnreadableFrameError, match=r"Frame 1, .*No such file"):
        stack_of(source, 0, 3).compute(scheduler="sync")
    assert source.read(2, 3).shape == (1, 16, 24)


def test_a_folder_of_nothing_but_damage_is_refused(folder: Path) -> None:
    for path in folder.glob("*.tif"):
        path.write_bytes(b"rubbish")
    refused(folder, "None of the files")


def _appended(path: Path, frames: Frames) -> None:
    with tifffile.TiffWriter(path) as writer:
        for frame in frames:
            writer.write(frame, contiguous=False, compression="zlib")


TRUNCATED: dict[str, tuple[str, Callable[[Path, Frames], Any], int]] = {
    "contiguous": ("a.tif", tifffile.imwrite, 6),
    "imagej": ("a.tif", lambda path, frames: tifffile.imwrite(path, frames, imagej=True), 6),
    "zlib": ("a.tif", lambda path, frames: tifffile.imwrite(path, frames, compression="zlib"), 6),
    "npy": ("a.npy", np.save, 6),
    # Nothing in the file says how many pages there were: the four found, and one that is lost.
    "appended": ("a.tif", _appended, 5),
}


@pytest.mark.parametrize("kind", TRUNCATED)
def test_a_stack_cut_off_in_the_middle_keeps_what_is_there(
    kind: str, tmp_path: Path, frames: Frames
) -> None:
    name, write, n_frames = TRUNCATED[kind]
    write(tmp_path / name, frames)
    cut(tmp_path / name, 0.55)
    source = open_source(tmp_path / name)
    assert source.shape == (n_frames, *SHAPE[1:])
    assert readable(tmp_path / name, frames) == [0, 1, 2]
    if name.endswith(".tif"):
        assert "cut off" in source.notes[0]


def test_a_damaged_page_costs_its_own_frame(tmp_path: Path, frames: Frames) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frames, compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[3].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 40)
    assert readable(path, frames) == [0, 1, 2, 4, 5]


def test_a_strip_without_data_is_not_read_as_zeros(tmp_path: Path, frames: Frames) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frames, compression="zlib", rowsperstrip=8, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[2]
        assert isinstance(page, tifffile.TiffPage)
        tag = page.tags[279]
        where, order = tag.valueoffset, tiff.byteorder
        width = 2 if tag.dtype == 3 else 4
    with path.open("r+b") as file:
        file.seek(where)
        file.write(np.array([0], f"{order}u{width}").tobytes())
    assert readable(path, frames) == [0, 1, 3, 4, 5]


def test_a_chain_of_pages_that_bites_its_tail_ends(tmp_path: Path, frames: Frames) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, frames, metadata=None, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        last_page = tiff.pages[-1]
        assert isinstance(last_page, tifffile.TiffPage)
        first, last, n_tags = tiff.pages[0].offset, last_page.offset, len(last_page.tags)
    with path.open("r+b") as file:
        file.seek(last + 2 + 12 * n_tags)
        file.write(np.array([first], "<u4").tobytes())
    assert readable(path, frames) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("damage", ["cut", "rubbish"])
def test_a_damaged_zarr_chunk_costs_its_frames(
    version: int, damage: str, tmp_path: Path, frames: Frames
) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(
        path,
        shape=SHAPE,
        dtype="u2",
        chunks=(2, 16, 24),
        zarr_format=version,  # type: ignore[arg-type]
    )
    array[:] = frames
    chunk = path / ("1.0.0" if version == 2 else "c/1/0/0")
    if damage == "cut":
        cut(chunk, 0.5)
    else:
        chunk.write_bytes(b"\x00" * 30)
    assert readable(path, frames) == [0, 1, 4, 5]
    with pytest.raises(UnreadableFrameError, match="Frame 2 of"):
        open_source(path).read(0, 6)


def test_a_zarr_store_whose_metadata_are_damaged_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((3, 8, 8), "u2"))
    metadata = tmp_path / "a.zarr" / "zarr.json"
    whole = metadata.read_text()
    metadata.write_text(whole[:60])
    refused(tmp_path / "a.zarr", "cannot be opened as a Zarr store")
    changed = json.loads(whole)
    changed["codecs"] = [{"name": "unheard-of", "configuration": {}}]
    metadata.write_text(json.dumps(changed))
    refused(tmp_path / "a.zarr", "cannot be opened as a Zarr store|unheard-of")


def test_a_damaged_hdf5_chunk_costs_its_frames(tmp_path: Path, frames: Frames) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("a", data=frames, chunks=(2, 16, 24), compression="gzip")
        chunk = data.id.get_chunk_info(1)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * 50)
    assert readable(path, frames) == [0, 1, 4, 5]


def test_an_hdf5_file_cut_off_is_refused(tmp_path: Path, frames: Frames) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = frames
    cut(tmp_path / "a.h5", 0.5)
    refused(tmp_path / "a.h5", "cannot be opened as an HDF5 file.*truncated")


def test_an_hdf5_file_cut_off_later_gives_unreadable_frames(tmp_path: Path, frames: Frames) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = frames
    source = open_source(tmp_path / "a.h5")
    cut(tmp_path / "a.h5", 0.5)
    with pytest.raises(UnreadableFrameError, match="Frame 0 of"):
        source.read(0, 6)


def test_a_frame_that_is_not_as_announced_is_unreadable(tmp_path: Path, frames: Frames) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=frames)
    stack = open_stack(tmp_path / "a.zarr")
    zarr.create_array(tmp_path / "a.zarr", data=frames[:, ::2].astype("f4"), overwrite=True)
    with pytest.raises(UnreadableFrameError, match="announced"):
        stack.compute(scheduler="sync")


def test_errors_reach_the_client_from_a_worker(folder: Path, engine: str) -> None:
    cut(folder / "scan2.tif", 0.6)
    stack = open_stack(folder, chunk_frames=1)
    with pytest.raises(UnreadableFrameError, match=r"Frame 2, .*scan2\.tif"):
        stack.compute()
    assert stack[3].compute().shape == (16, 24)


def test_nothing_is_printed_about_damage_beside_the_error(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite(folder / "stack.tif", np.zeros((5, 16, 24), "u2"), compression="zlib")
    cut(folder / "stack.tif", 0.3)
    logging.getLogger("tifffile").propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            source = open_source(folder / "stack.tif")
            with pytest.raises(UnreadableFrameError):
                source.read(3, 4)
    finally:
        logging.getLogger("tifffile").propagate = True
    assert capfd.readouterr().err == ""


# ---- one image where one is wanted -------------------------------------------------------------


def test_more_than_one_image_is_refused_where_one_is_wanted(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 8, 8), "u2"))
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8), "u2"))
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((3, 8, 8), "u2"))
    for name in ("a.tif", "a.npy", "a.zarr"):
        with pytest.raises(InputError, match="one image of dimensions y, x is wanted"):
            image_of(tmp_path / name)
    with pytest.raises(InputError, match="no file"):
        image_of(tmp_path / "missing.png")


def test_a_transparent_picture_is_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (5, 5, 5, 100)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="transparent"):
        image_of(tmp_path / "a.png")
