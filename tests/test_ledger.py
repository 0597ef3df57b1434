"""The ledger: every bit comes back, and what was torn or damaged does not count."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillstack.model import TABLE_DTYPE, empty_table
from stillstack.storage.ledger import (
    BlockRecord,
    Ledger,
    decode_record,
    encode_record,
    read_records,
)
from stillstack.storage.objects import StoredObject


def table(n_rows: int, seed: int) -> NDArray[np.void]:
    """Rows of random bits: every NaN payload and every sign of zero may occur."""
    data = np.random.default_rng(seed).bytes(n_rows * TABLE_DTYPE.itemsize)
    return np.frombuffer(data, TABLE_DTYPE)


def record(block: int, n_rows: int = 3) -> BlockRecord:
    start = block * n_rows
    objects = (StoredObject(f"aligned/c/{block}/0/0", 4000 + block, "0123abcd"),)
    return BlockRecord(
        block,
        start,
        start + n_rows,
        table(n_rows, block),
        objects,
        seconds=0.25,
        worker='node "7", é\n',
        finished=1.7e9,
        counts={"read": 12.0},
    )


def same(a: BlockRecord, b: BlockRecord) -> bool:
    rows = (a.rows is None) == (b.rows is None)
    if a.rows is not None and b.rows is not None:
        rows = a.rows.tobytes() == b.rows.tobytes()
    names = ("block", "start", "stop", "objects", "seconds", "worker", "finished", "counts")
    return rows and all(getattr(a, name) == getattr(b, name) for name in names)


@given(
    n_rows=st.integers(0, 20),
    seed=st.integers(0, 2**32 - 1),
    worker=st.text(max_size=20),
    seconds=st.floats(0, 1e6),
    objects=st.lists(
        st.builds(StoredObject, st.text(max_size=9), st.integers(0, 2**40), st.text(max_size=9)),
        max_size=3,
    ),
)
def test_a_record_comes_back_bit_for_bit(
    n_rows: int, seed: int, worker: str, seconds: float, objects: list[StoredObject]
) -> None:
    given = BlockRecord(
        3, 7, 7 + n_rows, table(n_rows, seed), tuple(objects), seconds, worker, 1.5, {"a": 2.0}
    )
    line = encode_record(given)
    assert b"\n" not in line
    assert json.loads(line)["record"]["start"] == 7, "any JSON reader can read it"
    found = decode_record(line)
    assert found is not None
    assert same(found, given)


def test_a_record_without_rows_comes_back(tmp_path: Path) -> None:
    given = BlockRecord(0, 0, 8)
    found = decode_record(encode_record(given))
    assert found is not None
    assert same(found, given)


@pytest.mark.parametrize("rows", [table(2, 0), np.zeros(3), np.zeros((3, 1), TABLE_DTYPE)])
def test_rows_that_are_not_the_blocks_are_refused(rows: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="are not the table of frames 0 to 3"):
        encode_record(BlockRecord(0, 0, 3, rows))


def test_a_line_torn_at_any_byte_does_not_count_and_the_next_one_does(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, durable=False) as ledger:
        ledger.append(record(0, 1))
    whole = path.read_bytes()
    line = encode_record(record(1, 1)) + b"\n"
    for length in range(len(line) + 1):
        path.write_bytes(whole + line[:length])
        survived = [0, 1] if length >= len(line) - 1 else [0]  # only the newline may be missing
        assert list(read_records(path)) == survived
        with Ledger(path, durable=False) as ledger:
            ledger.append(record(2, 1))
            ledger.append(record(3, 1))
        found = read_records(path)
        assert list(found) == [*survived, 2, 3]
        assert all(same(found[block], record(block, 1)) for block in found)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_costs_its_own_line_only(position: int, bit: int) -> None:
    lines = [encode_record(record(block)) for block in range(3)]
    data = bytearray(b"\n".join([*lines, b""]))
    position %= len(data)
    data[position] ^= 1 << bit
    found = [decode_record(line) for line in bytes(data).split(b"\n")]
    kept = [decoded for decoded in found if decoded is not None]
    assert len(kept) >= 1
    assert all(same(decoded, record(decoded.block)) for decoded in kept)
    at_newline = position in {len(lines[0]), len(lines[0]) + 1 + len(lines[1]), len(data) - 1}
    assert len(kept) == 2 or at_newline


def test_zeros_where_the_power_failed_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(encode_record(record(0)) + b"\n" + bytes(4096))
    with Ledger(path) as ledger:
        ledger.append(record(1))
        assert list(ledger.records()) == [0, 1]


def test_rows_of_another_table_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    line = encode_record(record(0))
    monkeypatch.setattr("stillstack.storage.ledger._TABLE_CHECK", "00000000")
    assert decode_record(line) is None


def test_the_last_record_of_a_block_counts(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append(BlockRecord(4, 16, 20, empty_table(4), worker="first"))
        ledger.append(BlockRecord(4, 16, 20, empty_table(4), worker="second"))
        assert ledger.records()[4].worker == "second"


def test_no_file_is_no_records_and_reading_makes_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.records() == {}
    assert not list(tmp_path.iterdir())


def test_a_record_is_on_disk_when_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    with Ledger(path) as ledger:
        for block in range(3):
            ledger.append(record(block))
            assert sizes[-1] == path.stat().st_size > 0
        assert ledger.seconds_syncing > 0


def test_after_a_full_disk_the_next_record_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def half(descriptor: int, data: Any) -> int:
        if len(data) > 100:
            return write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append(record(0))
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space left"):
            ledger.append(record(1))
        monkeypatch.undo()
        ledger.append(record(2))
        assert list(ledger.records()) == [0, 2]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append(record(0))
    assert same(read_records(tmp_path / "ledger.jsonl")[0], record(0))
