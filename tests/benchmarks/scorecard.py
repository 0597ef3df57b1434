"""Rows of a benchmark's table: what must be reached, what was found, and whether it is enough."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import platform
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

REACHED, MISSED, STATED = "reached", "**missed**", ""
PACKAGES = ("stillstack", "scikit-image", "SimpleITK", "numpy", "scipy", "numba")


@dataclass(frozen=True)
class Row:
    """One line of a table. ``reached`` is None where a figure is stated and nothing required."""

    cells: tuple[str, ...]
    must: str = ""
    reached: bool | None = None

    @property
    def verdict(self) -> str:
        """The last column."""
        return STATED if self.reached is None else (REACHED if self.reached else MISSED)


def options(description: str | None, extra: Sequence[tuple[str, type, object]] = ()) -> Namespace:
    """Command line of a benchmark."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--short", action="store_true", help="fewer frames and runs")
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if anything is missed")
    for name, kind, default in extra:
        parser.add_argument(name, type=kind, default=default)
    return parser.parse_args()


def header(program: str, chosen: Namespace) -> str:
    """Command, date, machine and versions, in one sentence."""
    flags = " --short" if chosen.short else ""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"`python tests/benchmarks/{program}{flags}`, {dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, "
        f"{platform.machine()}, Python {platform.python_version()}, {', '.join(versions)}."
    )


def table(titles: Sequence[str], rows: Iterable[Row]) -> list[str]:
    """Lines of a Markdown table with the columns *must reach* and its verdict at the end."""
    return [
        f"| {' | '.join((*titles, 'must reach', ''))} |",
        "|---" * (len(titles) + 2) + "|",
        *(f"| {' | '.join((*row.cells, row.must, row.verdict))} |" for row in rows),
    ]


def finish(lines: Sequence[str], rows: Sequence[Row], chosen: Namespace) -> None:
    """Print and write the tables; count what was missed, and exit with 1 for it if strict."""
    missed = sum(row.reached is False for row in rows)
    judged = sum(row.reached is not None for row in rows)
    text = "\n".join([*lines, "", f"{judged - missed} of {judged} figures reached."]) + "\n"
    sys.stdout.write(text)
    if chosen.out:
        chosen.out.write_text(text)
    if missed and chosen.strict:
        raise SystemExit(1)
