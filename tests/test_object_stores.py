"""What a run keeps in an object store: objects, lock, ledger, errors, and what may go wrong."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype

from object_servers import (
    DENIED,
    KEY_ID,
    SECRET,
    SLOW_DOWN,
    Bucket,
    Fault,
    Front,
    Request,
    sometimes,
)
from stillstack import open_stack
from stillstack.address import Address, located
from stillstack.config import config_digest, load_config, make_config, result_settings
from stillstack.errors import AccessError, InputError, MissingExtraError, RunFaultError
from stillstack.model import Status, empty_table
from stillstack.plan import plan
from stillstack.sources import open_source
from stillstack.storage import (
    BlockRecord,
    RunStore,
    RunTemplate,
    cloud,
    digest_store,
    inspect_output,
    lease,
    lock_run,
    open_run,
    process,
)
from stillstack.storage.cloud import client
from stillstack.storage.cloud_store import CloudStore
from stillstack.storage.objects import LocalObjects, Objects
from stillstack.storage.remote import RemoteObjects
from stillstack.storage.remote_ledger import RemoteLedger

SHAPE = (12, 16)
BAD_KEY = (
    "<Error><Code>InvalidAccessKeyId</Code>"
    f"<AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId><Message>{SECRET}</Message></Error>"
)


@pytest.fixture(params=["folder", "store"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return LocalObjects(tmp_path / "out.zarr")
    bucket: Bucket = request.getfixturevalue("bucket")
    return RemoteObjects(bucket.place("out.zarr"))


def template(n_frames: int = 10, **changes: Any) -> RunTemplate:
    given: dict[str, Any] = {
        "n_frames": n_frames,
        "frame_shape": SHAPE,
        "config_digest": "c",
        "source_fingerprint": "s",
        "reference": np.ones(SHAPE),
        "reference_valid": np.ones(SHAPE, bool),
        "valid": np.ones(SHAPE, bool),
        "aligned_dtype": "u2",
        "block_frames": 4,
        "coords": {"time": np.arange(n_frames).astype("M8[s]")},
    }
    return RunTemplate(**{**given, **changes})


def images(start: int, stop: int) -> Any:
    return np.random.default_rng(5).poisson(40, (64, *SHAPE)).astype("u2")[start:stop]


def rows(start: int, stop: int) -> Any:
    table = empty_table(64, Status(0))
    table["shift"] = np.random.default_rng(6).normal(size=(64, 2))
    return table[start:stop]


def write_run(place: Address | Path) -> RunStore:
    """A small run from beginning to end, or what is left of it."""
    with lock_run(place) as lock:
        new = inspect_output(place, config_digest="c", source_fingerprint="s") == "new"
        store = RunStore.create(lock, template()) if new else RunStore.resume(lock)
        done = store.done_blocks("align")
        with store.ledger("align") as ledger:
            for block, (start, stop) in enumerate(store.blocks()):
                if block not in done:
                    stored = store.write_block(start, images(start, stop))
                    ledger.append(BlockRecord(block, start, stop, rows(start, stop), stored))
        store.write_table(store.fold_rows("align"))
        store.finish()
        return store


# The seam


def test_a_folder_and_a_store_keep_objects_alike(objects: Objects) -> None:
    stored = objects.put("a/c/0", b"some bytes")
    objects.put("a/zarr.json", b"{}")
    objects.put("run/note.json", b"1")
    assert objects.read("a/c/0") == b"some bytes"
    assert objects.read("a/c/1") is None
    assert objects.size("a/c/0") == 10
    assert objects.size("a/c/1") is None
    assert objects.size("a/c") is None
    assert objects.sizes(["a/c/0", "a/c/1", "a/zarr.json"]) == {"a/c/0": 10, "a/zarr.json": 2}
    assert objects.names() == ("a", "run")
    assert objects.names("a") == ("c", "zarr.json")
    assert objects.names("nothing") == ()
    assert objects.keys() == ("a/c/0", "a/zarr.json", "run/note.json")
    assert objects.fault(stored) == ""
    before = objects.stamp("a/c/0")
    objects.put("a/c/0", b"other byte")
    assert objects.stamp("a/c/0") != before
    assert "does not hold the bytes" in objects.fault(stored)
    objects.put("a/c/0", b"short")
    assert "holds 5 bytes instead of 10" in objects.fault(stored)
    objects.remove("a")
    assert objects.names() == ("run",)
    assert objects.fault(stored) == "a/c/0 is missing"
    assert objects.stamp("a/c/0") == ""


def test_the_sizes_of_many_objects_come_from_a_list(bucket: Bucket) -> None:
    objects = RemoteObjects(bucket.place("out.zarr"))
    keys = [f"aligned/c/{number}/0/0" for number in range(70)]
    for key in keys:
        objects.put(key, key.encode())
    bucket.front.seen.clear()
    assert objects.sizes([*keys, "aligned/c/99/0/0"]) == {key: len(key) for key in keys}
    assert sum(bucket.front.seen.values()) == 1


def test_metadata_of_a_store_appear_in_order_when_they_are_committed(bucket: Bucket) -> None:
    objects = RemoteObjects(bucket.place("out.zarr"))
    held = [objects.stage(f"{name}/zarr.json", b"{}") for name in "ba"]
    assert objects.keys() == ()
    objects.discard(held)
    assert objects.keys() == ()
    objects.commit(held)
    put = [key for key in bucket.front.seen if key.startswith("PUT")]
    assert [key.split("/")[-2] for key in put] == ["b", "a"]


def test_large_objects_go_in_parts_and_come_back_whole(bucket: Bucket) -> None:
    objects = RemoteObjects(bucket.place("out.zarr"))
    data = np.random.default_rng(0).bytes(20 * 2**20)
    bucket.front.fault = sometimes(0.3)
    stored = objects.put("large", data)
    assert objects.fault(stored) == ""
    assert objects.read("large") == data
    bucket.front.fault = lambda _: None
    assert any(key.startswith("POST") for key in bucket.front.seen)


def test_a_run_in_a_store_holds_the_bytes_of_one_in_a_folder(
    bucket: Bucket, tmp_path: Path
) -> None:
    there, here = write_run(bucket.place("out.zarr")), write_run(tmp_path / "out.zarr")
    assert digest_store(there.path) == digest_store(here.path)
    assert there.verify("align") == []
    dataset = open_run(there.path)
    assert dataset["aligned"].chunks is not None
    xr.testing.assert_identical(dataset.load(), open_run(here.path).load())
    assert inspect_output(there.path, config_digest="c", source_fingerprint="s") == "complete"


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_doubled_where_requests_fail(
    bucket: Bucket, tmp_path: Path, seed: int
) -> None:
    bucket.front.fault = sometimes(0.25, seed)
    place = bucket.place("out.zarr")
    write_run(place)
    injected = dict(bucket.front.injected)
    bucket.front.fault = lambda _: None
    assert set(injected) == {"503", "drop", "lose", "cut", "0.2"}
    assert digest_store(place) == digest_store(write_run(tmp_path / "out.zarr").path)
    assert ledger_numbers(place) == [0, 1, 2]
    # no lock or probe is left
    assert set(RemoteObjects(place).names("run")) == {"ledger-align", "zarr.json"}


def ledger_numbers(place: Address) -> list[int]:
    found = RemoteObjects(place).names("run/ledger-align")
    return [int(name.removesuffix(".json")) for name in found]


def test_an_answer_that_comes_too_late_is_asked_for_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "_TIMEOUTS", {"connect_timeout": "5s", "timeout": "1s"})
    # what was asked for first arrives after what was asked for again
    bucket.front.fault = lambda request: 3.0 if request.number % 20 == 7 else None
    place = bucket.place("out.zarr")
    write_run(place)
    late = bucket.front.injected["3.0"]
    bucket.front.fault = lambda _: None
    assert late > 2
    assert any(count > 1 for count in bucket.front.stored.values())
    assert digest_store(place) == digest_store(write_run(tmp_path / "out.zarr").path)
    assert ledger_numbers(place) == [0, 1, 2]


# The ledger


def record(block: int) -> BlockRecord:
    return BlockRecord(block, 4 * block, 4 * block + 4, seconds=0.5, finished=time.time())


@pytest.mark.parametrize("key", ["there", "missing"])
def test_an_answer_that_breaks_off_after_a_retry_is_asked_for_again(
    bucket: Bucket, key: str
) -> None:
    place = bucket.place("broken")
    RemoteObjects(place).put("there", b"all of it")
    faults: Iterator[Fault] = iter([SLOW_DOWN, "cut", SLOW_DOWN, "cut"])
    bucket.front.fault = lambda _: next(faults, None)
    found = asyncio.run(CloudStore(place).get(key, default_buffer_prototype()))
    assert (found and found.to_bytes()) == (b"all of it" if key == "there" else None)
    assert next(faults, None) is None, "not every fault was met"


def test_a_ledger_is_numbered_and_never_written_over(bucket: Bucket) -> None:
    objects = RemoteObjects(bucket.place("out.zarr"))
    with RemoteLedger(objects, "align") as ledger:
        assert ledger.records() == {}
        for block in (2, 0):
            ledger.append(record(block))
    with RemoteLedger(objects, "align") as ledger:
        ledger.append(record(0))
        assert list(ledger.records()) == [2, 0]
    assert ledger_numbers(objects.place) == [0, 1, 2]
    assert all(count == 1 for count in bucket.front.stored.values())


def test_an_appended_record_whose_answer_is_lost_is_there_once(bucket: Bucket) -> None:
    objects = RemoteObjects(bucket.place("out.zarr"))
    lost: set[str] = set()

    def lose_each_once(request: Request) -> Fault | None:
        if request.method != "PUT" or request.key in lost:
            return None
        lost.add(request.key)
        return "lose"

    bucket.front.fault = lose_each_once
    with RemoteLedger(objects, "align") as ledger:
        for block in range(3):
            ledger.append(record(block))
        assert sorted(ledger.records()) == [0, 1, 2]
    assert len(lost) == 3
    assert ledger_numbers(objects.place) == [0, 1, 2]
    assert all(count == 1 for count in bucket.front.stored.values())


def test_of_two_writers_of_a_ledger_the_second_is_stopped(bucket: Bucket) -> None:
    objects = RemoteObjects(bucket.place("out.zarr"))
    first, second = RemoteLedger(objects, "align"), RemoteLedger(objects, "align")
    first.append(record(0))
    second.append(record(1))
    with pytest.raises(RunFaultError, match="Another process writes the ledger"):
        first.append(record(2))
    assert sorted(first.records()) == [0, 1]


def test_a_damaged_or_lost_record_does_not_count_and_the_others_do(bucket: Bucket) -> None:
    objects = RemoteObjects(bucket.place("out.zarr"))
    with RemoteLedger(objects, "align") as ledger:
        for block in range(4):
            ledger.append(record(block))
        assert len(ledger.records()) == 4
        key = "run/ledger-align/0000000001.json"
        data = objects.read(key) or b""
        objects.put(key, data.replace(b'"seconds":0.5', b'"seconds":0.6'))
        obstore.delete(client(objects.address), "run/ledger-align/0000000002.json")
        assert sorted(ledger.records()) == [0, 3]
        ledger.append(record(1))
    assert ledger_numbers(objects.place) == [0, 1, 3, 4]


def test_what_was_read_of_a_ledger_is_not_read_again(bucket: Bucket) -> None:
    objects = RemoteObjects(bucket.place("out.zarr"))
    with RemoteLedger(objects, "align") as ledger:
        for block in range(5):
            ledger.append(record(block))
        ledger.records()
        bucket.front.seen.clear()
        ledger.append(record(5))
        assert len(ledger.records()) == 6
    read = [key for key in bucket.front.seen if key.startswith("GET") and "ledger-align/" in key]
    assert [key[-15:] for key in read] == ["0000000005.json"]


# The lock


def test_of_many_that_want_the_lock_at_once_one_gets_it(bucket: Bucket) -> None:
    place = bucket.place("out.zarr")

    def attempt(_: int) -> Any:
        try:
            return lock_run(place)
        except InputError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(8)))
    refused = [outcome for outcome in outcomes if isinstance(outcome, InputError)]
    assert len(refused) == 7
    assert all("is being written by" in error.what for error in refused)
    assert any(f"process {os.getpid()}" in error.what for error in refused)
    (held,) = [outcome for outcome in outcomes if not isinstance(outcome, InputError)]
    assert held.is_held
    held.release()
    assert not held.is_held
    with lock_run(place) as again:
        assert again.is_held


HOLDER = """
import sys, time
from stillstack.address import located
from stillstack.storage import lock_run
lock = lock_run(located(sys.argv[1], {"endpoint": sys.argv[2], "region": "us-east-1"}))
print("held", flush=True)
time.sleep(1000)
"""


def test_the_lock_of_a_process_that_was_killed_is_free_at_once(bucket: Bucket) -> None:
    place = bucket.place("out.zarr")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, place.url, bucket.front.endpoint],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"is being written by process {holder.pid} on"):
            lock_run(place)
    finally:
        holder.kill()
        holder.communicate()
    with lock_run(place) as lock:
        assert lock.is_held
    assert RemoteObjects(place).keys() == ()


def test_a_lock_from_another_machine_is_free_when_it_is_not_kept_alive(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket.place("out.zarr")
    monkeypatch.setattr(lease, "BEAT_SECONDS", 1000.0)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(process, "machine_name", lambda: "elsewhere")
        asleep = lock_run(place)
        store = RunStore.create(asleep, template())
    with pytest.raises(InputError, match="is being written by process"):
        lock_run(place)
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.0)
    time.sleep(2.5)
    with lock_run(place) as lock:
        # The one that was asleep wakes up: nothing that it still writes gets through.
        monkeypatch.setattr(lease, "_SURE_SECONDS", 0.0)
        before = RemoteObjects(place).keys()
        writes: list[Callable[[], Any]] = [
            lambda: store.write_note("late", 1),
            lambda: store.write_table(empty_table(10, Status(0))),
            lambda: store.ledger("align").append(record(0)),
            store.finish,
        ]
        for write in writes:
            with pytest.raises(RunFaultError, match="another process has taken it over"):
                write()
        assert RemoteObjects(place).keys() == before
        assert not asleep.is_held
        asleep.release()
        assert lock.is_held
        lock.assure()


def test_a_lock_is_kept_alive_also_where_answers_are_lost(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "_SURE_SECONDS", 0.0)
    place = bucket.place("out.zarr")
    bucket.front.fault = sometimes(0.3)
    with lock_run(place) as lock:
        deadline = time.monotonic() + 30
        key = f"/{bucket.name}/out.zarr/run/lock.json"
        while bucket.front.stored[key] < 10 and time.monotonic() < deadline:
            lock.assure()
        assert bucket.front.stored[key] >= 10
        assert lock.is_held
    bucket.front.fault = lambda _: None
    assert RemoteObjects(place).keys() == ()


def test_a_store_that_would_let_two_have_the_lock_is_refused(bucket: Bucket) -> None:
    bucket.front.fault = lambda request: "blind" if request.conditional else None
    with pytest.raises(InputError, match="were to be written only if there are none"):
        lock_run(bucket.place("out.zarr"))
    assert RemoteObjects(bucket.place("out.zarr")).keys() == ()


def test_what_is_left_of_looking_at_the_clock_is_removed(bucket: Bucket) -> None:
    objects = RemoteObjects(bucket.place("out.zarr"))
    objects.put("run/clock-1", b"now")
    write_run(objects.address)
    objects.put("run/clock-2", b"now")
    with lock_run(objects.address) as lock:
        RunStore.resume(lock)
    assert set(objects.names("run")) == {"ledger-align", "zarr.json"}


def test_a_place_with_something_else_in_it_is_refused(bucket: Bucket) -> None:
    RemoteObjects(bucket.place("out.zarr")).put("letters.txt", b"dear")
    with pytest.raises(InputError, match="exists and was not made by stillstack"):
        lock_run(bucket.place("out.zarr"))
    assert RemoteObjects(bucket.place("out.zarr")).keys() == ("letters.txt",)


# What may be said of a place


@pytest.mark.parametrize(
    ("path", "options", "fault"),
    [
        ("s3://bucket/out.zarr", {"secret_access_key": SECRET}, "credentials belong into the env"),
        ("s3://bucket/out.zarr", {"access_key_id": SECRET}, "credentials belong into the env"),
        ("s3://bucket/out.zarr", {"endpoint": f"https://me:{SECRET}@host"}, "holds a password"),
        ("s3://bucket/out.zarr", {"regoin": "x"}, "known are endpoint, region"),
        ("s3://bucket/out.zarr", {"anonymous": "yes"}, "should be true or false"),
        (f"s3://me:{SECRET}@bucket/out.zarr", {}, "an address at bucket holds a password"),
        (f"https://host/out.zarr?sig={SECRET}", {}, "an address at host holds a password"),
        ("s3:///out.zarr", {}, "names no bucket"),
        ("ftp://host/out.zarr", {}, "known are s3://, gs://, https://"),
        ("/data/out.zarr", {"region": "x"}, "options belong to addresses"),
    ],
)
@pytest.mark.parametrize("section", ["input", "output"])
def test_a_place_that_makes_no_sense_is_refused_and_no_secret_is_repeated(
    path: str, options: dict[str, Any], fault: str, section: str
) -> None:
    sections = {"input": {"path": "/data/in.zarr"}, "output": {"path": "/data/out"}}
    sections[section] = {"path": path, "options": options}  # type: ignore[dict-item]
    with pytest.raises(InputError, match=f"(?i){fault}") as refused:
        make_config(sections)
    assert SECRET not in str(refused.value)
    with pytest.raises(InputError, match=f"(?i){fault}") as refused:
        located(path, options)
    assert SECRET not in str(refused.value)


def test_how_a_place_is_reached_is_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "input: {path: 's3://bucket/in.zarr', options: {region: eu-north-1, anonymous: true}}\n"
        "output: {path: 's3://bucket/out.zarr', options: {endpoint: 'http://127.0.0.1:9'}}\n"
    )
    config = load_config(file)
    assert config.output.place == Address(
        "s3://bucket/out.zarr", (("endpoint", "http://127.0.0.1:9"),)
    )
    plain = make_config({"input": {"path": "s3://bucket/in.zarr"}, "output": {"path": "/out"}})
    assert config_digest(config) == config_digest(plain)
    settings = result_settings(config)
    assert settings["input"] == {"path": "s3://bucket/in.zarr", "variable": None, "pattern": None}
    assert "options" not in settings["output"]


# Errors, before anything is started


def planned(bucket: Bucket, **output: Any) -> Any:
    place = {"path": f"s3://{bucket.name}/out.zarr", "options": bucket.options, **output}
    return make_config({"input": {"path": "/nothing.npy"}, "output": place})


def refusal(config: Any) -> InputError:
    with pytest.raises((InputError, RunFaultError)) as refused:
        plan(config)
    text = str(refused.value)
    assert SECRET not in text
    assert KEY_ID not in text
    return refused.value  # type: ignore[return-value]


def test_a_bucket_that_is_not_there_is_named(bucket: Bucket) -> None:
    text = str(refusal(planned(bucket, path="s3://no-such-bucket/out.zarr")))
    assert "s3://no-such-bucket/out.zarr cannot be listed: there is no bucket no-such" in text
    assert "Check the name, the region and the endpoint" in text


@pytest.mark.parametrize(
    ("answer", "said", "cure"),
    [
        (DENIED, "permission is denied (AccessDenied)", "Ask for permission to list"),
        (
            (403, BAD_KEY),
            "does not accept the credentials (InvalidAccessKeyId)",
            "Correct the credentials",
        ),
        ((301, "<Error><Code>PermanentRedirect</Code></Error>"), "another region", "Set the reg"),
        (SLOW_DOWN, "SlowDown: Please reduce your request rate", "When the store answers again"),
    ],
)
def test_what_a_store_refuses_is_said_in_plain_words(
    bucket: Bucket, answer: tuple[int, str], said: str, cure: str
) -> None:
    bucket.front.fault = lambda _: answer
    text = str(refusal(planned(bucket)))
    assert said in text
    assert cure in text


def test_an_endpoint_where_nothing_answers_is_named(bucket: Bucket) -> None:
    options = {"endpoint": "http://127.0.0.1:9", "region": "us-east-1"}
    text = str(refusal(planned(bucket, options=options)))
    assert "nothing answers at http://127.0.0.1:9" in text


def test_missing_credentials_are_asked_for(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    error = refusal(planned(bucket))
    assert "there are no credentials for it" in str(error)
    assert "AWS_ACCESS_KEY_ID" in str(error)
    assert error.exit_code == 2


def test_credentials_are_found_in_a_profile(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    file = tmp_path / "credentials"
    file.write_text(f"[beam]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    place = located(f"s3://{bucket.name}/out.zarr", {**bucket.options, "profile": "beam"})
    assert isinstance(place, Address)
    objects = RemoteObjects(place)
    objects.put("key", b"value")
    assert objects.read("key") == b"value"
    assert SECRET.encode() not in pickle.dumps(objects.zarr_store())
    other = located(f"s3://{bucket.name}/out.zarr", {**bucket.options, "profile": "nobody"})
    with pytest.raises(InputError, match="credentials of the profile nobody cannot be read"):
        lock_run(other)


def test_a_web_server_is_no_output(bucket: Bucket) -> None:
    error = refusal(planned(bucket, path=f"{bucket.front.endpoint}/out.zarr", options={}))
    assert "can only be read" in str(error)


def test_without_the_library_the_extra_is_named(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'stillstack\[cloud\]'"):
        open_stack(bucket.place("in.zarr").url, options=bucket.options)


# Reading


def write_zarr(folder: Path, zarr_format: int, name: str | None = "frames") -> Any:
    frames = np.random.default_rng(3).poisson(30, (9, *SHAPE)).astype("u2")
    group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    made = group.create_array(name or "frames", data=frames, chunks=(2, *SHAPE))
    if zarr_format == 2:
        made.attrs["_ARRAY_DIMENSIONS"] = ["frame", "y", "x"]
    return frames


def upload(folder: Path, objects: RemoteObjects) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            objects.put(file.relative_to(folder).as_posix(), file.read_bytes())


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_stack_in_a_store_is_opened_lazily_and_travels_as_its_address(
    bucket: Bucket, tmp_path: Path, zarr_format: int
) -> None:
    frames = write_zarr(tmp_path / "in.zarr", zarr_format)
    upload(tmp_path / "in.zarr", RemoteObjects(bucket.place("in.zarr")))
    bucket.front.fault = sometimes(0.2)
    stack = open_stack(bucket.place("in.zarr").url, options=bucket.options, chunk_frames=2)
    assert not any("/c/" in key for key in bucket.front.seen if key.startswith("GET"))
    travels = pickle.dumps(stack)
    assert len(travels) < 6000
    assert SECRET.encode() not in travels
    assert KEY_ID.encode() not in travels
    np.testing.assert_array_equal(pickle.loads(travels).values, frames)
    assert stack.attrs["source_format"] == "Zarr"


def test_a_chunk_that_is_replaced_changes_the_fingerprint(bucket: Bucket, tmp_path: Path) -> None:
    write_zarr(tmp_path / "in.zarr", 3)
    objects = RemoteObjects(bucket.place("in.zarr"))
    upload(tmp_path / "in.zarr", objects)
    source = open_source(objects.address)
    before = source.fingerprint()
    assert source.fingerprint() == before == open_source(objects.address).fingerprint()
    data = objects.read("frames/c/2/0/0") or b""
    objects.put("frames/c/2/0/0", data[:-1] + b"x")
    assert source.fingerprint() != before
    objects.put("frames/c/2/0/0", data)
    assert source.fingerprint() == before
    text = objects.read("frames/zarr.json") or b""
    objects.put("frames/zarr.json", text.replace(b'"fill_value": 0', b'"fill_value": 1'))
    assert source.fingerprint() != before


def test_what_is_no_stack_in_a_store_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    RemoteObjects(bucket.place("folder")).put("frames.npy", b"x")
    with pytest.raises(InputError, match="There is no Zarr array or group at s3://"):
        open_source(bucket.place("folder"))
    with pytest.raises(InputError, match="is not a run of stillstack"):
        open_run(bucket.place("folder"))
    with pytest.raises(AccessError, match="there is no bucket no-such-bucket"):
        open_source("s3://no-such-bucket/in.zarr", options=bucket.options)


def test_a_public_store_is_read_without_the_right_to_list(bucket: Bucket, tmp_path: Path) -> None:
    frames = write_zarr(tmp_path / "in.zarr", 2)
    objects = RemoteObjects(bucket.place("in.zarr"))
    upload(tmp_path / "in.zarr", objects)
    there = set(objects.keys())

    def no_listing(request: Request) -> Fault | None:
        key = request.key.partition("/in.zarr/")[2]
        return None if key in there else DENIED

    bucket.front.fault = no_listing
    source = open_source(f"{objects.address}::frames", options=bucket.options)
    np.testing.assert_array_equal(source.read(0, 9), frames)
    bucket.front.fault = lambda _: DENIED
    with pytest.raises(AccessError, match="permission is denied"):
        open_source(objects.address)
    with pytest.raises(AccessError, match="permission is denied"):
        source.read(0, 2)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Front]:
    """A web server over a folder, behind a front."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().split("port ")[1].split()[0]
        front = Front(f"127.0.0.1:{port}")
        yield front
        front.close()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_stack_on_a_web_server_is_read(web: Front, tmp_path: Path, zarr_format: int) -> None:
    frames = write_zarr(tmp_path / "in.zarr", zarr_format)
    web.fault = sometimes(0.2)
    named = open_source(f"{web.endpoint}/in.zarr::frames")
    np.testing.assert_array_equal(named.read(0, 9), frames)
    single = open_source(f"{web.endpoint}/in.zarr/frames")
    np.testing.assert_array_equal(single.read(1, 4), frames[1:4])
    with pytest.raises(InputError, match=r"cannot be listed.*Name it"):
        open_source(f"{web.endpoint}/in.zarr")
    with pytest.raises(InputError, match="There is no Zarr array or group"):
        open_source(f"{web.endpoint}/nothing.zarr")
    before = named.fingerprint()
    assert named.fingerprint() == before
    chunk = next(iter(sorted((tmp_path / "in.zarr" / "frames").rglob("*0*"))))
    while chunk.is_dir():
        chunk = next(iter(sorted(chunk.iterdir())))
    os.utime(chunk, (1, 1))
    assert named.fingerprint() != before


def test_consolidated_metadata_say_what_a_web_server_has(web: Front, tmp_path: Path) -> None:
    frames = write_zarr(tmp_path / "in.zarr", 3)
    zarr.open_group(tmp_path / "in.zarr").create_array("dark", data=np.zeros((2, 2)))
    with pytest.warns(match="not part in the Zarr format 3"):
        zarr.consolidate_metadata(tmp_path / "in.zarr")
    found = open_source(f"{web.endpoint}/in.zarr")
    np.testing.assert_array_equal(found.read(0, 9), frames)
