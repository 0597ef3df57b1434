"""The quickstart notebook: stored without outputs, and every cell of it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    """Each notebook of the repository."""
    read: Any = nbformat.read  # untyped
    return read(request.param, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_quickstart() -> None:
    assert "quickstart" in [path.stem for path in NOTEBOOKS]


def test_it_is_stored_without_outputs(notebook: Any) -> None:
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_its_cells_are_short(notebook: Any) -> None:
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= 20


# jupyter's own packages warn of their future; numba of the kernel's caches
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_every_cell_runs_and_the_result_is_right(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    client = nbclient.NotebookClient(
        notebook,
        timeout=240,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    errors = [output.text for output in outputs if output.get("name") == "stderr"]
    assert errors == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    found = re.search(r"error ([\d.]+) px rms, predicted ([\d.]+) px", printed)
    assert found is not None
    error, predicted = map(float, found.groups())
    assert 0.7 * predicted < error < 1.4 * predicted
    rejected = [line for line in printed.splitlines() if "planted:" in line]
    assert len(rejected) == 4
    assert all(re.search("planted: (blank|saturated|noise|jumped)", line) for line in rejected)
