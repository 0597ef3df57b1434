"""The command that shows a run, or valid pixels to draw, as a page in the browser: explore."""

from __future__ import annotations

from typing import Annotated

import typer

from stillstack.cli.app import Debug, app
from stillstack.exit_codes import guarded


@app.command(
    epilog="Example: **stillstack explore run7.zarr --open**, or **stillstack explore run7.yaml "
    "--open** to draw its valid pixels"
)
@guarded
def explore(
    path: Annotated[
        str,
        typer.Argument(metavar="RUN|CONFIG", help="What stillstack run wrote, or a YAML config."),
    ],
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on. Default: any that is free.")
    ] = 0,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Browse the frames of a run, or draw the valid pixels of a config, in the browser.

    Of a run: frames before, after, and what is left between, blinking, the drift to click on, and
    the status to choose frames by. Of a config: figures and a brush, with a preview, written into
    its section valid. The page is served on this machine alone, to whoever has the URL, until
    Ctrl-C.
    """
    del debug
    from stillstack.explore.pages import page_of
    from stillstack.explore.serving import serve
    from stillstack.terminal import say, show_text

    make_view, title = page_of(path)

    def ready(url: str) -> None:
        show_text(url)
        say("Serving on this machine alone. Ctrl-C ends it.")
        if open_it:
            typer.launch(url)

    serve(make_view, title, ready, port=port)
    say("Ended.")
