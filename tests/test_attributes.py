"""What files say of themselves: labels that plots use, CF flags, and how the program is cited."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
import yaml

from stillstack import open_stack, prepare_reference, register
from stillstack.model import COLUMNS, Status, status_words
from stillstack.run import run

UNITS = {"pixel", "count", "1"}


@pytest.fixture
def result(cluster_client: Any, small_config: Any) -> xr.Dataset:
    return run(small_config)


def flags_of(status: xr.DataArray) -> list[list[str]]:
    """Meanings that are set, decoded as CF section 3.5 says."""
    masks = np.asarray(status.attrs["flag_masks"])
    meanings = status.attrs["flag_meanings"].split()
    assert len(masks) == len(meanings)
    return [
        [meaning for mask, meaning in zip(masks, meanings, strict=True) if value & mask == mask]
        for value in status.values
    ]


def test_every_variable_of_a_run_has_a_name_in_words_and_units(result: xr.Dataset) -> None:
    for name, variable in result.data_vars.items():
        assert variable.attrs["long_name"], name
        if variable.dtype == bool or name == "status":
            assert "units" not in variable.attrs
        else:
            assert variable.attrs["units"] in UNITS, name


def test_plots_are_labelled_with_names_and_units(result: xr.Dataset) -> None:
    figure, (drift, image) = plt.subplots(1, 2)
    try:
        line: Any = result["shift"].sel(axis="y").plot  # typed for another purpose
        frame: Any = result["aligned"].isel(frame=1).plot
        line(ax=drift)
        mesh = frame(ax=image)
        bar = mesh.colorbar.ax.get_ylabel()
        assert drift.get_xlabel() == "frame"
        assert " ".join(drift.get_ylabel().split()) == (
            "displacement to apply to the frame so that it lands on the reference [pixel]"
        )
        assert " ".join(bar.split()).endswith("lands on the reference [count]")
        assert image.get_ylabel() == "y"
    finally:
        plt.close(figure)


def test_flags_are_decoded_as_cf_says(result: xr.Dataset) -> None:
    found = flags_of(result["status"])
    assert found == [status_words(int(value)) for value in result["status"].values]
    assert ["blank"] in found
    assert {int(mask) for mask in result["status"].attrs["flag_masks"]} == {int(b) for b in Status}


def test_a_lazy_table_has_the_attributes_of_a_run(
    result: xr.Dataset, small_stack_file: Path
) -> None:
    stack = open_stack(small_stack_file)
    reference = prepare_reference(stack[0].values, max_shift_px=16)
    table = register(stack, reference)
    for column in COLUMNS:
        if column.name in table:
            assert table[column.name].attrs == {
                key: value
                for key, value in result[column.name].attrs.items()
                if key not in ("coordinates", "_FillValue")
            }


def test_the_citation_names_the_method_and_this_version() -> None:
    path = Path(__file__).parents[1] / "CITATION.cff"
    citation = yaml.safe_load(path.read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == importlib.metadata.version("stillstack")
    cited = {reference["doi"]: reference for reference in citation["references"]}
    padfield = cited["10.1109/TIP.2011.2181402"]
    assert padfield["authors"][0]["family-names"] == "Padfield"
    assert (padfield["year"], padfield["volume"], padfield["start"]) == (2012, 21, 2706)
    assert all(
        {"type", "title", "authors", "year"} <= reference.keys() for reference in cited.values()
    )
