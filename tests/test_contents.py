"""What a newcomer meets after ``import stillstack``: names that are there and show themselves."""

from __future__ import annotations

import subprocess
import sys
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

import stillstack
from stillstack.physics import pump_pairs
from stillstack.rows import Rows
from stillstack.simulation import SimulatedStack, simulate_pump_probe
from stillstack.tables import plan_rows


@pytest.mark.parametrize("name", ["run", "plan", "assess"])
def test_a_function_stays_one_when_the_module_of_its_name_is_imported(name: str) -> None:
    code = f"import stillstack.{name}, stillstack; print(type(stillstack.{name}).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["function"]
    assert isinstance(getattr(stillstack, name), FunctionType)


def test_rooms_need_no_import_of_their_own() -> None:
    code = "import stillstack; print(stillstack.physics.fit_centre.__name__, stillstack.tables)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fit_centre <module")
    assert {"physics", "pictures", "explore", "errors"} <= set(dir(stillstack))
    assert isinstance(stillstack.valid, ModuleType)
    with pytest.raises(AttributeError, match="no attribute 'phisics'"):
        _ = stillstack.phisics


def test_what_holds_arrays_shows_itself_in_a_line(small_stack: SimulatedStack) -> None:
    reference = stillstack.prepare_reference(small_stack.frame(0), small_stack.valid)
    pumped = simulate_pump_probe([0.0, 1.0], (64, 64))
    pairs = pump_pairs(pumped.coords["pump"] == "on", good=np.ones(len(pumped), bool))
    assert repr(small_stack) == "<SimulatedStack of 60 frames of 128 x 128, seed 4>"
    for shown in (reference, pumped, pairs):
        assert len(repr(shown)) < 120
        assert "\n" not in repr(shown)
    assert "128 x 128" in repr(reference)


def test_plan_takes_what_run_takes(small_config: Any) -> None:
    config = stillstack.RunConfig(**small_config)
    of_mapping, of_config = stillstack.plan(small_config), stillstack.plan(config)
    assert of_mapping.config == of_config.config
    np.testing.assert_array_equal(of_mapping.valid, of_config.valid)
    assert len(repr(of_config)) < 1000
    labels = [label for label, _ in plan_rows(of_config)]
    assert "valid" in labels
    assert "picture" not in labels


def test_rows_are_lines_in_a_terminal_and_a_table_in_a_notebook() -> None:
    rows = Rows([("frames", "96"), ("", "blank: <1>")])
    assert repr(rows) == "frames  96\n        blank: <1>"
    assert rows._repr_html_().count("<tr>") == 2
    assert "blank: &lt;1&gt;" in rows._repr_html_()
    assert repr(Rows()) == ""
