"""The notebooks: stored without outputs, every cell of each runs, and what they find is right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Jupyter's own packages warn of their future.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"
)


def read(path: Path) -> Any:
    untyped: Any = nbformat.read
    return untyped(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


class Executed:
    """A notebook whose cells have run, in a folder of its own, and what one more cell printed."""

    def __init__(self, name: str, folder: Path, environment: pytest.MonkeyPatch, ask: str) -> None:
        environment.setenv("TMPDIR", str(folder))
        environment.setenv("IPYTHONDIR", str(folder / "ipython"))
        notebook = read(FOLDER / f"{name}.ipynb")
        plain = "lambda value: numpy.asarray(value).tolist()"
        question = f"import json, numpy\nprint(json.dumps({{{ask}}}, default={plain}))"
        new_cell: Any = nbformat.v4.new_code_cell  # untyped
        notebook.cells.append(new_cell(question))
        where = {"metadata": {"path": str(folder)}}
        client = nbclient.NotebookClient(
            notebook, timeout=240, kernel_name="python3", resources=where
        )
        client.execute()
        *cells, last = code_cells(notebook)
        outputs = [output for cell in cells for output in cell.outputs]
        # warnings are written there, too
        self.errors = [output.text for output in outputs if output.get("name") == "stderr"]
        self.pictures = sum("image/png" in output.get("data", {}) for output in outputs)
        self.printed = "".join(o.text for o in outputs if o.get("name") == "stdout")
        self.found: dict[str, Any] = json.loads(last.outputs[0].text)


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a notebook by its name; further arguments are Python, whose values are asked for."""

    def executed(name: str, *ask: str) -> Executed:
        pairs = ", ".join(f"{expression!r}: {expression}" for expression in ask)
        done = Executed(name, tmp_path, monkeypatch, pairs)
        assert done.errors == []
        return done

    return executed


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Any:
    """Each notebook of the repository."""
    return read(request.param)


def test_notebooks_are_numbered_without_a_gap_and_the_readme_links_each() -> None:
    assert [int(path.stem.partition("-")[0]) for path in NOTEBOOKS] == [1, 2, 3, 4, 5, 6]
    linked = re.findall(
        r"\(notebooks/([\w-]+)\.ipynb\)", (FOLDER.parent / "README.md").read_text("utf-8")
    )
    assert sorted(set(linked)) == [path.stem for path in NOTEBOOKS]


def test_it_is_stored_without_outputs(notebook: Any) -> None:
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_its_cells_are_short(notebook: Any) -> None:
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= 20


def test_the_quickstart_finds_the_shifts_and_the_bad_frames(execute: Any) -> None:
    done = execute("1-quickstart", "rms", "predicted")
    assert 0.7 < done.found["rms"] / done.found["predicted"] < 1.4
    assert done.pictures == 3
    rejected = [line for line in done.printed.splitlines() if "planted:" in line]
    assert len(rejected) == 4
    assert all(re.search("planted: (blank|saturated|noise|jumped)", line) for line in rejected)


def test_valid_pixels_are_saved_as_they_were_drawn_and_are_worth_it(execute: Any) -> None:
    done = execute(
        "2-valid-pixels",
        "float((plan.valid == valid).mean())",
        "bool((from_image == valid).all())",
        "bool(valid[frames.mean(axis=0) > 850].any() or valid[:, 200].any())",
        "bool((block & ~valid).sum() > 0.9 * block.sum())",
        "rms",
        "float(error_bars['without defects too'].mean())",
    )
    same, same_image, kept_defects, block_is_out, rms, error_bar = done.found.values()
    assert same > 0.999
    assert same_image
    assert not kept_defects
    assert block_is_out
    assert "inverted: valid.frames" in done.printed
    assert rms["every pixel"] > 10 * rms["without defects too"]
    assert 0.7 < rms["without defects too"] / error_bar < 1.4
    assert done.pictures == 4


def test_reading_a_run_shows_what_was_planted_and_how_sure_it_is(execute: Any) -> None:
    done = execute(
        "3-reading-a-run",
        "worst",
        "truth.rejects",
        "good.sum()",
        "pull.std()",
        "checks.sharpness_gain",
        "left.rms_px - left.noise_px",
        "float(chi2.mean())",
    )
    worst, planted, n_good, width, gain, left, chi2 = done.found.values()
    assert worst[: len(planted)] == planted
    assert n_good == 120 - len(planted)
    assert 0.8 < width < 1.25
    assert gain > 1.2
    assert left < 0.005
    assert 0.9 < chi2 < 1.1
    assert done.pictures == 7


