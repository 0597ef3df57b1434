"""The prepared reference: made once by the coordinator, kept beside the run, read by workers."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from object_servers import Bucket
from stillstack import kept_references, prepare
from stillstack.blockwork import reference_of
from stillstack.errors import RunFaultError
from stillstack.execute import Progress
from stillstack.job import Job
from stillstack.kept_references import KeptReference, stored_digest, stored_reference
from stillstack.kernels.registration import Reference, prepare_reference, register_frame
from stillstack.run import run
from stillstack.simulation import SimulatedStack
from stillstack.storage import RunStore, RunTemplate, lock_run
from stillstack.storage import prepared as storage_prepared
from stillstack.storage.places import objects_at
from stillstack.storage.prepared import FOLDER, PreparedReferences
from stores import stored

SETTINGS: dict[str, Any] = {"max_shift_px": 16, "n_frames": 1.0}


@pytest.fixture(scope="module")
def reference(small_stack: SimulatedStack) -> Reference:
    return prepare_reference(small_stack.frame(0), small_stack.valid, **SETTINGS)


@pytest.fixture(autouse=True)
def _nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_references, "_REFERENCES", {})


def assert_same(one: Any, other: Any) -> None:
    """Every array and every number of two values, down to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, tuple):
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif not isinstance(one, dict):  # what was kept because it was needed
        assert one == other


