"""What lies at a path, was written there, or was made of a run, in labelled lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillstack.quantities import byte_size, duration
from stillstack.rows import Rows
from stillstack.summary import compact_ranges

if TYPE_CHECKING:
    import xarray as xr

    from stillstack.ingest import Written
    from stillstack.sources.contents import Contents, Span


_MOST_ATTRIBUTES = 24


def info_rows(found: Contents) -> Rows:
    """Tell what lies at a path."""
    kinds = {
        "source": found.format,
        "stack": f"{found.format}, a stack of stillstack",
        "run": f"{found.format}, a run of stillstack",
    }
    finished = {None: "", True: ", complete", False: ", unfinished"}[found.complete]
    rows = Rows([("format", kinds[found.kind] + finished)])
    if found.shape is not None:
        n_frames, height, width = found.shape
        pieces = f"{found.chunk_frames:,} frames stored as one piece"
        rows += [
            ("frames", f"{n_frames:,} of {height} x {width} pixels, {found.dtype}"),
            ("size", f"{byte_size(n_frames * found.frame_bytes)} as pixels; {pieces}"),
        ]
    if found.scan is not None:
        rows.append(("scan", "{} x {} positions, scan_y and scan_x".format(*found.scan)))
    if found.kind != "run":
        rows.append(("pixel size", found.pixel_size or "not in the file"))
    rows += [("note", note) for note in found.notes]
    rows += [("coordinate", f"{name}: {_span(span)}") for name, span in found.coords.items()]
    rows += [("variable", f"{name}: {text}") for name, text in found.variables.items()]
    shown = list(found.attrs.items())[:_MOST_ATTRIBUTES]
    rows += [("attribute", f"{name}: {value}") for name, value in shown]
    if len(found.attrs) > len(shown):
        rows.append(("", f"and {len(found.attrs) - len(shown)} more: --json has them all"))
    return rows


def _span(span: Span) -> str:
    if not span.n_distinct:
        return f"no values ({span.dtype})"
    missing = f", missing in {span.n_missing:,} frames" if span.n_missing else ""
    first, last = (f"{v:.6g}" if isinstance(v, float) else repr(v) for v in (span.first, span.last))
    if span.n_distinct == 1:
        return f"{first} in all ({span.dtype}{missing})"
    return f"{first} to {last}, {span.n_distinct:,} values ({span.dtype}{missing})"


def written_rows(written: Written, config: Path | None) -> Rows:
    """Tell what an ingest or a simulation came to."""
    n_frames, height, width = written.shape
    raw = int(np.prod(written.shape)) * np.dtype(written.dtype).itemsize
    rows = Rows(
        [
            ("frames", f"{n_frames:,} of {height} x {width} pixels, {written.dtype}"),
            ("chunks", f"{written.chunk_frames} frames"),
            ("size", f"{byte_size(written.written_bytes)} on the disk, {byte_size(raw)} as pixels"),
        ]
    )
    if written.set_aside:
        rows.append(("set aside", compact_ranges(tuple(written.set_aside))))
    if config is not None:
        rows.append(("config", f"{config}  (next: stillstack run {config})"))
    return rows


def reduction_json(result: xr.Dataset, output: str, seconds: float) -> dict[str, Any]:
    """Give what a reduction came to as plain values."""
    layout = result.attrs["layout"]
    reasons = dict(result.attrs["frames_left_out_because"])
    n_dark = int(result["n_dark"].sum())
    if n_dark:
        reasons["they do not sum to a positive number"] = n_dark
    n_frames = np.asarray(result["n_frames"].values)
    return {
        "output": output,
        "seconds": round(seconds, 3),
        "by": dict(zip(layout["by"], layout["shape"], strict=True)),
        "groups": int(n_frames.size),
        "groups_without_frames": int((n_frames == 0).sum()),
        "groups_of_one_frame": int((n_frames == 1).sum()),
        "frames_used": int(n_frames.sum()),
        "fewest_frames": int(n_frames.min()),
        "most_frames": int(n_frames.max()),
        "normalisation": result.attrs["normalisation"],
        "frames_left_out_because": reasons,
        "variables": [*layout["images"], *layout["numbers"]],
    }


def reduction_rows(told: dict[str, Any]) -> Rows:
    """Tell what a reduction came to: what `reduction_json` gives, in words."""
    by = ", ".join(f"{count:,} of {name}" for name, count in told["by"].items())
    each = f"{told['fewest_frames']:,} to {told['most_frames']:,} frames in each"
    rows = Rows(
        [
            ("groups", f"{told['groups']:,} ({by}), {each}" if by else "one, of all frames"),
            ("frames", f"{told['frames_used']:,} were averaged"),
            ("divided by", told["normalisation"].replace("none", "nothing")),
            ("variables", ", ".join(told["variables"])),
            ("time", duration(told["seconds"])),
            ("output", told["output"]),
        ]
    )
    for count, what in (
        (told["groups_without_frames"], "no frame: NaN, with a coverage of 0"),
        (told["groups_of_one_frame"], "one frame only: no variance and no error"),
    ):
        if count and by:
            rows.insert(1, ("", f"{count:,} groups have {what}"))
    return rows
