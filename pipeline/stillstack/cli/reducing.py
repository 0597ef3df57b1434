"""The command that averages the frames of a run: reduce."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from stillstack.cli.app import Debug, Json, app
from stillstack.exit_codes import guarded


@app.command(
    epilog="Example: **stillstack reduce run7.zarr --by delay --normalise sum --out delays.zarr**"
)
@guarded
def reduce(
    run_path: Annotated[str, typer.Argument(metavar="RUN", help="What stillstack run wrote.")],
    *,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COORDINATE", help="Group frames by it. Repeatable. Default: all together."
        ),
    ] = None,
    statistic: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="mean, variance, standard_error, coverage, median or sigma_clipped_mean. "
            "Repeatable. Default: the first four.",
        ),
    ] = None,
    normalise: Annotated[
        str, typer.Option(help="none, sum, intensity, or the name of a monitor's coordinate.")
    ] = "none",
    clip_sigma: Annotated[
        float, typer.Option(help="Standard deviations beyond which a value is clipped.")
    ] = 4.0,
    out: Annotated[
        str | None,
        typer.Option(help="Zarr group to write. Default: beside the run, RUN-reduced.zarr."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML config whose section cluster says where this is computed."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Average the good frames of a run, with errors and coverage, from raw frames and shifts.

    Each frame is resampled once, in floating point, whether aligned frames were written or not. The
    same command goes on where one was stopped.
    """
    del debug
    from stillstack.config import load_config
    from stillstack.config.cluster import ClusterConfig
    from stillstack.reduction import DEFAULT_STATISTICS, ReductionOptions, reduce_run
    from stillstack.tables import reduction_json, reduction_rows
    from stillstack.terminal import Display, as_json, say, show_rows, show_text

    place = out or f"{run_path.rstrip('/').removesuffix('.zarr')}-reduced.zarr"
    cluster = ClusterConfig() if config is None else load_config(config).cluster
    began = time.monotonic()
    with Display("reduce") as display:
        result = reduce_run(
            run_path,
            by or (),
            statistic or DEFAULT_STATISTICS,
            normalise,
            output=place,
            options=ReductionOptions(
                clip_sigma=clip_sigma,
                cluster=cluster,
                on_frames=display.frames,
                on_link=display.dashboard,
            ),
        )
    told = reduction_json(result, place, time.monotonic() - began)
    if json:
        show_text(as_json(told))
    else:
        show_rows(f"Reduction of {run_path}", reduction_rows(told))
    for why, count in told["frames_left_out_because"].items():
        say(f"{count} frames were left out: {why}.")
