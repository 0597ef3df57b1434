"""A run seen from elsewhere: its state, its progress and its log, while it is being written."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbclient
import nbformat
import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from object_servers import Bucket
from stillstack.address import Address
from stillstack.cli import app
from stillstack.cluster import WorkerMemory, settings
from stillstack.errors import InputError, MissingExtraError, UnreadableFrameError
from stillstack.model import Status, empty_table
from stillstack.run import run
from stillstack.sources import open_source
from stillstack.storage import (
    BlockRecord,
    RunLock,
    RunStore,
    RunTemplate,
    StoredObject,
    digest_store,
    lock_run,
    process,
    remote_ledger,
)
from stillstack.storage.notes import ATTEMPTS_NOTE, SET_ASIDE_NOTE
from stillstack.storage.remote import RemoteObjects
from stillstack.watch import runlog
from stillstack.watch.notebook import NotebookProgress, notebook_progress
from stillstack.watch.progress import Pace, Progress
from stillstack.watch.runlog import run_log
from stillstack.watch.status import look_at
from stillstack.watch.teller import Teller

planning = importlib.import_module("stillstack.plan")  # stillstack.plan is the function

SHAPE = (8, 10)
N_FRAMES = 40
NOW = 2_000_000_000.0


def created(lock: RunLock, **config: Any) -> RunStore:
    """A run of 40 frames in blocks of 4 that nothing has been done of."""
    template = RunTemplate(
        n_frames=N_FRAMES,
        frame_shape=SHAPE,
        config_digest="c",
        source_fingerprint="s",
        reference=np.ones(SHAPE),
        reference_valid=np.ones(SHAPE, bool),
        valid=np.ones(SHAPE, bool),
        aligned_dtype="u2",
        block_frames=4,
        attrs={"config": {"input": {"path": "frames.npy"}, **config}},
    )
    return RunStore.create(lock, template)


def record(block: int, finished: float, seconds: float = 2.0) -> BlockRecord:
    rows = empty_table(4, Status(0))
    objects = (StoredObject(f"aligned/c/{block}/0/0", 17, "0"),)
    return BlockRecord(block, 4 * block, 4 * block + 4, rows, objects, seconds, "w:1", finished)


def stillstack(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | Address:
    """Where a run may be written."""
    if request.param == "folder":
        return tmp_path / "out.zarr"
    bucket: Bucket = request.getfixturevalue("bucket")
    return bucket.place("out.zarr")


# --------------------------------------------------------------------------- the state of a run


def test_a_run_that_is_being_written_says_how_far_it_is_and_how_fast(place: Path | Address) -> None:
    with lock_run(place) as lock:
        store = created(lock)
        store.write_note(ATTEMPTS_NOTE, [{"began": NOW - 99, "host": "h", "process": os.getpid()}])
        with store.ledger("align") as ledger:
            # one of an earlier attempt, and three in the 20 s of this one
            ledger.append(record(7, NOW - 5000))
            for block, finished in ((0, NOW - 18), (2, NOW - 10), (1, NOW - 4)):
                ledger.append(record(block, finished))
        seen = look_at(place, now=NOW)
    (stage,) = seen.stages
    assert (seen.state, seen.is_written, seen.n_frames) == ("unfinished", True, N_FRAMES)
    assert (stage.name, stage.frames_done, stage.n_frames) == ("align", 16, 40)
    assert (stage.blocks_done, stage.n_blocks) == (4, 10)
    # the first of them was begun 20 s ago, and 12 frames have come since
    assert stage.rate == pytest.approx(12 / 20)
    assert stage.seconds_left == pytest.approx(24 / (12 / 20))
    assert seen.current == stage
    assert seen.attempts[-1]["outcome"] == "running"
    assert seen.writer is not None
    assert seen.writer.pid == os.getpid()


def test_a_run_that_has_come_to_a_stand_is_as_slow_as_it_is(tmp_path: Path) -> None:
    with lock_run(tmp_path / "out.zarr") as lock:
        store = created(lock)
        with store.ledger("align") as ledger:
            ledger.append(record(0, NOW - 300))
        assert look_at(lock.path, now=NOW).stages[0].rate == pytest.approx(4 / 302)
        (later,) = look_at(lock.path, now=NOW + 900).stages
    assert later.rate == 0
    assert later.seconds_left is None


def test_flags_are_counted_from_the_table_and_reasons_are_told(place: Path | Address) -> None:
    table = empty_table(N_FRAMES)
    table["status"][:9] = 0
    table["status"][2:4] = int(Status.BLANK)
    table["status"][4] = int(Status.LOW_NCC | Status.STRUCK)
    table["status"][5] = int(Status.STRUCK)
    with lock_run(place) as lock:
        store = created(lock)
        store.write_table(table)
        store.write_note(SET_ASIDE_NOTE, {"3": "it is truncated"})
        seen = look_at(place)
    assert seen.flags == {"blank": 2, "low_ncc": 1, "struck": 2}
    assert (seen.n_good, seen.n_pending) == (6, 31)
    assert seen.set_aside == {3: "it is truncated"}


def test_a_look_changes_nothing_and_keeps_nobody_out(place: Path | Address) -> None:
    with lock_run(place) as lock:
        store = created(lock)
        with store.ledger("align") as ledger:
            ledger.append(record(0, NOW))
        before = store._objects.keys(), digest_store(place)
        look_at(place)
        assert (store._objects.keys(), digest_store(place)) == before
        assert lock.is_held


def test_passes_that_are_to_come_are_counted_as_the_config_says(tmp_path: Path) -> None:
    with lock_run(tmp_path / "out.zarr") as lock:
        store = created(lock, alignment={"canvas": "common"})
        with store.ledger("estimate") as ledger:
            for block in range(10):
                ledger.append(record(block, NOW))
        seen = look_at(lock.path)
    assert [(stage.name, stage.frames_done) for stage in seen.stages] == [
        ("estimate", 40),
        ("apply", 0),
    ]
    assert seen.current is seen.stages[1]


def test_before_there_is_a_group_the_state_is_new(place: Path | Address) -> None:
    with lock_run(place):
        seen = look_at(place)
        assert (seen.state, seen.is_written, seen.stages) == ("new", True, ())


def test_what_was_taken_back_is_not_done(tmp_path: Path) -> None:
    with lock_run(tmp_path / "out.zarr") as lock:
        store = created(lock)
        with store.ledger("align") as ledger:
            for block in range(10):
                ledger.append(record(block, NOW))
        store.finish()
        assert look_at(lock.path).state == "complete"
        store.take_back("align", [3, 4])
    seen = look_at(lock.path)
    assert (seen.state, seen.writer) == ("unfinished", None)
    assert seen.stages[0].frames_done == 32


HOLDER = """
import sys, time
from stillstack.address import located
from stillstack.storage import lock_run
where, *options = sys.argv[1:]
given = {"endpoint": options[0], "region": "us-east-1"} if options else None
lock = lock_run(located(where, given))
print("held", flush=True)
time.sleep(1000)
"""


def test_a_writer_that_died_is_told_from_one_that_lives(place: Path | Address) -> None:
    endpoint = [str(dict(place.options)["endpoint"])] if isinstance(place, Address) else []
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place), *endpoint], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        seen = look_at(place)
        assert seen.is_written is True
        assert seen.writer is not None
        assert seen.writer.pid == holder.pid
    finally:
        holder.kill()
        holder.communicate()
    assert look_at(place).is_written is False


def test_of_a_writer_on_another_machine_a_folder_does_not_say_whether_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(process, "machine_name", lambda: "elsewhere")
        lock = lock_run(tmp_path / "out.zarr")
    with lock:
        created(lock)
        assert look_at(lock.path).is_written is None
        assert "which only that machine can tell" in stillstack("status", lock.path).stdout


def test_of_a_writer_on_another_machine_a_store_says_it(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket.place("out.zarr")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(process, "machine_name", lambda: "elsewhere")
        lock = lock_run(place)
    with lock:
        assert look_at(place).is_written is True
        monkeypatch.setattr("stillstack.storage.writer.STALE_SECONDS", -60.0)
        assert look_at(place).is_written is False


def test_of_a_long_ledger_in_a_store_only_the_end_is_read(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_ledger, "_GLANCED", 3)
    place = bucket.place("out.zarr")
    with lock_run(place) as lock:
        store = created(lock)
        with store.ledger("align") as ledger:
            for block in range(8):
                ledger.append(record(block, NOW + block, seconds=1.0))
        remote_ledger._KEPT.clear()
        asked: list[str] = []
        read = RemoteObjects.read

        def noted(self: Any, key: str) -> bytes | None:
            asked.append(key)
            return read(self, key)

        monkeypatch.setattr(RemoteObjects, "read", noted)
        (stage,) = look_at(place, now=NOW + 7).stages
    assert sum("ledger-align/" in key for key in asked) == 3
    assert (stage.frames_done, stage.blocks_done) == (32, 8)
    assert stage.rate == pytest.approx(12 / 3)


def test_a_glance_at_a_ledger_reads_neither_rows_nor_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lock_run(tmp_path / "out.zarr") as lock:
        store = created(lock)
        with store.ledger("align") as ledger:
            ledger.append(record(0, NOW))
            ledger.append(record(1, NOW + 1))
        with (lock.path / "run" / "ledger-align.jsonl").open("r+b") as file:
            text = file.read()
            file.seek(text.index(b'"finished":2000000001') + 11)
            file.write(b"3")  # a damaged line does not count here either

        def refused(*_: object, **__: object) -> Any:
            raise AssertionError

        monkeypatch.setattr("stillstack.storage.ledger.base64.b64decode", refused)
        seen = store.glance("align")
    assert set(seen.records) == {0}
    assert seen.records[0].rows is None
    assert seen.records[0].objects == ()
    assert (seen.records[0].finished, seen.records[0].worker) == (NOW, "w:1")


@pytest.mark.parametrize("what", ["nothing", "a foreign folder", "a foreign array"])
def test_what_is_no_run_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "there"
    if what == "a foreign folder":
        path.mkdir()
        (path / "thesis.txt").write_text("do not lose")
    if what == "a foreign array":
        zarr.create_array(path, shape=(3, 4, 5), dtype="u2")
    with pytest.raises(InputError):
        look_at(path)


def test_status_tells_in_words_and_as_json(tmp_path: Path) -> None:
    with lock_run(tmp_path / "out.zarr") as lock:
        store = created(lock)
        table = empty_table(N_FRAMES)
        table["status"][:4] = int(Status.BLANK)
        store.write_table(table)
        store.write_note(SET_ASIDE_NOTE, {"3": "it is truncated"})
        with store.ledger("align") as ledger:
            ledger.append(record(0, NOW))
        text = stillstack("status", lock.path)
        found = json.loads(stillstack("status", lock.path, "--json").stdout)
    assert text.exit_code == 0
    assert f"being written by process {os.getpid()}" in text.stdout
    assert "4 of 40 frames" in text.stdout
    assert "blank: 4" in text.stdout
    assert "frame 3: it is truncated" in text.stdout
    assert found["stages"][0]["frames_done"] == 4
    assert (found["being_written"], found["flags"]) == (True, {"blank": 4})
    assert "nobody writes to it; the same command goes on" in stillstack("status", lock.path).stdout


def test_status_of_an_ingest_counts_its_frames(tmp_path: Path) -> None:
    stack = tmp_path / "frames.zarr"
    assert stillstack("simulate", stack, "--frames", 20, "--shape", "64x64").exit_code == 0
    found = json.loads(stillstack("status", stack, "--json").stdout)
    assert (found["state"], found["being_written"]) == ("complete", False)
    assert [(s["name"], s["frames_done"], s["n_frames"]) for s in found["stages"]] == [
        ("ingest", 20, 20)
    ]


# --------------------------------------------------------------------------- progress


def test_progress_has_the_memory_of_the_largest_worker(
    cluster_client: Any, small_config: Any
) -> None:
    told: list[Progress] = []
    run(small_config, progress=told.append)
    last = told[-1]
    pids = cluster_client.run(os.getpid)
    pages = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in pids.values())
    held = max(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")
    assert (last.frames_done, last.n_workers) == (60, 1)
    # what a heartbeat said, of a short run one before the work began, against the kernel's now
    assert 30e6 < last.memory_bytes < 1.5 * held
    assert re.search(r", \d+ rejected, largest worker [\d.]+ MB", last.notes)


def test_the_scheduler_is_asked_no_more_than_once_a_second_and_changes_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(np.arange(0, 100, 0.1).tolist())
    only_here = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("stillstack.watch.teller.time", only_here)
    answers: list[Any] = [
        {"a": WorkerMemory(5, 10), "b": WorkerMemory(7, 10)},
        None,
        {"a": WorkerMemory(6, 10), "c": WorkerMemory(4, 10)},
    ]
    asked: list[Any] = []

    def look() -> Any:
        asked.append(answers[min(len(asked), 2)])
        return asked[-1]

    teller = Teller(Progress("align", 0, 10), look, None)
    with caplog.at_level(logging.INFO, "stillstack"):
        teller.watch_workers()
        teller.watch_workers()
        assert len(asked) == 1
        assert (teller.told.memory_bytes, teller.told.n_workers) == (7, 2)
        for _ in range(40):
            teller.watch_workers()
    # each look takes 0.1 s here, so that the next is 2 s later: a twentieth of the time
    assert len(asked) == 3
    assert teller.told.memory_bytes == 6
    assert caplog.messages == [
        "2 workers: a, b",
        "b: gone; 2 workers are left",
        "c: new; there are 2 workers",
    ]


def test_a_pace_begins_with_what_an_earlier_attempt_had_done() -> None:
    pace = Pace(iter([0.0, 10.0]).__next__)
    assert pace.words("align", 500, 1000) == ""
    assert pace.words("align", 600, 1000) == ", 10 frames/s, 40.0 s left"


def test_outside_of_a_notebook_there_is_no_progress_by_itself() -> None:
    assert notebook_progress() is None


# jupyter's own packages warn of their future
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_a_notebook_shows_progress_under_the_cell(
    small_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    new: Any = nbformat.v4
    cell = new.new_code_cell(f"import stillstack\nrun = stillstack.run({small_config!r})")
    notebook = new.new_notebook(cells=[cell])
    nbclient.NotebookClient(
        notebook,
        timeout=240,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = notebook.cells[0].outputs
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    shown = [o.data for o in outputs if o.output_type in ("display_data", "update_display_data")]
    texts = [data["text/plain"] for data in shown]
    assert any(text.startswith("Dashboard: http://127.0.0.1:") for text in texts)
    assert any("60 of 60 frames, 4 rejected" in text for text in texts)
    assert any('<progress value="60" max="60"' in data["text/html"] for data in shown)


def test_a_notebook_draws_no_more_than_twice_a_second_but_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[str] = []
    progress = NotebookProgress()
    monkeypatch.setattr(progress, "_show", lambda _, line: drawn.append(line["text/plain"]))
    monkeypatch.setattr(progress, "_handles", {"align": None})
    for done in range(0, 101, 10):
        progress(Progress("align", done, 100, blocks_done=done, n_blocks=100))
    assert len(drawn) == 2
    assert "100 of 100 frames" in drawn[-1]


# --------------------------------------------------------------------------- the log


class Listener(logging.Handler):
    """What somebody hears who has set up logging; a silenced cluster makes pytest's deaf."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Somebody who listens to all loggers."""
    heard = Listener()
    logging.getLogger().addHandler(heard)
    yield heard
    logging.getLogger().removeHandler(heard)


