"""Docstrings: of numpydoc's form, and every example in them runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import warnings
from enum import Enum
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import xarray as xr
import yaml
from numpydoc.validate import validate
from pydantic import BaseModel

import stillstack
from stillstack.simulation import simulate_stack

ROOT = Path(stillstack.__path__[0])
NOT_ASKED_FOR = {
    "ES01": "an extended summary, where one line says it",
    "GL01": "a first line below the quotes, of which ruff says the contrary",
    "GL08": "a docstring of what is private or inherited: ruff knows better which",
    "PR04": "types, which are in the signature alone",
    "PR08": "a capital letter before a field's word such as dtype",
    "RT01": "a section of what is returned, which the first line says",
    "RT03": "a description beside what is returned, which is one already",
    "SA01": "a section See Also",
    "SS05": "a verb; it takes every noun that ends in s for one, and the house begins with a noun",
    "YD01": "a section of what is yielded, likewise",
}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(stillstack.__path__, "stillstack.")
    if not module.name.endswith("__main__")
)


def source_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


WITH_EXAMPLES = [name for name in MODULES if ">>> " in source_of(name).read_text("utf-8")]


def faults(name: str, also_ignored: set[str]) -> list[str]:
    ignored = NOT_ASKED_FOR.keys() | also_ignored
    found = validate(name)["errors"]
    return [f"{name}: {code} {what}" for code, what in found if code not in ignored]


@pytest.mark.parametrize("name", stillstack.__all__)
def test_what_is_public_says_what_it_is_and_shows_how_it_is_used(name: str) -> None:
    known = getattr(stillstack, name)
    # settings and bits say each of themselves; of a class the examples are where it is made
    described_elsewhere = inspect.isclass(known) and issubclass(known, Enum | BaseModel)
    ignored = {"PR01"} if described_elsewhere else set()
    ignored |= {"EX01"} if inspect.isclass(known) else set()
    assert faults(f"{known.__module__}.{known.__qualname__}", ignored) == []


@pytest.mark.parametrize("module", MODULES)
def test_no_docstring_tells_of_parameters_that_are_not_there_or_breaks_the_form(
    module: str,
) -> None:
    members = vars(importlib.import_module(module)).items()
    own = [
        name
        for name, value in members
        if getattr(value, "__module__", None) == module
        and not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
    ]
    ignored = {"EX01", "PR01", "RT04"}
    assert [fault for name in own for fault in faults(f"{module}.{name}", ignored)] == []


@pytest.fixture(scope="module")
def folder(local_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder as the examples have it: frames of two delays, a config, and the run of it."""
    folder = tmp_path_factory.mktemp("examples")
    simulated = simulate_stack(24, (96, 96), seed=2, drift_px=2.0, planted=False)
    frames = xr.DataArray(
        simulated.read(0, 24),
        dims=("frame", "y", "x"),
        coords={"delay": ("frame", np.arange(24) % 2 * 1.5)},
        name="frames",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr's about consolidated metadata
        frames.chunk(frame=1).to_dataset().to_zarr(folder / "frames.zarr")
    settings = {
        "input": {"path": "frames.zarr"},
        "output": {"path": "run7.zarr"},
        "registration": {"max_shift_px": 8},
    }
    (folder / "run7.yaml").write_text(yaml.safe_dump(settings))
    client: Any = distributed.Client  # not typed
    with client(local_cluster, set_as_default=True):
        stillstack.run(folder / "run7.yaml")
    return folder


@pytest.fixture
def there(folder: Path, cluster_client: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in that folder, with a Client."""
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_every_example_runs_and_prints_what_it_says(module: str, there: Path) -> None:
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_no_example_is_left_out() -> None:
    skipped = [name for name in MODULES if "doctest: +SKIP" in source_of(name).read_text("utf-8")]
    assert skipped == []
