"""Commands that look at what there is: status, info, verify, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stillstack.cli.app import Debug, Engine, Json, Pattern, Variable, app
from stillstack.exit_codes import FAULT, guarded


@app.command(epilog="Example: **stillstack status run7.zarr**, from another terminal")
@guarded
def status(
    path: Annotated[str, typer.Argument(metavar="RUN", help="A run, or a stack being copied.")],
    *,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how far a run has come, while it runs or afterwards; nothing is changed."""
    del debug
    from stillstack.tables import status_rows
    from stillstack.terminal import as_json, show_rows, show_text
    from stillstack.watch.status import look_at

    seen = look_at(path)
    if json:
        show_text(as_json(seen.to_json()))
    else:
        show_rows(f"Status of {seen.path}", status_rows(seen))


@app.command(epilog="Example: **stillstack info '/data/run7/*.tif' --pattern 'd{delay:f}.tif'**")
@guarded
def info(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Frames of any format, a stack, or a run.")
    ],
    *,
    variable: Variable = None,
    pattern: Pattern = None,
    engine: Engine = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what lies at a path, and with which config lines to begin; no frame is read."""
    del debug
    from stillstack.sources.contents import contents
    from stillstack.tables import info_rows
    from stillstack.terminal import as_json, show_rows, show_text

    found = contents(path, variable=variable, pattern=pattern, engine=engine)
    if json:
        show_text(as_json(found.to_json()))
        return
    show_rows(found.path, info_rows(found))
    if found.config:
        show_text(f"\nA config to begin with, to which valid pixels belong:\n\n{found.config}")


@app.command(epilog="Example: **stillstack verify run7.zarr**, then run again what it found")
@guarded
def verify(
    path: Annotated[str, typer.Argument(metavar="RUN", help="A run, or a stack from ingest.")],
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Only look: damaged blocks still count as done.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read everything that was written, and compare it with its checksums.

    Blocks that are damaged do not count as done any more: the command that made the store does
    them again. Exit code 1 says that something was found.
    """
    del debug
    from stillstack.tables import verification_rows
    from stillstack.terminal import Display, as_json, say, show_rows, show_text
    from stillstack.verification import repair_advice, verify_store

    with Display("verify") as display:
        found = verify_store(path, take_back=not keep, progress=display.frames)
    if json:
        show_text(as_json(found.to_json()))
    else:
        show_rows(f"Verified {path}", verification_rows(found))
    if not found.sound:
        say(repair_advice(found))
        raise typer.Exit(FAULT)


@app.command(epilog="Example: **stillstack report run7.zarr --open**")
@guarded
def report(
    run_path: Annotated[str, typer.Argument(metavar="RUN", help="What stillstack run wrote.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write. Default: beside the run, RUN.html; in the current folder for a "
            "run in an object store."
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    debug: Debug = False,
) -> None:
    """Write the HTML page of a run: it needs nothing beside it, and no network."""
    del debug
    import webbrowser

    from stillstack.report import write_report
    from stillstack.terminal import say, show_text

    page = write_report(run_path, out)
    show_text(str(page))
    if open_it and not webbrowser.open(page.absolute().as_uri()):
        say("No browser could be started here: open the page in one yourself.")


@app.command(
    epilog="Example: **stillstack shifts run7.zarr shifts.csv**, edit it, and name it in another "
    "config: **shifts: {path: shifts.csv}**"
)
@guarded
def shifts(
    run_path: Annotated[str, typer.Argument(metavar="RUN", help="What stillstack run wrote.")],
    out: Annotated[Path, typer.Argument(metavar="CSV", help="File to write.")],
    *,
    debug: Debug = False,
) -> None:
    """Write the shifts of a run as a table, to look at, to edit, or to apply to another stack."""
    del debug
    from stillstack.given import save_shifts
    from stillstack.terminal import say

    say(f"{save_shifts(run_path, out):,} frames written to {out}.")
