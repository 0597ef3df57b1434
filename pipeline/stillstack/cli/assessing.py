"""The command that tells how precisely a user's data can be registered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillstack.cli.app import Config, Debug, Json, Overrides, app
from stillstack.exit_codes import guarded


@app.command(epilog="Example: **stillstack assess run7.yaml**, before a long run or the next one")
@guarded
def assess(
    config: Config,
    *,
    overrides: Overrides = None,
    trials: Annotated[
        int | None,
        typer.Option(min=2, help="Trials at each dose. Default: 200, fewer for large frames."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="About how long they may take, without --trials.")
    ] = 60.0,
    picture: Annotated[
        Path | None,
        typer.Option(help="Where the picture goes. Default: beside the config, CONFIG.assess.png."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how precisely these frames can be registered, and with how much less dose.

    Frames of the input are aligned and added up; their sum is moved by known fractions of a pixel
    under the valid pixels, given fresh photon noise and registered with the settings of the config.
    The table tells bias and rms error against dose. Nothing is run.
    """
    del debug
    from stillstack.assess import assess as assess_config
    from stillstack.assess.picture import draw_assessment
    from stillstack.config import load_config
    from stillstack.terminal import Display, as_json, say, show_rows, show_text

    loaded = load_config(config, overrides or ())
    with Display("assess") as display:
        found = assess_config(loaded, trials=trials, seconds=seconds, progress=display.frames)
    drawn = draw_assessment(found, picture or config.with_suffix(".assess.png"))
    if json:
        show_text(as_json({**found.as_dict(), "picture": str(drawn)}))
    else:
        show_rows(f"Assessed {config}", [*found.rows(), ("picture", str(drawn))])
    for note in found.notes:
        say(f"Warning: {note}")