def arrays_of(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from arrays_of(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from arrays_of(getattr(value, field.name))


# ------------------------------------------------------------------ kept and read


@pytest.mark.parametrize("max_shift_px", [16, 60])
def test_what_is_read_is_what_was_kept(
    tmp_path: Path, small_stack: SimulatedStack, max_shift_px: int
) -> None:
    settings = {**SETTINGS, "max_shift_px": max_shift_px}
    made = prepare_reference(small_stack.frame(0), small_stack.valid, **settings)
    assert (made.search.transforms is not None) == (max_shift_px == 60)
    kept = PreparedReferences(objects_at(tmp_path))
    assert_same(kept.load(made.digest, kept.keep(made)), made)


def test_arrays_that_are_read_cannot_be_written_and_lie_where_processors_like_it(
    tmp_path: Path, reference: Reference
) -> None:
    kept = PreparedReferences(objects_at(tmp_path))
    found = kept.load(reference.digest, kept.keep(reference))
    arrays = list(arrays_of(found))
    assert len(arrays) > 10
    assert not any(array.flags.writeable for array in arrays if array.size)
    assert all(array.flags.aligned for array in arrays)


def test_frames_get_the_same_bits_from_a_reference_that_was_read(
    tmp_path: Path, reference: Reference, small_stack: SimulatedStack
) -> None:
    kept = PreparedReferences(objects_at(tmp_path))
    found = kept.load(reference.digest, kept.keep(reference))
    assert found is not None
    for number in (1, 20, 59):
        frame = small_stack.frame(number)
        assert_same(register_frame(frame, found), register_frame(frame, reference))


def test_a_reference_that_was_used_is_kept_as_the_same_bytes(
    tmp_path: Path, small_stack: SimulatedStack
) -> None:
    fresh = prepare_reference(small_stack.frame(0), small_stack.valid, **SETTINGS)
    kept = PreparedReferences(objects_at(tmp_path))
    before = kept.keep(fresh)
    register_frame(small_stack.frame(1), fresh)
    assert fresh.static_pixels is not None
    assert fresh.levels[-1].normals or fresh.levels[-1].patches
    assert kept.keep(fresh) == before


@given(data=st.data())
def test_what_is_damaged_anywhere_is_not_there(
    tmp_path_factory: pytest.TempPathFactory, reference: Reference, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    kept = PreparedReferences(objects_at(folder, durable=False))
    sha256 = kept.keep(reference)
    file = folder / FOLDER / reference.digest
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(32, len(content) - 1), "place")  # 32 bytes: the SHA-256 itself
    if data.draw(st.booleans(), "truncated"):
        file.write_bytes(content[:place])
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
        file.write_bytes(content)
    assert kept.load(reference.digest, sha256) is None
    assert PreparedReferences(objects_at(folder)).sha256_of(reference.digest) == ""


@pytest.mark.parametrize("content", [None, b"", b"short", bytes(32), bytes(200)])
def test_what_is_not_there_or_something_else_is_not_there(
    tmp_path: Path, content: bytes | None
) -> None:
    kept = PreparedReferences(objects_at(tmp_path))
    if content is not None:
        objects_at(tmp_path).put(f"{FOLDER}/abc", content)
    assert kept.sha256_of("abc") == ""
    assert kept.load("abc", "") is None


def test_what_another_version_kept_is_not_used(
    tmp_path: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = PreparedReferences(objects_at(tmp_path)).keep(reference)
    assert PreparedReferences(objects_at(tmp_path)).sha256_of(reference.digest) == sha256
    monkeypatch.setattr(storage_prepared, "deciding_versions", lambda: {"numpy": "99"})
    assert PreparedReferences(objects_at(tmp_path)).sha256_of(reference.digest) == ""


class Harmful:
    """Unpickled by an ordinary unpickler, this makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-a-pickle",)


def test_only_values_are_unpickled(
    tmp_path: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = PreparedReferences(objects_at(tmp_path))
    sha256 = kept.keep(replace(reference, offset=Harmful()))  # type: ignore[arg-type]
    assert PreparedReferences(objects_at(tmp_path)).sha256_of(reference.digest) == sha256
    assert kept.load(reference.digest, sha256) is None
    assert not Path("made-by-a-pickle").exists()
    pickle.loads(pickle.dumps(Harmful()))
    assert Path("made-by-a-pickle").exists()


def test_an_object_store_keeps_references_too(bucket: Bucket, reference: Reference) -> None:
    place = bucket.place("out.zarr")
    kept = PreparedReferences(objects_at(place))
    sha256 = kept.keep(reference)
    elsewhere = PreparedReferences(objects_at(place))
    assert elsewhere.sha256_of(reference.digest) == sha256
    assert_same(elsewhere.load(reference.digest, sha256), reference)
    kept.drop()
    assert elsewhere.load(reference.digest, sha256) is None


# ------------------------------------------------------------------ in a worker


def a_store(folder: Path, stack: SimulatedStack, n_groups: int) -> RunStore:
    """A run's store with so many references, none of which is kept."""
    images = np.stack([stack.frame(number) for number in range(n_groups)]).astype("f4")
    valid = np.stack([stack.valid] * n_groups)
    template = RunTemplate(
        n_frames=len(stack),
        frame_shape=stack.scene.shape,
        config_digest="c",
        source_fingerprint="s",
        reference=images,
        reference_valid=valid,
        valid=stack.valid,
        attrs={"registration": {"max_shift_px": 16, "n_frames": [1.0] * n_groups}},
    )
    with lock_run(folder) as lock:
        return RunStore.create(lock, template)


def job_of(store: RunStore, reference: KeptReference) -> Job:
    return Job("j", None, str(store.path), reference, None, None, "auto", None, "")  # type: ignore[arg-type]


@pytest.fixture
def preparations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever this process prepares a reference for a job."""
    made: list[int] = []

    def counted(*arguments: Any, **settings: Any) -> Reference:
        made.append(1)
        return prepare_reference(*arguments, **settings)

    monkeypatch.setattr(kept_references, "prepare_reference", counted)
    return made


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the references that were read, in order."""
    read: list[str] = []
    load = PreparedReferences.load

    def noted(self: PreparedReferences, digest: str, sha256: str) -> Reference | None:
        read.append(digest)
        return load(self, digest, sha256)

    monkeypatch.setattr(PreparedReferences, "load", noted)
    return read


def test_each_job_gets_its_own_reference_and_a_few_are_held(
    tmp_path: Path, small_stack: SimulatedStack, preparations: list[int], loads: list[str]
) -> None:
    store = a_store(tmp_path / "out.zarr", small_stack, 3)
    jobs = []
    for group in range(3):
        made = stored_reference(store, group)
        np.testing.assert_array_equal(
            made.image[made.valid], small_stack.frame(group)[made.valid].astype("f4")
        )
        jobs.append(job_of(store, KeptReference(made.digest, store.prepared.keep(made), group)))
    digests = [job.reference.digest for job in jobs]
    assert len(set(digests)) == 3
    preparations.clear()
    for group in (0, 1, 0, 1, 0, 2, 0, 1):
        assert reference_of(jobs[group]).digest == digests[group]
    # two are held: 2 takes the place of 1, which was not used for longest, and 1 that of 2
    assert loads == [digests[group] for group in (0, 1, 2, 1)]
    assert not preparations


def test_the_digest_of_what_a_store_holds_is_that_of_the_prepared_reference(
    tmp_path: Path, small_stack: SimulatedStack, preparations: list[int]
) -> None:
    store = a_store(tmp_path / "out.zarr", small_stack, 2)
    digest = stored_digest(store)
    assert not preparations
    assert digest == stored_reference(store).digest == stored_reference(store, 0).digest
    assert digest != stored_reference(store, 1).digest


def test_the_reference_of_a_group_is_read_without_those_of_others(
    tmp_path: Path, small_stack: SimulatedStack
) -> None:
    store = a_store(tmp_path / "out.zarr", small_stack, 3)
    expected = stored_reference(store, 1).digest
    for other in (0, 2):
        for name in ("reference", "reference_valid"):
            (tmp_path / "out.zarr" / name / "c" / str(other) / "0" / "0").write_bytes(b"damaged")
    assert stored_reference(store, 1).digest == expected


def test_the_first_worker_that_needs_a_groups_reference_prepares_it_for_all(
    tmp_path: Path,
    small_stack: SimulatedStack,
    preparations: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = a_store(tmp_path / "out.zarr", small_stack, 2)
    job = job_of(store, KeptReference("name-1", group=1))
    one = reference_of(job)
    monkeypatch.setattr(kept_references, "_REFERENCES", {})  # another process
    other = reference_of(job)
    assert len(preparations) == 1
    assert_same(other, one)
    file = tmp_path / "out.zarr" / FOLDER / "name-1"
    file.write_bytes(file.read_bytes()[:-100])
    monkeypatch.setattr(kept_references, "_REFERENCES", {})
    assert_same(reference_of(job), one)
    assert len(preparations) == 2


def test_a_worker_that_does_not_find_it_prepares_it_once(
    tmp_path: Path, small_stack: SimulatedStack, preparations: list[int]
) -> None:
    store = a_store(tmp_path / "out.zarr", small_stack, 1)
    digest = stored_reference(store, 0).digest
    preparations.clear()
    job = job_of(store, KeptReference(digest, hashlib.sha256(b"gone").hexdigest()))
    assert reference_of(job) is reference_of(job)
    assert len(preparations) == 1


def test_a_worker_that_would_prepare_another_one_refuses(
    tmp_path: Path, small_stack: SimulatedStack
) -> None:
    store = a_store(tmp_path / "out.zarr", small_stack, 1)
    with pytest.raises(RunFaultError, match="has the digest"):
        reference_of(job_of(store, KeptReference("of another version")))


# ------------------------------------------------------------------ in a run


def forbid_preparing() -> None:
    """Let a worker's process fail if it prepares a reference; and let it hold none."""

    def refuse(*_: Any, **__: Any) -> Reference:
        raise RunFaultError("A worker prepares the reference.")

    kept_references._REFERENCES.clear()
    vars(kept_references)["prepare_reference"] = refuse


def allow_preparing() -> None:
    vars(kept_references)["prepare_reference"] = prepare_reference
    kept_references._REFERENCES.clear()


@pytest.fixture
def workers_that_prepare_nothing(cluster_client: Any) -> Iterator[Any]:
    cluster_client.run(forbid_preparing)
    yield cluster_client
    cluster_client.run(allow_preparing)


def test_no_worker_prepares_what_the_coordinator_has_prepared(
    workers_that_prepare_nothing: Any, small_config: Any
) -> None:
    assert run(small_config).attrs["complete"] is True


def test_that_test_would_notice_a_worker_that_prepares(
    workers_that_prepare_nothing: Any, small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreparedReferences, "keep", lambda *_: "0" * 64)
    with pytest.raises(RunFaultError, match="A worker prepares the reference"):
        run(small_config)


def test_a_run_whose_workers_prepare_the_reference_themselves_gives_the_same_store(
    cluster_client: Any, small_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(small_config)
    whole = stored(small_config["output"]["path"])
    cluster_client.run(allow_preparing)  # forget what is held
    monkeypatch.setattr(PreparedReferences, "keep", lambda *_: "0" * 64)
    small_config["output"]["path"] = str(tmp_path / "other.zarr")
    run(small_config)
    assert stored(small_config["output"]["path"]) == whole


class StoppedError(Exception):
    pass


def stop_after(n_blocks: int) -> Any:
    def progress(now: Progress) -> None:
        if now.blocks_done >= n_blocks:
            raise StoppedError

    return progress


@pytest.mark.parametrize("damage", ["left as it is", "gone", "one bit"])
def test_a_run_that_is_finished_later_gives_the_same_store_whatever_became_of_it(
    workers_that_prepare_nothing: Any, small_config: Any, tmp_path: Path, damage: str
) -> None:
    run(small_config)
    whole = stored(small_config["output"]["path"])
    small_config["output"]["path"] = str(tmp_path / "other.zarr")
    with pytest.raises(StoppedError):
        run(small_config, progress=stop_after(3))
    workers_that_prepare_nothing.run(forbid_preparing)  # forget what is held
    (file,) = (tmp_path / "other.zarr" / FOLDER).iterdir()
    if damage == "gone":
        file.unlink()
    elif damage == "one bit":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    made: list[str] = []

    def counted(store: RunStore, group: int | None = None) -> Reference:
        made.append("once more")
        return stored_reference(store, group)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "stored_reference", counted)
        run(small_config)
    assert len(made) == (0 if damage == "left as it is" else 1)
    assert stored(small_config["output"]["path"]) == whole


def test_nothing_of_it_is_left_when_the_run_is_complete(
    cluster_client: Any, small_config: Any
) -> None:
    run(small_config)
    assert not (Path(small_config["output"]["path"]) / FOLDER).exists()


def test_a_store_whose_reference_is_another_is_refused(
    cluster_client: Any, small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError):
        run(small_config, progress=stop_after(3))
    path = Path(small_config["output"]["path"])
    next((path / FOLDER).iterdir()).unlink()
    monkeypatch.setattr(
        kept_references,
        "prepare_reference",
        lambda *a, **k: replace(prepare_reference(*a, **k), digest="?"),
    )
    with pytest.raises(RunFaultError, match="has the digest"):
        run(small_config)
    assert (RunStore.view(path).read_table()["status"] & 1).any()  # nothing more was done