def test_physics_recovers_the_signal_that_was_simulated(execute: Any) -> None:
    done = execute(
        "4-physics",
        "pairs.n_used",
        "pairs.n_left_out",
        "fitted",
        "fitted_std",
        "[true_height, RISE]",
        "(change - true_height * simulation.pump_response(delay, RISE)) / sigma",
        "sigma / physics.azimuthal_average(signal, centre).standard_error"
        ".sel(radius=slice(ring - 3, ring + 3)).mean('radius') * 7**0.5",
        "{name: float(value) for name, value in at_end.items()}",
        "float(np.isfinite(coverage)[~truth.valid].mean())",
    )
    n_used, n_left_out, fitted, std, true, pull, jackknifed, at_end, seen = done.found.values()
    assert (n_used, n_left_out) == (178, 2)
    for value, error, truth in zip(fitted, std, true, strict=True):
        assert abs(value - truth) < 4 * error < 0.1 * abs(truth)
    assert max(map(abs, pull)) < 4
    # errors from ten scans, over those that single pixels' noise gives, known to a quarter each
    assert 0.7 < sum(jackknifed) / len(jackknifed) < 1.4
    assert abs(at_end["registered"] / at_end["truth"] - 1) < 0.03
    assert at_end["not registered"] / at_end["truth"] < 0.93
    assert seen > 0.2  # of what the beam-block hides in one frame
    assert done.pictures == 5


def test_a_cluster_is_examined_and_used_from_a_notebook(execute: Any) -> None:
    done = execute(
        "5-cluster",
        "[plan.errors, plan.valid.mean()]",
        "diagnosis.exit_code",
        "{check.name: check.state for check in diagnosis.checks}",
        "{check.name: check.state for check in of_client.checks}",
        "bool(again['shift'].equals(run['shift']))",
        "[simulated.rejects, stillstack.is_good(run.status).values.nonzero()[0]]",
        "cluster.status.name",
    )
    planned, exit_code, of_run, of_client, same, (rejects, good), state = done.found.values()
    assert planned[0] == []
    assert exit_code == 0
    assert set(of_run.values()) == {"good"}
    # what workers that were started by hand lack
    assert {name for name, told in of_client.items() if told != "good"} == {"threads"}
    assert same
    assert sorted({*rejects, *good}) == list(range(160))
    assert not {*rejects} & {*good}
    assert "dashboard: http://" in done.printed
    assert state == "closed"
    assert done.pictures == 3


def test_chromium_moves_where_the_truth_is_and_not_where_an_unmasked_correlation_says(
    execute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STILLSTACK_REAL_FRAMES", raising=False)
    done = execute("6-chromium", "truth", "shift", "sigma", "unmasked", "rms")
    truth, shift, sigma, unmasked, rms = done.found.values()
    assert "A simulated scene" in done.printed
    assert max(abs(a - b) for a, b in zip(shift, truth, strict=True)) < 4 * max(sigma) < 0.1
    assert min(abs(a - b) for a, b in zip(unmasked, truth, strict=True)) > 4
    assert rms["aligned with valid pixels"] < 0.3 * rms["as recorded"]
    assert rms["aligned without valid pixels"] > 0.9 * rms["as recorded"]
    assert done.pictures == 5


def test_real_chromium_loses_its_rings_too(
    execute: Any, real_frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLSTACK_REAL_FRAMES", str(real_frames))
    done = execute("6-chromium", "truth", "shift", "unmasked", "rms")
    truth, shift, unmasked, rms = done.found.values()
    assert truth is None
    assert "Real frames" in done.printed
    # a masked correlation of another program says (3, 5) whole pixels
    assert max(abs(a - b) for a, b in zip(shift, (3, 5), strict=True)) < 1
    assert max(map(abs, unmasked)) < 0.2
    assert rms["aligned with valid pixels"] < 0.5 * rms["as recorded"]
    assert rms["aligned without valid pixels"] > 0.9 * rms["as recorded"]
