"""The command that runs a config."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from stillstack.cli.app import Config, Debug, Json, Overrides, app
from stillstack.exit_codes import SET_ASIDE, guarded


@app.command(epilog="Example: **stillstack run run7.yaml**; again, to finish an interrupted run")
@guarded
def run(
    config: Config,
    *,
    overrides: Overrides = None,
    with_report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write the report at the end.")
    ] = True,
    with_performance: Annotated[
        bool,
        typer.Option(
            "--performance-report",
            help="Write Dask's report on what the cluster did beside the run, "
            "RUN-performance.html. Needs stillstack[dashboard].",
        ),
    ] = False,
    calibrated: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Time the first block before, so that the report can compare the time that the "
            "run was expected to take with what it took. Default: from 100 GB of raw frames on.",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Register and align a stack, or finish a run that was interrupted.

    The report is written beside the run: RUN.html for RUN.zarr.
    """
    del debug
    from stillstack.config import load_config
    from stillstack.errors import StillstackError
    from stillstack.plan import plan as make_plan
    from stillstack.report import read_checks, write_report
    from stillstack.run import run as run_config
    from stillstack.storage import file_beside
    from stillstack.summary import summarise
    from stillstack.tables import run_json, run_rows
    from stillstack.terminal import Display, as_json, say, show_error, show_rows, show_text

    loaded = load_config(config, overrides or ())
    began, started = time.monotonic(), time.time()
    planned = make_plan(loaded, calibrated=calibrated).refuse()
    for finding in planned.warnings:
        say(f"Warning: {finding}")
    performance = file_beside(loaded.output.place, "-performance.html")
    with Display() as display:
        result = run_config(
            planned,
            progress=display.run,
            on_link=display.dashboard,
            performance=performance if with_performance else None,
        )
    if with_performance:
        say(_performance_words(performance, began=started))
    seconds = time.monotonic() - began
    summary = summarise(result)
    page, checks = None, None
    if with_report:
        say("Writing the report.")
        try:
            page = write_report(loaded.output.place)
            checks = read_checks(loaded.output.place)
        except StillstackError as error:  # the run itself is good
            show_error(error)
    if json:
        show_text(as_json(run_json(summary, loaded.output.path, page, seconds, checks)))
    else:
        took = seconds if display.started else None
        show_rows(f"Run of {config}", run_rows(summary, loaded.output.path, page, took, checks))
    if summary.n_unreadable:
        say(f"{summary.n_unreadable} frames could not be read and were set aside.")
        raise typer.Exit(SET_ASIDE)


def _performance_words(page: Path, *, began: float) -> str:
    """Say where the performance report is, or why there is none."""
    if page.is_file() and page.stat().st_mtime >= began:
        return f"Performance report: {page}"
    return "There is no performance report: nothing was left to do, or run/log.txt says why."
