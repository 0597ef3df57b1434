"""A store that is written block by block, with a ledger: what runs and stacks have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from stillstack.address import Location, located, portable
from stillstack.errors import InputError, RunFaultError, said_by
from stillstack.storage.arrays import PYRAMID, group_metadata, member_metadata, plain_json
from stillstack.storage.blocks import BlockWriter
from stillstack.storage.identity import marker, read_attributes
from stillstack.storage.ledger import AnyLedger, BlockRecord, Glance
from stillstack.storage.locking import RunLock
from stillstack.storage.notes import SET_ASIDE_NOTE
from stillstack.storage.objects import METADATA, RUN_FOLDER, Objects, StoredObject
from stillstack.storage.places import ledger_of, objects_at, stages_of
from stillstack.storage.staging import StagingStore


@dataclass(frozen=True)
class DamagedBlock:
    """A block whose objects are not what the ledger says was written."""

    block: int
    start: int
    stop: int
    faults: tuple[str, ...]


class BlockStore:
    """A Zarr group with one array of images, written block by block.

    Made by `resume` and `view`, and by what the kinds of store add for making a new one.

    Attributes
    ----------
    path : Path or Address
        The group.
    layout : dict
        Shapes, chunks and blocks.
    """

    kind: ClassVar[str]
    images: ClassVar[str]

    def __init__(
        self, path: Location, *, durable: bool = True, lock: RunLock | None = None
    ) -> None:
        self.path = path
        self.durable = durable
        self._objects = objects_at(path, durable=durable, assure=lock.assure if lock else None)
        attributes = read_attributes(path)
        if attributes is None or attributes.get("layout", {}).get("kind") != self.kind:
            raise InputError(
                f"{path} does not hold a stillstack {self.kind}.",
                cure="Give the folder that stillstack wrote.",
            )
        self._attributes = attributes
        self.layout: dict[str, Any] = attributes["layout"]

    @classmethod
    def resume(cls, lock: RunLock, *, durable: bool = True) -> Self:
        """Open to go on writing; removes temporary files that killed processes left."""
        _require(lock)
        store = cls(lock.path, durable=durable, lock=lock)
        store._objects.sweep()
        return store

    @classmethod
    def view(cls, path: str | Location) -> Self:
        """Open to look and verify; needs no lock and changes nothing."""
        return cls(located(path))

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the group."""
        return dict(self._attributes)

    @property
    def n_frames(self) -> int:
        """Frames of the stack."""
        return int(self.layout["n_frames"])

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Shape (y, x) of the input's frames."""
        y, x = self.layout["frame_shape"]
        return int(y), int(x)

    @property
    def block_frames(self) -> int:
        """Frames in each block but the last."""
        return int(self.layout["block_frames"])

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.n_frames // self.block_frames)

    def stage_frames(self, stage: str) -> int:
        """How many pictures a stage goes through: the stack's frames, or fewer sums of them."""
        return int(self.layout.get("stage_frames", {}).get(stage, self.n_frames))

    @property
    def complete(self) -> bool:
        """Whether `finish` was reached."""
        return self._attributes.get("complete") is True

    def block_range(self, block: int, stage: str = "") -> tuple[int, int]:
        """First frame of a block, and the one after its last; of a stage, where it is named."""
        start = block * self.block_frames
        return start, min(start + self.block_frames, self.stage_frames(stage))

    def blocks(self, stage: str = "") -> tuple[tuple[int, int], ...]:
        """All blocks' ranges of frames, in order; of a stage, where it is named."""
        n_blocks = -(-self.stage_frames(stage) // self.block_frames)
        return tuple(self.block_range(block, stage) for block in range(n_blocks))

    def writer(self) -> BlockWriter:
        """Return what a worker needs to write blocks: small, and it pickles."""
        return BlockWriter(
            path=portable(self.path),
            array=self.images,
            block_frames=self.block_frames,
            durable=self.durable,
        )

    def write_block(self, start: int, images: NDArray[Any]) -> tuple[StoredObject, ...]:
        """Write one block; see `BlockWriter.write`."""
        return self.writer().write(start, images)

    def ledger(self, stage: str) -> AnyLedger:
        """Ledger of a stage, to read or, by the holder of the lock alone, to append to."""
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", stage):
            msg = f"{stage!r} cannot be a stage: lower-case letters, digits, - and _ only"
            raise ValueError(msg)
        return ledger_of(self._objects, stage, durable=self.durable)

    def done_blocks(self, stage: str) -> dict[int, BlockRecord]:
        """Blocks that are done: the ledger says so, and every object has its size.

        Cheap enough for every start: one look at each object's size. `verify` reads them all.
        """
        records = self._records(stage)
        sizes = self._objects.sizes(
            [key for record in records.values() for key, _, _ in record.objects]
        )
        return {
            block: record
            for block, record in records.items()
            if all(sizes.get(key) == size for key, size, _ in record.objects)
        }

    def stages(self) -> tuple[str, ...]:
        """Names of the stages that have a ledger, sorted."""
        return stages_of(self._objects)

    def take_back(self, stage: str, blocks: Iterable[int]) -> None:
        """Let blocks count as not done, so that they are done again. For the lock's holder alone.

        The ledger is only ever appended to: a record of no frames takes back the ones before it.
        """
        starts = [(block, self.block_range(block, stage)[0]) for block in blocks]
        if self.complete:
            self.mark_unfinished()
        with self.ledger(stage) as ledger:
            for block, start in starts:
                ledger.append(BlockRecord(block, start, start))

    def glance(self, stage: str) -> Glance:
        """Return what a stage's ledger says, without rows, and without a look at any object."""
        seen = self.ledger(stage).glance()
        return Glance(self._whole(stage, seen.records), seen.n_earlier)

    def recorded_blocks(self, stage: str) -> set[int]:
        """Blocks that a stage's ledger has, whatever became of their objects."""
        return set(self._records(stage))

    def verify(
        self, stage: str, progress: Callable[[int], None] | None = None
    ) -> list[DamagedBlock]:
        """Blocks whose objects are missing, or hold other bytes than were written.

        Parameters
        ----------
        stage
            The stage that wrote them.
        progress
            Called with the index of each block when it has been read.
        """
        damaged = []
        for block, record in sorted(self._records(stage).items()):
            found = [self._objects.fault(stored) for stored in record.objects]
            faults = tuple(fault for fault in found if fault)
            if faults:
                damaged.append(DamagedBlock(block, record.start, record.stop, faults))
            if progress is not None:
                progress(block)
        return damaged

    def has(self, name: str) -> bool:
        """Whether the group has such an array."""
        return self._objects.size(f"{name}/{METADATA}") is not None

    def read(self, name: str) -> NDArray[Any]:
        """Whole array as it is stored, fill values included.

        Raises
        ------
        RunFaultError
            If a chunk is missing: all were written, and Zarr would take it for fill values.
        """
        array = self.open_array(name)
        missing = array.nchunks - array.nchunks_initialized
        if missing:
            raise RunFaultError(
                f"{missing} of {array.nchunks} chunks of {name} in {self.path} are missing.",
                consequence="What they held is not known.",
                cure="`stillstack verify` says whether it can be made again.",
            )
        return np.asarray(array[...])

    def damaged_arrays(self) -> dict[str, str]:
        """Arrays beside the images that cannot be read whole, and why."""
        found = {}
        for name in self._objects.names():
            if name not in (self.images, PYRAMID, RUN_FOLDER) and self.has(name):
                try:
                    self.read(name)
                except Exception as error:  # noqa: BLE001  # whatever Zarr makes of damage
                    found[name] = said_by(error)
        return found

    def open_array(self, name: str) -> zarr.Array[Any]:
        """Array of the group, to read."""
        store = self._objects.zarr_store()
        return zarr.open_array(store, path=name, mode="r", zarr_format=3)

    def write_note(self, name: str, value: Any) -> None:
        """Keep a JSON value in ``run/``, beside the result: timings, hosts, plans."""
        text = json.dumps(plain_json(value), indent=2).encode()
        self._objects.put(f"{RUN_FOLDER}/{name}.json", text)

    def read_note(self, name: str) -> Any:
        """Value of a note; None where there is none."""
        text = self._objects.read(f"{RUN_FOLDER}/{name}.json")
        return None if text is None else json.loads(text)

    def set_aside(self) -> dict[int, str]:
        """Why frames were set aside, by their number."""
        noted = self.read_note(SET_ASIDE_NOTE) or {}
        return {int(number): str(why) for number, why in noted.items()}

    def finish(self, **found: Any) -> None:
        """Declare the store complete, and consolidate its metadata, in one step.

        Parameters
        ----------
        **found
            Attributes that are known only at the end.
        """
        attributes = {**self._attributes, **found, "complete": True}
        metadata = group_metadata(attributes, member_metadata(self._objects))
        self._put_group(metadata, attributes)

    def mark_unfinished(self) -> None:
        """Take `finish` back, before anything is written again."""
        attributes = {**self._attributes, "complete": False}
        self._put_group(group_metadata(attributes), attributes)

    def _records(self, stage: str) -> dict[int, BlockRecord]:
        return self._whole(stage, self.ledger(stage).records())

    def _whole(self, stage: str, records: Mapping[int, BlockRecord]) -> dict[int, BlockRecord]:
        """Those records that are of whole blocks; others take such a record back."""
        return {
            block: record
            for block, record in records.items()
            if block >= 0 and self.block_range(block, stage) == (record.start, record.stop)
        }

    def _put_group(self, metadata: bytes, attributes: dict[str, Any]) -> None:
        self._objects.put(METADATA, metadata)
        self._attributes = attributes


def create_group(
    lock: RunLock,
    attributes: Mapping[str, Any],
    stage_arrays: Callable[[StagingStore], None],
    *,
    durable: bool,
) -> None:
    """Make a group: its arrays, then its own metadata, whose appearance makes it exist.

    What a killed process left of an earlier attempt is removed first.
    """
    _require(lock)
    objects = objects_at(lock.path, durable=durable, assure=lock.assure)
    if read_attributes(lock.path) is not None:
        msg = f"{lock.path} exists already: resume it."
        raise RunFaultError(msg)
    objects.put(f"{RUN_FOLDER}/{METADATA}", marker())
    objects.sweep()
    _remove_remains(objects)
    store = StagingStore.on(objects)
    try:
        stage_arrays(store)
    except BaseException:
        store.discard()
        raise
    store.commit()
    objects.put(METADATA, group_metadata(attributes))


def _remove_remains(objects: Objects) -> None:
    """Remove the arrays of a group that never came to exist, and nothing else."""
    remains = [name for name in objects.names() if name != RUN_FOLDER]
    foreign = [name for name in remains if not _is_array_remains(objects, name)]
    ledgers = [f"{RUN_FOLDER}/{n}" for n in objects.names(RUN_FOLDER) if n.startswith("ledger-")]
    if ledgers or foreign:
        raise InputError(
            f"{objects.place} holds {', '.join(ledgers or foreign)} but no {METADATA}.",
            consequence="It was left as it is: it may be a run that lost its metadata.",
            cure=f"Restore {METADATA}, move these files away, or choose another output.",
        )
    for name in remains:
        objects.remove(name)


def _is_array_remains(objects: Objects, name: str) -> bool:
    """Whether a name is a folder of nothing but metadata and chunks of an array, or of levels."""
    inside = set(objects.names(name)) - {METADATA, "c"}
    if name == PYRAMID:
        return all(_is_array_remains(objects, f"{name}/{level}") for level in inside)
    return objects.size(name) is None and not inside


def _require(lock: RunLock) -> None:
    if not lock.is_held:
        msg = f"The lock on {lock.path} is not held."
        raise RunFaultError(msg)
