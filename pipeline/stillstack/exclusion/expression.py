"""Conditions over per-frame coordinates, such as ``delay > 5 and monitor < 100``."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.model import FRAME

# What compares and combines; nothing that calls, looks up or assigns: a config is data.
_ALLOWED: Final = (
    ast.Expression,
    ast.BoolOp,
    ast.boolop,
    ast.UnaryOp,
    ast.unaryop,
    ast.BinOp,
    ast.operator,
    ast.Compare,
    ast.cmpop,
    ast.Name,
    ast.expr_context,
    ast.Constant,
    ast.List,
    ast.Tuple,
)


def frames_where(
    expression: str, coords: Mapping[str, NDArray[Any]], n_frames: int
) -> NDArray[np.bool_]:
    """Return which frames meet a condition.

    Parameters
    ----------
    expression
        Comparisons of coordinates, and of ``frame`` (the number), joined by ``and``, ``or``,
        ``not``, ``in`` and arithmetic, as :meth:`pandas.DataFrame.eval` knows them. A name that is
        no identifier goes between backticks. Times are compared with text:
        ``time > '2026-01-31T12:00'``.
    coords
        Per-frame coordinates, each of shape (frame,).
    n_frames
        Number of frames.

    Returns
    -------
    ndarray of bool, shape (frame,). Of comparisons with NaN only ``!=`` is met.

    Raises
    ------
    InputError
        When it cannot be evaluated, calls anything, or is no condition.

    Examples
    --------
    >>> delay = np.array([0.0, 2.0, 4.0, np.nan])
    >>> frames_where("delay > 1 and frame != 2", {"delay": delay}, 4)
    array([False,  True, False, False])
    """
    import pandas as pd

    expression = re.sub(r"\s*\n\s*", " ", expression.strip())  # YAML may fold it over lines
    columns = {FRAME: np.arange(n_frames), **{name: np.asarray(v) for name, v in coords.items()}}
    _refuse_more_than_conditions(expression, columns)
    table = pd.DataFrame(columns)
    try:
        met = table.eval(
            expression, engine="python", parser="pandas", local_dict={}, global_dict={}
        )
    # pandas raises whatever its parts do, and all of it is what was written
    except Exception as error:
        raise _refused(expression, str(error).split("\n")[0], coords) from error
    if np.shape(met) != (n_frames,) or np.asarray(met).dtype != bool:
        kind = np.asarray(met).dtype
        raise _refused(expression, f"it is no condition: its value is of type {kind}", coords)
    found: NDArray[np.bool_] = np.asarray(met, bool)
    return found


def _refuse_more_than_conditions(expression: str, coords: Mapping[str, Any]) -> None:
    try:
        tree = ast.parse(re.sub(r"`[^`]*`", "coordinate", expression), mode="eval")
    except SyntaxError as error:
        raise _refused(expression, error.msg, coords) from error
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            what = type(node).__name__.lower()
            raise _refused(expression, f"it has a {what}, and only conditions are allowed", coords)
        if isinstance(node, ast.Compare):
            _refuse_number_for_time(expression, [node.left, *node.comparators], coords)


def _refuse_number_for_time(
    expression: str, compared: list[ast.expr], coords: Mapping[str, Any]
) -> None:
    """Refuse what pandas would take for nanoseconds since 1970."""
    names = [node.id for node in compared if isinstance(node, ast.Name)]
    clocks = [name for name in names if name in coords and coords[name].dtype.kind == "M"]
    numbers = [
        n.value for n in compared if isinstance(n, ast.Constant) and not isinstance(n.value, str)
    ]
    if clocks and numbers:
        why = f"{clocks[0]} holds dates, and {numbers[0]!r} is a number; write '2026-01-31T12:00'"
        raise _refused(expression, why, coords)


def _refused(expression: str, why: str, coords: Mapping[str, Any]) -> InputError:
    known = ", ".join(sorted({FRAME, *coords}))
    return InputError(
        f"exclude.expression, {expression!r}, cannot be evaluated: {why}.",
        consequence="Which frames to leave out cannot be told.",
        cure=f"Compare coordinates ({known}) with values, such as frame > 100 and frame < 200.",
    )
