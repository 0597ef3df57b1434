"""Stores of released versions stay readable, and runs that they left unfinished can be finished.

``tests/golden/run-VERSION`` holds what a version wrote: a complete run, an unfinished one, their
frames, and what the complete one is expected to say.

**When one of these tests fails**, people's stores of that version would fail alike. Mend the code
that reads (a new attribute, note or setting needs a default for stores that do not have it; a new
setting must not change the digest of configs that do not name it). Where that is not wanted, it is
a change of format: raise ``FORMAT`` in ``storage/template.py``, so that old stores are refused in
words and not misread; tell in the CHANGELOG and the README which versions stay readable; name the
version in ``REFUSED`` below; and add stores of the new one with
``python tests/golden/make_golden.py``. Stores of a version that has not been released yet are just
made again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden.make_golden import BLOCKS_DONE, FRAMES, N_FRAMES, SHAPE, config_of, place_frames
from stillstack.errors import InputError
from stillstack.report import write_report
from stillstack.run import open_run, run
from stillstack.storage import RunStore
from stillstack.verification import verify_store

GOLDEN = sorted(Path(__file__).with_name("golden").glob("run-*"))
REFUSED: frozenset[str] = frozenset()
"""Versions whose stores are refused, because the format has changed since."""

# Other machines round otherwise: shifts by much less than a thousandth of a pixel, and now and then
# one of 4096 values of an aligned frame by one count.
SHIFT_PX, SUM_COUNTS = 1e-5, 10.0


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what one version wrote, which the test may change."""
    kept: Path = request.param
    return Path(shutil.copytree(kept, tmp_path / kept.name))


def expected(golden: Path) -> dict[str, np.ndarray[Any, Any]]:
    found = json.loads((golden / "expected.json").read_text())
    return {name: np.array(values) for name, values in found.items()}


def refused(golden: Path) -> bool:
    """Whether stores of this version are refused; if so, in words."""
    if golden.name.removeprefix("run-") not in REFUSED:
        return False
    place_frames(golden)
    with pytest.raises(InputError, match="its format is"):
        run(config_of(str(golden / "complete.zarr")))
    return True


def test_there_are_golden_stores() -> None:
    assert GOLDEN


def test_a_complete_run_opens_and_says_what_it_said(golden: Path) -> None:
    if refused(golden):
        return
    found, known = open_run(golden / "complete.zarr"), expected(golden)
    assert found.sizes["frame"] == N_FRAMES
    assert found["aligned"].shape == (N_FRAMES, *SHAPE)
    good = found["status"].values & 0xFF == 0
    assert good.sum() == N_FRAMES - 1
    np.testing.assert_array_equal(found["status"], known["status"])
    np.testing.assert_array_equal(found["shift"].values[good], known["shift"][good])
    assert np.isnan(found["shift"].values[~good]).all()
    np.testing.assert_array_equal(found["aligned"].sum(("y", "x"), dtype=float), known["sum"])


def test_a_complete_run_is_verified_and_damage_is_found(golden: Path) -> None:
    if refused(golden):
        return
    assert verify_store(golden / "complete.zarr", take_back=False).sound
    chunk = next(f for f in sorted((golden / "complete.zarr/aligned/c").rglob("*")) if f.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    damaged = verify_store(golden / "complete.zarr", take_back=False).damaged
    assert [block.block for block in damaged] == [0]


def test_a_complete_run_is_reported(golden: Path) -> None:
    if refused(golden):
        return
    page = write_report(golden / "complete.zarr", golden / "page.html").read_text()
    assert f"{N_FRAMES - 1} of {N_FRAMES} frames are good" in page
    assert str(FRAMES) in page


def test_an_unfinished_run_is_finished_and_what_was_done_is_not_done_again(
    golden: Path, cluster_client: Any
) -> None:
    if refused(golden):
        return
    place_frames(golden)
    path, known = golden / "unfinished.zarr", expected(golden)
    ledger = path / "run" / "ledger-align.jsonl"
    before = ledger.read_text().splitlines()
    assert len(before) == BLOCKS_DONE
    found = run(config_of(str(path)))
    after = ledger.read_text().splitlines()
    assert after[:BLOCKS_DONE] == before
    assert len(after) == len(RunStore.view(path).blocks()) == 4
    good = known["status"] & 0xFF == 0
    np.testing.assert_array_equal(found["status"], known["status"])
    np.testing.assert_allclose(found["shift"].values[good], known["shift"][good], atol=SHIFT_PX)
    sums = found["aligned"].sum(("y", "x"), dtype=float)
    np.testing.assert_allclose(sums, known["sum"], rtol=0, atol=SUM_COUNTS)
    assert verify_store(path).sound


def test_a_complete_run_is_left_as_it_is_by_its_command(golden: Path, cluster_client: Any) -> None:
    if refused(golden):
        return
    place_frames(golden)
    path = golden / "complete.zarr"
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    run(config_of(str(path)))
    changed = [file for file, content in before.items() if file.read_bytes() != content]
    assert not changed
