"""Formats of electron microscopes: what each file holds and knows, read by its place."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from microscope_files import (
    HDR,
    MIB_BEGAN,
    MIB_STEP_NS,
    Frames,
    write_big_endian_mrc,
    write_blo,
    write_dm,
    write_empad,
    write_mib,
    write_mrc,
    write_rpl,
    write_ser,
    write_tvips,
)
from stillstack.cli import app
from stillstack.errors import InputError, UnreadableFrameError
from stillstack.ingest import StackOptions, ingest
from stillstack.simulation import SimulatedStack
from stillstack.sources import image_of, open_source, open_stack, stack_of
from stillstack.sources.contents import contents
from stillstack.sources.records import RecordReader, Records

N_FRAMES, HEIGHT, WIDTH = 12, 24, 32
SCAN = (3, 4)


def counts(dtype: str, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Frames:
    """Frames of which no two pixels are likely to be the same, and that have no symmetry."""
    top = {"uint8": 250, "int8": 120}.get(dtype, 60_000)
    return np.random.default_rng(5).integers(0, top, (N_FRAMES, *shape)).astype(dtype)


UINT16, UINT8, FLOAT = counts("uint16"), counts("uint8", (24, 24)), counts("float32", (128, 128))
SIGNED = counts("int8") - np.int8(60)

FORMATS: dict[str, tuple[Callable[[Path], Path], Frames]] = {
    "mib": (lambda d: write_mib(d / "a.mib", UINT16), UINT16),
    "mib of 32 bit": (lambda d: write_mib(d / "a.mib", UINT16.astype("u4")), UINT16.astype("u4")),
    "mib of four chips": (lambda d: write_mib(d / "a.mib", UINT16, chips=4), UINT16),
    "mrc": (lambda d: write_mrc(d / "a.mrc", UINT16), UINT16),
    "mrc of signed bytes": (lambda d: write_mrc(d / "a.mrc", SIGNED), SIGNED),
    "mrc of float": (lambda d: write_mrc(d / "a.mrc", FLOAT), FLOAT),
    "big-endian mrc": (lambda d: write_big_endian_mrc(d / "a.mrcs", UINT16), UINT16),
    "empad": (lambda d: write_empad(d / "a.xml", FLOAT), FLOAT),
    "empad scan": (lambda d: write_empad(d / "a.xml", FLOAT, SCAN), FLOAT),
    "blo": (lambda d: write_blo(d / "a.blo", UINT8, SCAN), UINT8),
    "rpl": (lambda d: write_rpl(d / "a.rpl", UINT16), UINT16),
    "dm4": (lambda d: write_dm(d / "a.dm4", [UINT16]), UINT16),
    "dm3": (lambda d: write_dm(d / "a.dm3", [UINT16], version=3), UINT16),
    "dm4 scan": (lambda d: write_dm(d / "a.dm4", [UINT16.reshape(*SCAN, HEIGHT, WIDTH)]), UINT16),
    "tvips": (lambda d: write_tvips(d / "a", [UINT16[:7], UINT16[7:]]), UINT16),
    "ser": (lambda d: write_ser(d / "a.ser", UINT16), UINT16),
    "ser with gaps": (
        lambda d: write_ser(d / "a.ser", UINT16, gaps=[0, 8, 0, 0, 0, 5, 0, 0, 0, 0, 3, 0]),
        UINT16,
    ),
}


@pytest.fixture(params=FORMATS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Frames]:
    """A file of one format after the other, and the frames in it."""
    write, frames = FORMATS[request.param]
    return write(tmp_path), frames


# ---- what they have in common ----------------------------------------------------------------


def test_frames_are_those_that_were_written_in_any_range(written: tuple[Path, Frames]) -> None:
    path, frames = written
    source = open_source(path)
    assert (source.shape, source.dtype) == (frames.shape, frames.dtype)
    for start, stop in [(0, N_FRAMES), (0, 1), (5, 9), (N_FRAMES - 1, N_FRAMES)]:
        part = source.read(start, stop)
        np.testing.assert_array_equal(part, frames[start:stop])
        assert part.dtype.isnative
        np.testing.assert_array_equal(
            source.narrow(start, stop).read(start, stop), frames[start:stop]
        )
    np.testing.assert_array_equal(
        open_stack(path, chunk_frames=5).compute(scheduler="sync"), frames
    )


def test_what_a_task_carries_is_small_and_needs_no_library(
    written: tuple[Path, Frames], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, frames = written
    source = open_source(path)
    one, other = (stack_of(source, 2, 8, chunk_frames=2) for _ in range(2))
    assert one.data.name == other.data.name
    packed = pickle.dumps(one.data)
    assert len(packed) < 6000
    for name in [name for name in sys.modules if name.split(".")[0] in {"rsciio", "ncempy"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rsciio", None)
    monkeypatch.setitem(sys.modules, "ncempy", None)
    np.testing.assert_array_equal(pickle.loads(packed).compute(scheduler="sync"), frames[2:8])


def test_a_moved_file_is_the_same_source_and_a_changed_one_another(
    written: tuple[Path, Frames], tmp_path: Path
) -> None:
    path, _ = written
    before = open_source(path).fingerprint()
    there = tmp_path.with_name(f"{tmp_path.name}_moved")
    shutil.copytree(tmp_path, there, copy_function=shutil.copy2)
    assert open_source(there / path.name).fingerprint() == before
    pixels = path.with_suffix(".raw") if path.suffix in {".rpl", ".xml"} else path
    source = open_source(path)
    with pixels.open("ab") as file:
        file.write(b"more")
    assert source.fingerprint() != before


@pytest.mark.parametrize("kind", FORMATS)
def test_a_frame_that_is_cut_off_later_is_unreadable_and_the_others_are_not(
    kind: str, tmp_path: Path
) -> None:
    write, frames = FORMATS[kind]
    path = write(tmp_path)
    source = open_source(path)
    last = max(tmp_path.iterdir(), key=lambda each: (each.suffix == ".raw", each.name))
    size = last.stat().st_size
    # the table of a series and tags of DigitalMicrograph are at the end
    tail = {".ser": 5000, ".dm3": 3000, ".dm4": 3000}.get(path.suffix, 100)
    with last.open("r+b") as file:
        file.truncate(size - tail - (512 * 2 + 100 if path.suffix == ".xml" else 0))
    np.testing.assert_array_equal(source.read(0, 8), frames[:8])
    with pytest.raises(UnreadableFrameError, match=r"Frame \d+ of .* cut off"):
        source.read(8, N_FRAMES)


def test_computing_on_every_scheduler(engine: str, written: tuple[Path, Frames]) -> None:
    path, frames = written
    stack = open_stack(path, chunk_frames=4)
    np.testing.assert_array_equal(stack.compute(), frames)


def most_memory() -> int:
    """Largest resident size of this process so far, bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def huge_mrc(path: Path, shape: tuple[int, int, int]) -> tuple[Path, int]:
    """Header of a file of uint16 that is still to be filled, and where its first frame begins."""
    n_frames, height, width = shape
    header = bytearray(1024)
    struct.pack_into("<10i", header, 0, width, height, n_frames, 6, 0, 0, 0, width, height, 1)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    header[208:216] = b"MAP \x44\x44\0\0"
    path.write_bytes(header)
    return path, len(header)


