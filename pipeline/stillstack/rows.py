"""Labelled lines: what the commands print, and what a notebook shows of the same."""

from __future__ import annotations

import html


class Rows(list[tuple[str, str]]):
    """Pairs of a label and a text, shown as a table in a notebook and as lines elsewhere.

    Examples
    --------
    >>> Rows([("frames", "96"), ("good", "92")])
    frames  96
    good    92
    """

    def __repr__(self) -> str:
        width = max((len(label) for label, _ in self), default=0)
        return "\n".join(f"{label:<{width}}  {text}" for label, text in self)

    def _repr_html_(self) -> str:
        cell = '<td style="text-align: left; vertical-align: top">'
        lines = (
            f"<tr>{cell}<b>{html.escape(label)}</b></td>{cell}{html.escape(text)}</td></tr>"
            for label, text in self
        )
        return f"<table>{''.join(lines)}</table>"
