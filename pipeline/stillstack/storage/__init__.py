"""The one place that reads and writes Zarr.

A run, from the coordinator's side::

    with lock_run(path) as lock:
        state = inspect_output(path, config_digest=..., source_fingerprint=..., config=...)
        if state == "new":
            store = RunStore.create(lock, RunTemplate(...))
        else:
            store = RunStore.resume(lock)
        done = store.done_blocks("align")
        with store.ledger("align") as ledger:
            ...  # workers: objects = store.writer().write(start, images)
            ledger.append(BlockRecord(block, start, stop, rows, objects))
        store.write_table(store.fold_rows("align"))
        store.finish()
"""

from stillstack.storage.arrays import PYRAMID
from stillstack.storage.blocks import CHUNKS_IN_FLIGHT, BlockWriter, BlockWriting
from stillstack.storage.blockstore import BlockStore, DamagedBlock
from stillstack.storage.cloud import check_reachable
from stillstack.storage.digest import digest_store
from stillstack.storage.identity import OutputState, inspect_output, read_attributes, refuse_foreign
from stillstack.storage.ledger import AnyLedger, BlockRecord, Glance, Ledger
from stillstack.storage.locking import RunLock, lock_run
from stillstack.storage.multiscales import Axes, display_window
from stillstack.storage.objects import StoredObject
from stillstack.storage.places import file_beside
from stillstack.storage.prepared import HELD_REFERENCES
from stillstack.storage.reductionstore import (
    GroupWriter,
    ReductionStore,
    ReductionTemplate,
    open_reduction,
)
from stillstack.storage.runstore import RunStore, open_run
from stillstack.storage.sharing import meet, meeting_place, unmet
from stillstack.storage.space import (
    check_space,
    check_writable,
    free_bytes,
    nearest_folder,
)
from stillstack.storage.stack import StackStore, create_stack, open_block_store
from stillstack.storage.template import RunTemplate
from stillstack.storage.writer import Writer, find_writer

__all__ = [
    "CHUNKS_IN_FLIGHT",
    "HELD_REFERENCES",
    "PYRAMID",
    "AnyLedger",
    "Axes",
    "BlockRecord",
    "BlockStore",
    "BlockWriter",
    "BlockWriting",
    "DamagedBlock",
    "Glance",
    "GroupWriter",
    "Ledger",
    "OutputState",
    "ReductionStore",
    "ReductionTemplate",
    "RunLock",
    "RunStore",
    "RunTemplate",
    "StackStore",
    "StoredObject",
    "Writer",
    "check_reachable",
    "check_space",
    "check_writable",
    "create_stack",
    "digest_store",
    "display_window",
    "file_beside",
    "find_writer",
    "free_bytes",
    "inspect_output",
    "lock_run",
    "meet",
    "meeting_place",
    "nearest_folder",
    "open_block_store",
    "open_reduction",
    "open_run",
    "read_attributes",
    "refuse_foreign",
    "unmet",
]
