"""Damage to what was written is found by its checksums, and only what is damaged is made again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from stillstack.cli import app
from stillstack.errors import InputError
from stillstack.ingest import StackOptions, ingest
from stillstack.run import run
from stillstack.sources import open_source
from stillstack.storage import RunStore, lock_run
from stillstack.verification import verify_store
from stores import stored

pytestmark = pytest.mark.usefixtures("cluster_client")


@pytest.fixture
def finished(small_config: Any) -> Path:
    """Path of a run that is complete."""
    run(small_config)
    return Path(small_config["output"]["path"])


def blocks_in_ledger(path: Path) -> list[int]:
    lines = (path / "run" / "ledger-align.jsonl").read_text().splitlines()
    return [json.loads(line)["record"]["block"] for line in lines]


def chunks(path: Path, array: str = "aligned") -> list[Path]:
    """Chunks of one frame each, in the frames' order."""
    files = (file for file in (path / array / "c").rglob("*") if file.is_file())
    return sorted(files, key=lambda file: int(file.relative_to(path / array / "c").parts[0]))


def block_of(chunk: Path, path: Path) -> int:
    frame = int(chunk.relative_to(path / "aligned" / "c").parts[0])
    return frame // RunStore.view(path).block_frames


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    file.write_bytes(data)


def test_a_sound_run_is_called_sound_and_not_touched(finished: Path) -> None:
    before = stored(finished), blocks_in_ledger(finished)
    found = verify_store(finished)
    assert found.sound and found.complete and not found.taken_back  # noqa: PT018
    assert (stored(finished), blocks_in_ledger(finished)) == before


def test_twenty_of_twenty_flipped_bits_are_found_and_repaired(
    finished: Path, small_config: Any
) -> None:
    sound, rng = stored(finished), np.random.default_rng(4)
    hit = set()
    for chunk in rng.choice(np.array(chunks(finished), object), 20, replace=False):
        flip(chunk, int(rng.integers(8 * chunk.stat().st_size)))
        hit.add(block_of(chunk, finished))
    n_faults = sum(
        len(damaged.faults) for damaged in verify_store(finished, take_back=False).damaged
    )
    assert n_faults == 20

    n_before = len(blocks_in_ledger(finished))
    assert {damaged.block for damaged in verify_store(finished).damaged} == hit
    n_taken = len(blocks_in_ledger(finished)) - n_before
    assert n_taken == len(hit)
    run(small_config)

    again = blocks_in_ledger(finished)[n_before + n_taken :]
    assert sorted(again) == sorted(hit)  # these blocks, each once, and no other
    assert stored(finished) == sound
    assert verify_store(finished).sound


@pytest.mark.parametrize("damage", ["truncated", "deleted"])
def test_what_lost_bytes_is_found_and_repaired(
    finished: Path, small_config: Any, damage: str
) -> None:
    sound, chunk = stored(finished), chunks(finished)[7]
    if damage == "deleted":
        chunk.unlink()
    else:
        os.truncate(chunk, chunk.stat().st_size // 2)
    (damaged,) = verify_store(finished).damaged
    assert damaged.block == block_of(chunk, finished)
    run(small_config)
    assert stored(finished) == sound


def test_looking_alone_changes_nothing(finished: Path) -> None:
    flip(chunks(finished)[3], 99)
    before = stored(finished), blocks_in_ledger(finished)
    found = verify_store(finished, take_back=False)
    assert len(found.damaged) == 1
    assert not found.taken_back
    assert (stored(finished), blocks_in_ledger(finished)) == before


def test_a_damaged_table_is_made_again_from_the_ledger(finished: Path, small_config: Any) -> None:
    sound, n_before = stored(finished), len(blocks_in_ledger(finished))
    flip(finished / "shift" / "c" / "0" / "0", 200)
    found = verify_store(finished)
    assert found.beside
    assert not found.lost
    run(small_config)
    assert stored(finished) == sound
    assert len(blocks_in_ledger(finished)) == n_before  # no frame was registered again


def test_a_lost_line_of_the_ledger_is_seen(finished: Path, small_config: Any) -> None:
    sound, ledger = stored(finished), finished / "run" / "ledger-align.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    lost = json.loads(lines.pop(4))["record"]["block"]
    ledger.write_bytes(b"".join(lines))
    assert verify_store(finished).missing == (lost,)
    run(small_config)
    assert stored(finished) == sound


def test_a_damaged_reference_cannot_be_made_again_and_it_says_so(finished: Path) -> None:
    flip(finished / "reference" / "c" / "0" / "0", 3000)
    result = CliRunner().invoke(app, ["verify", str(finished)])
    assert result.exit_code == 1
    assert "new output" in result.stderr


def test_a_run_that_is_being_written_is_only_looked_at(finished: Path) -> None:
    with lock_run(finished):
        with pytest.raises(InputError, match="is being written"):
            verify_store(finished)
        assert verify_store(finished, take_back=False).sound


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        verify_store(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_the_command_says_which_frames_and_exits_with_1(finished: Path) -> None:
    sound = CliRunner().invoke(app, ["verify", str(finished)])
    assert sound.exit_code == 0, sound.output
    flip(chunks(finished)[8], 640)
    damaged = CliRunner().invoke(app, ["verify", "--json", str(finished)])
    assert damaged.exit_code == 1
    (found,) = json.loads(damaged.stdout)["damaged"]
    assert found["start"] <= 8 < found["stop"]
    assert "again" in damaged.stderr


def test_a_stack_is_verified_and_repaired_too(small_stack_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "stack.zarr"
    ingest(open_source(str(small_stack_file)), path, StackOptions(chunk_frames=1))
    sound = stored(path)
    assert verify_store(path).sound
    flip(chunks(path, "frames")[31], 5000)
    (damaged,) = verify_store(path).damaged
    assert damaged.start <= 31 < damaged.stop
    ingest(open_source(str(small_stack_file)), path, StackOptions(chunk_frames=1))
    assert stored(path) == sound
