"""Commands that look ahead of a run: plan, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillstack.cli.app import Config, Debug, Json, Overrides, app
from stillstack.exit_codes import MEND_INPUT, guarded


@app.command(
    epilog="Example: **stillstack plan run7.yaml --set registration.max_shift_px=48**, "
    "or **stillstack plan run7.yaml --bytes 10TB**"
)
@guarded
def plan(
    config: Config,
    *,
    overrides: Overrides = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Where the picture goes. Default: beside the config, CONFIG.plan.png."),
    ] = None,
    calibrated: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Time the first block, to say how long the run will take.",
        ),
    ] = True,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Say what so many such frames would need.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--bytes", help="Say what so much would need, such as 10TB of raw frames."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Say it for so many workers, each with a core.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a run will take and produce, and what speaks against it. Nothing is run.

    The first block is tried, to say how long it will take. With --frames, --bytes or --workers, it
    says too what a run of that size would need.

    A picture of the valid area over a frame is written. Where something looks like a beam-block
    that is not excluded yet, it is drawn, and the lines to copy into the config are printed.
    """
    del debug
    from stillstack.config import load_config
    from stillstack.plan import plan as make_plan
    from stillstack.plan_picture import beam_block_proposal, draw_plan
    from stillstack.scaling import at_scale, bytes_of
    from stillstack.tables import plan_rows, scale_rows
    from stillstack.terminal import as_json, say, show_rows, show_text

    n_bytes = None if size is None else bytes_of(size)
    made = make_plan(load_config(config, overrides or ()), calibrated=calibrated)
    scale = None
    if not made.errors and (frames, n_bytes, workers) != (None, None, None):
        scale = at_scale(made, frames=frames, n_bytes=n_bytes, workers=workers)
    proposal = beam_block_proposal(made)
    drawn = draw_plan(made, proposal, picture or config.with_suffix(".plan.png"))
    if json:
        found = {"beam_block_yaml": proposal.yaml if proposal else None, "picture": str(drawn)}
        asked = {} if scale is None else {"scale": scale.to_json()}
        show_text(as_json({**made.to_json(), **found, **asked}))
    else:
        show_rows(f"Plan of {config}", plan_rows(made, drawn))
        if scale is not None:
            show_rows(f"{scale.layout.n_frames:,} such frames", scale_rows(scale))
    for finding in made.findings:
        say(f"{finding.level.capitalize()}: {finding}")
    if proposal and not json:
        say(
            f"Something that looks like a beam-block is not excluded ({proposal.share:.1%} of the "
            f"pixels, dashed in the picture). If it is one, copy this into the config:"
        )
        show_text(proposal.yaml)
    if made.errors:
        raise typer.Exit(MEND_INPUT)


@app.command(epilog="Example: **stillstack doctor run7.yaml**, before a long run on a cluster")
@guarded
def doctor(
    config: Config,
    *,
    overrides: Overrides = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for all workers that are asked for.")
    ] = 120.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Examine the cluster of a config, and say whether every worker is fit for the run.

    The cluster is started as the run would start it, and every worker is asked: versions, the
    input, the output's folder, threads, memory, free space, clocks. Nothing is kept. Exit code 1
    says that the cluster is at fault, 2 that the config or the input is.
    """
    del debug
    from stillstack.config import load_config
    from stillstack.doctor import examine
    from stillstack.tables import doctor_rows
    from stillstack.terminal import Display, as_json, show_rows, show_text

    with Display("doctor") as display:
        found = examine(load_config(config, overrides or ()), wait=wait, on_link=display.dashboard)
    if json:
        show_text(as_json(found.to_json()))
    else:
        show_rows(f"Examined the cluster of {config}", doctor_rows(found))
    if found.exit_code:
        raise typer.Exit(found.exit_code)