def huge_rpl(path: Path, shape: tuple[int, int, int]) -> tuple[Path, int]:
    text = write_rpl(path.with_suffix(".rpl"), np.zeros((1, *shape[1:]), "uint16"), order="<")
    text.write_text(text.read_text().replace("depth\t1\n", f"depth\t{shape[0]}\n"))
    return text, 0


@pytest.mark.parametrize("begin", [huge_mrc, huge_rpl])
def test_a_file_far_larger_than_memory_opens_and_gives_a_block(begin: Any, tmp_path: Path) -> None:
    shape = (20_000, 2048, 2048)  # 156 GiB, of which next to nothing is on the disk
    path, offset = begin(tmp_path / "huge.mrc", shape)
    place = 12_345
    frame = np.full(shape[1:], 7, "<u2")
    with path.with_suffix(".raw" if path.suffix == ".rpl" else path.suffix).open("r+b") as file:
        file.seek(offset + place * frame.nbytes)
        file.write(frame.tobytes())
        file.truncate(offset + shape[0] * frame.nbytes)
    open_source(write_mrc(tmp_path / "small.mrc", UINT16))  # whatever is imported late
    before = most_memory()
    stack = open_stack(path)
    assert stack.shape == shape
    source = open_source(path)
    assert len(pickle.dumps(stack_of(source, place, place + 2).data)) < 6000
    assert (stack[place, :4, :4].compute(scheduler="sync") == 7).all()
    block = source.read(place, place + 2)
    assert (block[0] == 7).all()
    assert not block[1].any()
    # beside the Dask chunk of 32 MiB and a copy of it, nothing
    assert most_memory() - before < 150 * 2**20


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes by /proc")
@pytest.mark.parametrize("kind", ["mib", "dm4", "tvips", "ser"])
def test_a_file_is_opened_by_its_headers_alone(kind: str, tmp_path: Path) -> None:
    large = np.zeros((200, 256, 256), "uint16")
    path = {
        "mib": lambda: write_mib(tmp_path / "a.mib", large),
        "dm4": lambda: write_dm(tmp_path / "a.dm4", [large]),
        "tvips": lambda: write_tvips(tmp_path / "a", [large]),
        "ser": lambda: write_ser(tmp_path / "a.ser", large),
    }[kind]()
    open_source(path)
    before = bytes_read()
    source = open_source(path)
    assert bytes_read() - before < 0.05 * large.nbytes
    source.read(10, 20)
    assert bytes_read() - before < 0.2 * large.nbytes