def logged(path: Path) -> str:
    return (path / "run" / "log.txt").read_text("utf-8")


def test_a_run_leaves_a_log_of_what_happened_when(
    cluster_client: Any, small_config: Any, listener: Listener
) -> None:
    path = Path(small_config["output"]["path"])
    run(small_config)
    text = logged(path)
    lines = text.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ ", line) for line in lines)
    for said in (
        r"process \d+ on \S+: python .*, stillstack ",
        r"small\.npy, 60 frames of 128 x 128, uint16, in 15 blocks of 4; passes: align",
        r"the reference is made, in ",
        r"registering and aligning: 0 of 60 frames are done, 15 blocks are to be done",
        r"1 workers: tcp://127\.0\.0\.1:",
        r"registering and aligning: 60 of 60 frames, 4 rejected, largest worker .*, \S+ frames/s",
        r"the run is complete",
    ):
        assert len(re.findall(said, text)) == 1, said
    digest = digest_store(path)
    run(small_config)
    assert logged(path).startswith(text)
    assert len(logged(path)) > len(text)
    assert digest_store(path) == digest
    # what is only for the file is not what others see
    assert listener.messages == []
    assert logging.getLogger("stillstack").propagate
    assert logging.getLogger("stillstack").level == logging.NOTSET


def test_frames_that_are_set_aside_are_logged_with_the_reason(
    cluster_client: Any, small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Truncated(open_source(small_config["input"]["path"]))
    monkeypatch.setattr(planning, "open_source", lambda *_, **__: source)
    run(small_config)
    text = logged(Path(small_config["output"]["path"]))
    assert "WARNING frame 33 is set aside: Frame 33 is truncated." in text


class Truncated:
    """A source one frame of which cannot be read."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        for name in ("name", "shape", "dtype", "chunk_frames", "coords", "attrs", "token", "notes"):
            setattr(self, name, getattr(inner, name))

    def read(self, start: int, stop: int) -> Any:
        if start <= 33 < stop:
            raise UnreadableFrameError("Frame 33 is truncated.")
        return self.inner.read(start, stop)

    def fingerprint(self) -> str:
        return str(self.inner.fingerprint())


def test_the_error_that_ends_a_run_is_in_its_log(place: Path | Address) -> None:
    def failing() -> None:
        with lock_run(place) as lock, run_log(place):
            created(lock)
            raise ZeroDivisionError("all at once")

    with pytest.raises(ZeroDivisionError):
        failing()
    with lock_run(place) as lock, run_log(place):
        store = RunStore.resume(lock)
        logging.getLogger("stillstack.here").warning("it went on")
    text = (store._objects.read("run/log.txt") or b"").decode()
    first, second = text.splitlines()
    assert first.endswith("ERROR   stopped: ZeroDivisionError: all at once")
    assert second.endswith("WARNING it went on")


def test_a_run_that_died_while_its_reference_was_made_leaves_a_folder_that_is_ours(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out.zarr"
    with lock_run(path), run_log(path):
        logging.getLogger("stillstack.here").warning("so far")
    with lock_run(path) as lock:
        created(lock)


def test_a_log_does_not_grow_without_bound(
    place: Path | Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog, "_MOST_BYTES", 2000)
    with lock_run(place) as lock, run_log(place):
        store = created(lock)
        for number in range(200):
            logging.getLogger("stillstack.here").warning("line %d", number)
    kept = [store._objects.read(f"run/{name}") or b"" for name in ("log.txt.1", "log.txt")]
    assert 1000 < len(b"".join(kept)) <= 4000
    assert b"".join(kept).endswith(b"line 199\n")


def test_no_secret_gets_into_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("DASK_PASSWORD", "open sesame")
    path = tmp_path / "out.zarr"
    with lock_run(path), run_log(path):
        logger = logging.getLogger("stillstack.here")
        logger.warning("asked with %s and open sesame", "wJalrXUtnFEMI/K7MDENG")
        logger.warning("tls://ada:lovelace@scheduler:8786 is lost")
        logger.warning("https://host/a?X-Amz-Signature=5f3c&X-Amz-Security-Token=abc&part=1 failed")
    text = logged(path)
    for secret in ("wJalrXUtnFEMI", "sesame", "ada", "lovelace", "5f3c", "abc"):
        assert secret not in text
    assert "tls://***@scheduler:8786 is lost" in text
    assert "part=1 failed" in text


def test_whoever_listens_to_the_package_hears_what_they_heard_before(
    tmp_path: Path, listener: Listener
) -> None:
    path = tmp_path / "out.zarr"
    package = logging.getLogger("stillstack")
    with lock_run(path), run_log(path):
        logging.getLogger("stillstack.here").info("not for others")
        logging.getLogger("stillstack.here").warning("for all")
    assert listener.messages == ["for all"]
    package.setLevel(logging.INFO)
    try:
        with lock_run(path), run_log(path):
            logging.getLogger("stillstack.here").info("for those who asked")
    finally:
        package.setLevel(logging.NOTSET)
    assert listener.messages == ["for all", "for those who asked"]
    assert "not for others" in logged(path)
    assert package.handlers == []


def test_two_runs_in_one_process_keep_a_log_each(tmp_path: Path) -> None:
    logger = logging.getLogger("stillstack.here")
    turns = threading.Barrier(2, timeout=30)

    def keep(name: str) -> None:
        path = tmp_path / name
        with lock_run(path), run_log(path):
            turns.wait()
            logger.info("this is %s", name)
            turns.wait()
            if name == "long":
                turns.wait()
                logger.info("the other one has ended")
        if name == "short":
            turns.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(keep, ["short", "long"]))
    short, long = (logged(tmp_path / name) for name in ("short", "long"))
    assert re.findall("INFO +(.*)", short) == ["this is short"]
    assert re.findall("INFO +(.*)", long) == ["this is long", "the other one has ended"]
    assert logging.getLogger("stillstack").propagate


# --------------------------------------------------------------------------- performance report


def test_a_performance_report_without_bokeh_is_refused_before_anything_is_made(
    small_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillstack.cluster.performance.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'stillstack\[dashboard\]'"):
        run(small_config, performance=tmp_path / "page.html")
    assert not Path(small_config["output"]["path"]).exists()


def test_a_performance_report_is_a_page_that_needs_no_network(
    small_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bokeh")
    pytest.importorskip("panel")  # whose models ask for files of their own in every page of Bokeh's
    page, asked = tmp_path / "page.html", []
    of_dask = settings.settings_of

    def noted(*, profiled: bool) -> dict[str, Any]:
        asked.append(profiled)
        return of_dask(profiled=profiled)

    monkeypatch.setattr(settings, "settings_of", noted)
    run(small_config, performance=page)
    assert asked == [True]
    text = page.read_text("utf-8")
    n_blocks = len(RunStore.view(small_config["output"]["path"]).done_blocks("align"))
    assert n_blocks > 1
    assert f"number of tasks: {n_blocks} " in text
    assert not re.search(r"<script[^>]*src=|<link[^>]*rel=.stylesheet|@import", text)
