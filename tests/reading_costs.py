"""What a piece of work reads from files and takes of memory, as the kernel counts it."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from stillstack.sources import open_source, open_stack


@dataclass
class Costs:
    """Bytes that were read through system calls, and by which the resident memory grew."""

    read: int = 0
    resident: int = 0


def _read_so_far() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


@contextlib.contextmanager
def costs() -> Iterator[Costs]:
    """Count what is read and kept inside; known when it ends. Imports are to be made before."""
    found, process = Costs(), psutil.Process()
    read, resident = _read_so_far(), process.memory_info().rss
    yield found
    found.read = _read_so_far() - read
    found.resident = process.memory_info().rss - resident


def opened_lightly(path: str | Path, *, most_read: int) -> bytes:
    """Open a stack, and hold it to reading no frame and travelling light; it, as it travels."""
    open_source(path)  # whatever is imported is
    with costs() as found:
        travelling = pickle.dumps(open_stack(path))
    assert found.read < most_read
    assert found.resident < 8 * 2**20
    assert len(travelling) < 20_000
    return travelling
