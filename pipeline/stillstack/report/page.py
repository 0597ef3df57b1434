"""One self-contained HTML page for a run: did it work, what is bad, how sure, at what cost."""

from __future__ import annotations

import importlib.resources
import logging
import os
import time
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
import xarray as xr

from stillstack.address import Location, located
from stillstack.errors import InputError, StillstackError
from stillstack.explore import plot_drift, plot_status
from stillstack.pictures import (
    DIFFERENCE_COLOURS,
    difference_norm,
    display_image,
    image_norm,
    plot_image,
)
from stillstack.quantities import byte_size, duration
from stillstack.report.comparison import Comparison, compare
from stillstack.report.embedded import Picture, drawn
from stillstack.report.flags import flag_rows
from stillstack.report.independence import independent_section
from stillstack.report.interactive import EXTRA, interactive
from stillstack.report.motion import motion_sentences
from stillstack.report.provenance import Provenance, read_provenance
from stillstack.report.pulls import plot_pulls, pulls_of, pulls_sentences
from stillstack.report.thumbnails import hover_pictures, thumbnails
from stillstack.report.verdict import answers, cautions
from stillstack.sources import Source
from stillstack.storage import RunStore, file_beside, open_run
from stillstack.storage.notes import CHECKS_NOTE
from stillstack.summary import summarise

_LOG: Final = logging.getLogger(__name__)
GENERATOR: Final = '<meta name="generator" content="stillstack">'
_TEMPLATE: Final = "page.html.j2"
_BEHAVIOUR: Final = "page.js"
_DIFFERENCE_PX: Final = 320  # noise is more than signal in two frames: binned, both can be seen


def report_path(run_path: str | Location) -> Path:
    """Where the report of a run lies unless it is told otherwise: beside the run.

    That of a run in an object store lies in the current folder, where a browser can open it.

    Examples
    --------
    >>> report_path("results/monday.zarr").as_posix()
    'results/monday.html'
    >>> report_path("s3://bucket/monday.zarr").as_posix()
    'monday.html'
    """
    return file_beside(located(run_path), ".html")


def write_report(run_path: str | Location, out: str | Path | None = None) -> Path:
    """Write the page of a run and say where it is.

    Parameters
    ----------
    run_path
        What ``stillstack run`` wrote; it may be unfinished.
    out
        The file to write; by default that of `report_path`.

    Raises
    ------
    InputError
        If there is no run, if the page cannot be written, or if a file that is not a report of
        this program is in its place.
    """
    run = open_run(run_path)
    target = Path(out) if out is not None else report_path(run_path)
    _refuse_foreign(target)
    provenance = read_provenance(run_path)
    store = RunStore.view(located(run_path).absolute())
    comparison = compare(run, provenance.raw, store=store)
    page = render_report(run, provenance, provenance.raw, comparison)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(page, encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InputError(
            f"The report {target} cannot be written: {error.strerror or error}.",
            consequence="The run itself is not touched by this.",
            cure=f"Write it elsewhere: stillstack report {run_path} --out FILE.",
        ) from error
    _note_checks(store, comparison)
    return target


def read_checks(run_path: str | Location) -> dict[str, Any] | None:
    """What independent checks found when the report of a run was last written; None: no report."""
    found: dict[str, Any] | None = RunStore.view(located(run_path)).read_note(CHECKS_NOTE)
    return found


def _note_checks(store: RunStore, comparison: Comparison) -> None:
    """Keep with a finished run what was found, where whoever writes the report may write to it."""
    if comparison.checks is None or not store.complete:
        return
    try:
        store.write_note(CHECKS_NOTE, comparison.checks.as_dict())
    except (OSError, StillstackError) as error:
        _LOG.info("the checks are not kept with the run: %s", error)


def render_report(
    run: xr.Dataset,
    provenance: Provenance,
    raw: Source | None,
    comparison: Comparison | None = None,
) -> str:
    """Make the HTML of a run's page.

    Parameters
    ----------
    run
        The run's Dataset.
    provenance
        Where it came from and what it took.
    raw
        The frames as recorded; None where they are no longer there.
    comparison
        What frames before and after have shown, if it is known already.
    """
    summary = summarise(run)
    comparison = comparison or compare(run, raw)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"duration": duration, "byte_size": byte_size, "quantity": _quantity}
    checks = None if comparison.checks is None else independent_section(comparison.checks)
    pulls = pulls_of(run)
    shown = thumbnails(run, raw, provenance.set_aside, comparison.raw_mean)
    pictures = hover_pictures(shown, comparison.small, comparison.raw_mean)
    return environment.from_string(_packaged(_TEMPLATE)).render(
        generator=GENERATOR,
        name=provenance.name,
        made=time.strftime("%Y-%m-%d %H:%M %Z"),
        summary=summary,
        answers=answers(summary, provenance, run.attrs.get("reference_std")),
        cautions=cautions(summary, provenance),
        interactive=interactive(run, list(pictures)),
        pictures=pictures,
        behaviour=_packaged(_BEHAVIOUR),
        extra=EXTRA,
        drift=drawn(plot_drift(run), "Shift of every frame in y and x with error bars"),
        status=drawn(plot_status(run), "Correlation coefficient and status bits of every frame"),
        flags=flag_rows(run, summary, [one.index for one in shown]),
        reference=_reference_picture(run, provenance.notes),
        means=_mean_pictures(comparison),
        differences=_difference_pictures(comparison),
        difference_bin=_difference_bin(comparison),
        comparison=comparison,
        motion=motion_sentences(run),
        checks=checks,
        checks_picture=None if checks is None else drawn(checks.figure, checks.title),
        pulls=pulls_sentences(pulls),
        pulls_picture=drawn(plot_pulls(pulls), "Distributions of pulls and of chi2"),
        thumbnails=shown,
        provenance=provenance,
    )