def bytes_read() -> int:
    """Bytes that this process has read from anywhere."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_rows_and_frames_may_lie_in_any_way(tmp_path: Path) -> None:
    """Pixels of a frame between those of others, as a vector file has them."""
    path = tmp_path / "interleaved.raw"
    UINT16.transpose(1, 2, 0).copy().tofile(path)
    step = UINT16.itemsize
    reader = RecordReader(
        str(tmp_path),
        (Records(path.name, 0, N_FRAMES),),
        (step, WIDTH * N_FRAMES * step, N_FRAMES * step),
        (HEIGHT, WIDTH),
        "<u2",
    )
    assert reader.interleaved
    np.testing.assert_array_equal(reader.read(3, 7), UINT16[3:7])
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UnreadableFrameError, match="cut off"):
        reader.read(0, N_FRAMES)


# ---- what they know -----------------------------------------------------------------------------


def test_a_mib_file_tells_times_exposures_and_triggers(tmp_path: Path) -> None:
    exposures = [1_000_000 + 1000 * number for number in range(N_FRAMES)]
    hdr = HDR.format(n_frames=N_FRAMES, per_trigger=SCAN[1])
    source = open_source(write_mib(tmp_path / "a.mib", UINT16, exposures_ns=exposures, hdr=hdr))
    since = (source.coords["time"] - MIB_BEGAN).astype("timedelta64[ns]").astype(int)
    np.testing.assert_array_equal(since, MIB_STEP_NS * np.arange(N_FRAMES))
    np.testing.assert_allclose(source.coords["exposure_s"], np.array(exposures) * 1e-9)
    np.testing.assert_array_equal(source.coords["scan_y"], np.arange(N_FRAMES) // SCAN[1])
    np.testing.assert_array_equal(source.coords["scan_x"], np.arange(N_FRAMES) % SCAN[1])
    assert source.attrs["Bias Voltage (V)"] == "120"
    assert source.attrs["Chip ID"] == "W529_F5,-,-,-"
    assert not source.notes


def test_a_mib_file_without_hdr_is_a_stack_with_one_exposure(tmp_path: Path) -> None:
    source = open_source(write_mib(tmp_path / "a.mib", UINT16))
    assert source.attrs["exposure_s"] == pytest.approx(1e-3)
    assert set(source.coords) == {"time"}


def test_a_mib_file_that_ends_early_gives_its_whole_frames_and_says_so(tmp_path: Path) -> None:
    hdr = HDR.format(n_frames=N_FRAMES, per_trigger=1)
    path = write_mib(tmp_path / "a.mib", UINT16, hdr=hdr)
    path.write_bytes(path.read_bytes()[:-100])
    source = open_source(path)
    assert source.shape[0] == N_FRAMES - 1
    np.testing.assert_array_equal(source.read(0, N_FRAMES - 1), UINT16[:-1])
    assert "11 whole frames" in source.notes[0]
    assert "12 frames were to be taken, and there are 11" in source.notes[1]
    assert contents(path).notes == source.notes
    copying = CliRunner().invoke(app, ["ingest", str(path), str(tmp_path / "a.zarr")])
    assert "Warning: " in copying.output
    assert "11 whole frames" in " ".join(copying.output.split())


def test_a_damaged_header_costs_the_time_of_its_frame(tmp_path: Path) -> None:
    path = write_mib(tmp_path / "a.mib", UINT16)
    content = bytearray(path.read_bytes())
    step = len(content) // N_FRAMES
    content[5 * step : 5 * step + 384] = b"\0" * 384
    path.write_bytes(content)
    source = open_source(path)
    assert np.flatnonzero(np.isnat(source.coords["time"])) == [5]
    assert source.attrs["exposure_s"] == pytest.approx(1e-3)
    assert "headers of 1 frames" in source.notes[0]
    np.testing.assert_array_equal(source.read(0, N_FRAMES), UINT16)


def test_a_dm4_file_tells_times_pixels_and_voltage(tmp_path: Path) -> None:
    path = write_dm(
        tmp_path / "a.dm4",
        [UINT16],
        scales=[(40.0, "ms"), (0.02, "1/nm"), (0.02, "1/nm")],
        tags={
            "Microscope Info": {"Voltage": np.float64(80e3)},
            "Acquisition": {
                "Device": {"Name": "OneView"},
                "Parameters": {"High Level": {"Exposure (s)": np.float64(0.04)}},
            },
        },
    )
    source = open_source(path)
    np.testing.assert_allclose(source.coords["time"], 0.04 * np.arange(N_FRAMES))
    assert source.attrs["voltage_kv"] == 80
    assert (source.attrs["exposure_s"], source.attrs["detector"]) == (0.04, "OneView")
    assert source.attrs["pixel_size"] == pytest.approx(0.02)
    assert source.attrs["pixel_size_units"] == "1/nm"
    assert source.attrs["title"] == "drifting"


def test_the_bytes_of_a_dm4_file_are_those_of_another_reader(tmp_path: Path) -> None:
    dm = pytest.importorskip("ncempy.io.dm")
    path = write_dm(
        tmp_path / "a.dm4", [UINT16], scales=[(0.5, "s"), (0.02, "1/nm"), (0.02, "1/nm")]
    )
    with dm.fileDM(path) as file:
        read = file.getDataset(0)
    np.testing.assert_array_equal(read["data"], UINT16)
    assert read["pixelSize"][1:] == pytest.approx([0.02, 0.02])


def test_a_dm4_file_of_two_stacks_is_asked_which(tmp_path: Path) -> None:
    path = write_dm(tmp_path / "a.dm4", [UINT16, UINT16[:5]])
    with pytest.raises(InputError, match=r"2 stacks: 0: drifting \(12, 24, 32\)") as caught:
        open_source(path)
    assert "input.variable" in caught.value.cure
    np.testing.assert_array_equal(open_source(path, variable="1").read(0, 5), UINT16[:5])
    with pytest.raises(InputError, match="no frames under the number 'data'"):
        open_source(f"{path}::data")


def test_spectra_are_no_frames(tmp_path: Path) -> None:
    tags = {"Meta Data": {"Format": "Spectrum image", "Signal": "EELS"}}
    with pytest.raises(InputError, match="no frames, only spectra"):
        open_source(write_dm(tmp_path / "a.dm4", [UINT16], tags=tags))


def test_spectra_of_a_ripple_file_are_no_frames(tmp_path: Path) -> None:
    path = write_rpl(tmp_path / "a.rpl", UINT16)
    path.write_text(path.read_text().replace("record-by\timage", "record-by\tvector"))
    with pytest.raises(InputError, match="no frames, only spectra"):
        open_source(path)


def test_a_single_image_is_a_reference_or_a_dark(tmp_path: Path) -> None:
    for path in (
        write_mrc(tmp_path / "a.mrc", UINT16[0]),
        write_dm(tmp_path / "a.dm3", [UINT16[0]], version=3),
        write_mib(tmp_path / "a.mib", UINT16[:1]),
    ):
        np.testing.assert_array_equal(image_of(path), UINT16[0])


def test_an_mrc_file_of_another_program_tells_its_pixels(tmp_path: Path) -> None:
    source = open_source(write_mrc(tmp_path / "a.mrc", UINT16))
    assert (source.attrs["pixel_size"], source.attrs["pixel_size_units"]) == (2.0, "nm")
    with mrcfile.mmap(source.path) as other:
        np.testing.assert_array_equal(source.read(2, 5), other.data[2:5])


def test_bytes_of_an_old_mrc_file_have_no_sign(tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "a.mrc", SIGNED)
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, 108, 0)  # written before the standard of 2014
    path.write_bytes(content)
    np.testing.assert_array_equal(open_source(path).read(0, 12), SIGNED.view("u1"))
    struct.pack_into("<ii", content, 152, 1146047817, 1)  # IMOD, signed
    path.write_bytes(content)
    np.testing.assert_array_equal(open_source(path).read(0, 12), SIGNED)


def test_a_blockfile_tells_its_scan_and_camera(tmp_path: Path) -> None:
    source = open_source(write_blo(tmp_path / "a.blo", UINT8, SCAN))
    assert source.attrs["scan_step"] == [5.0, 4.0]
    assert source.attrs["voltage_kv"] == 80
    assert source.attrs["notes"] == "chromium film"
    np.testing.assert_array_equal(source.coords["scan_x"], np.tile(np.arange(4), 3))


def test_an_empad_series_has_no_times_that_nobody_measured(tmp_path: Path) -> None:
    source = open_source(write_empad(tmp_path / "a.xml", FLOAT))
    assert source.coords == {}
    assert source.attrs["acquired"] == "2026-01-31T02:00:00"
    scan = open_source(write_empad(tmp_path / "b.xml", FLOAT, SCAN))
    assert set(scan.coords) == {"scan_y", "scan_x"}


def test_a_tvips_recording_over_two_files_tells_times(tmp_path: Path) -> None:
    source = open_source(write_tvips(tmp_path / "a", [UINT16[:7], UINT16[7:]]))
    steps = np.diff(source.coords["time"]).astype("timedelta64[ms]").astype(int)
    np.testing.assert_array_equal(steps, 40)
    assert str(source.coords["time"][0]) == "2026-01-31T02:00:00.000000000"
    assert (source.attrs["voltage_kv"], source.attrs["pixel_size"]) == (200, 31)
    with pytest.raises(InputError, match="first file of a recording"):
        open_source(tmp_path / "a_001.tvips")


def test_a_tvips_recording_of_another_program_is_read(tmp_path: Path) -> None:
    tvips = pytest.importorskip("rsciio.tvips")
    path = tmp_path / "b_000.tvips"
    axes = [
        {"name": name, "scale": 1.0, "offset": 0.0, "units": units, "size": size, "navigate": nav}
        for name, size, nav, units in (
            ("time", N_FRAMES, True, "s"), ("y", HEIGHT, False, "nm"), ("x", WIDTH, False, "nm")
        )
    ]  # fmt: skip
    signal = {
        "data": UINT16,
        "axes": axes,
        "metadata": {"General": {"date": "2026-01-31", "time": "02:00:00"}, "Signal": {}},
        "attributes": {"_lazy": False},
        "original_metadata": {},
    }
    tvips.file_writer(str(path), signal, show_progressbar=False)
    np.testing.assert_array_equal(open_source(path).read(0, N_FRAMES), UINT16)


def test_a_series_of_tia_tells_times_and_pixels(tmp_path: Path) -> None:
    source = open_source(write_ser(tmp_path / "a.ser", UINT16))
    steps = np.diff(source.coords["time"]).astype("timedelta64[s]").astype(int)
    np.testing.assert_array_equal(steps, 1)
    assert source.attrs["pixel_size"] == pytest.approx(2e-10)


def test_an_interrupted_ingest_goes_on_and_keeps_what_the_file_knows(tmp_path: Path) -> None:
    hdr = HDR.format(n_frames=N_FRAMES, per_trigger=SCAN[1])
    path = write_mib(tmp_path / "a.mib", UINT16, hdr=hdr)
    options = StackOptions(chunk_frames=1, durable=False)

    def stop(done: int, *_: int) -> None:
        if done > 4:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        ingest(open_source(path), tmp_path / "a.zarr", options, on_frames=stop)
    resumed = ingest(open_source(path), tmp_path / "a.zarr", options).resumed_frames
    assert 0 < resumed < N_FRAMES
    source, copy = open_source(path), open_source(tmp_path / "a.zarr")
    np.testing.assert_array_equal(copy.read(0, N_FRAMES), UINT16)
    assert set(copy.coords) == set(source.coords) == {"time", "scan_y", "scan_x"}
    for name, values in source.coords.items():
        np.testing.assert_array_equal(copy.coords[name], values)
    kept = {name: value for name, value in source.attrs.items() if name != "source_format"}
    assert {name: copy.attrs[name] for name in kept} == kept


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mib", ".mrc", ".blo", ".rpl", ".xml", ".dm3", ".dm4", ".ser"])
@pytest.mark.parametrize("content", [b"", b"\x01\x02nothing of the kind" * 100])
def test_rubbish_under_the_suffix_is_refused(
    suffix: str, content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be opened as") as caught:
        open_source(path)
    assert caught.value.cure
    assert capfd.readouterr() == ("", "")


def test_rubbish_called_tvips_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_000.tvips"
    for content in (b"", b"nothing of the kind" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be opened as a TVIPS recording"):
            open_source(path)


@pytest.mark.parametrize("kind", ["mrc", "empad", "blo", "rpl", "dm4"])
def test_a_file_that_is_shorter_than_it_says_is_refused(kind: str, tmp_path: Path) -> None:
    path = FORMATS[kind][0](tmp_path)
    pixels = path.with_suffix(".raw") if path.suffix in {".rpl", ".xml"} else path
    pixels.write_bytes(pixels.read_bytes()[:-6000])
    with pytest.raises(InputError, match="cannot be opened as"):
        open_source(path)


def test_a_format_without_its_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mrc, ser = write_mrc(tmp_path / "a.mrc", UINT16), write_ser(tmp_path / "a.ser", UINT16)
    for name in [name for name in sys.modules if name.split(".")[0] in {"rsciio", "ncempy"}]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("rsciio", "rsciio.mrc", "ncempy", "ncempy.io", "ncempy.io.ser"):
        monkeypatch.setitem(sys.modules, name, None)
    for path in (mrc, ser):
        with pytest.raises(InputError, match=r"stillstack\[rosetta\]"):
            open_source(path)


# ---- a whole run --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mib", "dm4"])
def test_a_run_on_worker_processes_gives_what_the_same_frames_give(
    kind: str, small_stack: SimulatedStack, small_config: Any, tmp_path: Path
) -> None:
    frames = small_stack.read(0, len(small_stack))
    path = {
        "mib": lambda: write_mib(tmp_path / "a.mib", frames),
        "dm4": lambda: write_dm(tmp_path / "a.dm4", [frames.reshape(6, 10, 128, 128)]),
    }[kind]()
    found = []
    for name, given in (("same", small_config["input"]["path"]), ("other", str(path))):
        settings = {
            **small_config,
            "input": {"path": given},
            "output": {"path": str(tmp_path / f"{name}.zarr"), "block_frames": 4},
            "cluster": {"kind": "local", "workers": 2},
        }
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(json.loads(json.dumps(settings))))
        assert CliRunner().invoke(app, ["run", str(config)]).exit_code == 0
        import stillstack

        with stillstack.open_run(str(tmp_path / f"{name}.zarr")) as run:
            found.append(run.load())
    same, other = found
    np.testing.assert_array_equal(same["shift"], other["shift"])
    np.testing.assert_array_equal(same["status"], other["status"])
    np.testing.assert_array_equal(same["aligned"], other["aligned"])
    assert set(other.coords) >= ({"time"} if kind == "mib" else {"scan_y", "scan_x"})
    if kind == "dm4":
        grid = stillstack.unstack_scan(other)
        assert grid["aligned"].dims == ("scan_y", "scan_x", "y", "x")
        np.testing.assert_array_equal(grid["aligned"][2, 3], same["aligned"][23])