def _packaged(name: str) -> str:
    return importlib.resources.files("stillstack.report").joinpath(name).read_text("utf-8")


def _quantity(value: float, unit: str) -> str:
    spelled = {"s": duration, "B": byte_size}
    return spelled[unit](value) if unit in spelled else f"{value:,.0f}"


def _refuse_foreign(target: Path) -> None:
    if not target.exists():
        return
    if target.is_file() and GENERATOR.encode() in target.read_bytes()[:2048]:
        return
    raise InputError(
        f"{target} exists and is not a report of stillstack.",
        consequence="It was left as it is.",
        cure="Move it away, or choose another file with --out.",
    )


def _reference_picture(run: xr.Dataset, notes: tuple[str, ...]) -> Picture:
    image = np.asarray(_first_group(run["reference"]), float)
    valid = np.asarray(_first_group(run["reference_valid"]), bool)
    frames_valid = np.asarray(_first_group(run["valid"]), bool)
    image[~np.isfinite(image)] = np.nan
    norm = image_norm(np.where(valid, image, np.nan))
    made = f" Made of: {'; '.join(notes)}." if notes else ""
    caption = (
        f"The image that frames are registered to.{made} Outlined: the valid area of the frames, "
        f"{frames_valid.mean():.1%} of the pixels."
    )
    if np.isnan(image).any():
        caption += " Grey: pixels that the reference does not know."
    figure = plot_image(image, valid=frames_valid, norm=norm)
    return drawn(figure, "Reference image with the valid area outlined", caption, image=True)


def _first_group(array: xr.DataArray) -> Any:
    return array.isel(dict.fromkeys(array.dims[:-2], 0)).values


def _mean_pictures(comparison: Comparison) -> list[Picture]:
    named = (
        (comparison.raw_mean, f"Mean {comparison.before}"),
        (comparison.aligned_mean, "Mean aligned"),
    )
    present = [image for image, _ in named if image is not None]
    norm = image_norm(*(display_image(image)[0] for image in present)) if present else None
    return [
        drawn(plot_image(image, norm=norm), title, title, image=True)
        for image, title in named
        if image is not None
    ]


def _difference_bin(comparison: Comparison) -> int:
    """Pixels of a frame along each side of a pixel of its differences as drawn."""
    images = (comparison.difference_before, comparison.difference_after)
    return max((-(-max(i.shape) // _DIFFERENCE_PX) for i in images if i is not None), default=1)


def _difference_pictures(comparison: Comparison) -> list[Picture]:
    named = (
        (comparison.difference_before, comparison.before.capitalize()),
        (comparison.difference_after, "Aligned"),
    )
    binned = [
        (display_image(image, _DIFFERENCE_PX), title) for image, title in named if image is not None
    ]
    norm = difference_norm(*(image for (image, _), _ in binned)) if binned else None
    return [
        drawn(
            plot_image(image, pixel=factor, norm=norm, colours=DIFFERENCE_COLOURS, label="counts"),
            title,
            title,
            image=True,
        )
        for (image, factor), title in binned
    ]
