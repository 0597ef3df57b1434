"""Commands that make stacks: demo, simulate, ingest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stillstack.cli.app import ChunkFrames, Codec, Debug, Engine, Pattern, Variable, app
from stillstack.exit_codes import FAULT, SET_ASIDE, guarded

if TYPE_CHECKING:
    from stillstack.ingest import Written


@app.command(epilog="Example: **stillstack demo**, then open stillstack-demo/aligned.html")
@guarded
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to write; made when missing.")] = Path(
        "stillstack-demo"
    ),
    *,
    frames: Annotated[int, typer.Option(min=60, help="Frames to simulate.")] = 240,
    size: Annotated[int, typer.Option(min=128, help="Rows and columns of a frame, px.")] = 512,
    debug: Debug = False,
) -> None:
    """Simulate a drifting stack, run it, and hold the result against the truth."""
    del debug
    from stillstack.demo import DemoSize, run_demo
    from stillstack.report import write_report
    from stillstack.tables import demo_rows
    from stillstack.terminal import Display, say, show_rows

    began = time.monotonic()
    with Display("simulate") as display:
        result = run_demo(
            folder,
            DemoSize(frames, size, size),
            on_frames=display.frames,
            on_progress=display.run,
            say=say,
        )
    say("Writing the report.")
    page = write_report(result.aligned)
    show_rows("stillstack demo", demo_rows(result, page, time.monotonic() - began))
    for fault in result.faults:
        say(f"Not as it should be: {fault}")
    if result.faults:
        raise typer.Exit(FAULT)


@app.command(
    epilog="Example: **stillstack simulate frames.zarr --frames 1000 --shape 1024x1024**, "
    "then **stillstack run frames.yaml**"
)
@guarded
def simulate(
    destination: Annotated[
        str, typer.Argument(metavar="DST", help="Zarr stack to write: a folder or an address.")
    ],
    *,
    frames: Annotated[int, typer.Option(min=1, help="Number of frames.")] = 240,
    shape: Annotated[str, typer.Option(help="Rows x columns, px.")] = "512x512",
    dose: Annotated[float, typer.Option(min=0.01, help="Mean counts a pixel.")] = 60.0,
    scene: Annotated[
        Literal["powder", "crystal", "textured"], typer.Option(help="What drifts.")
    ] = "powder",
    drift: Annotated[float, typer.Option(help="Slow drift, px.")] = 6.0,
    jitter: Annotated[float, typer.Option(help="Jitter from frame to frame, px rms.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    planted: Annotated[bool, typer.Option(help="Plant bad frames of every kind.")] = True,
    chunk_frames: ChunkFrames = None,
    codec: Codec = "zstd",
    debug: Debug = False,
) -> None:
    """Simulate a drifting diffraction stack behind a beam-block, with its truth.

    The true shifts are coordinates of the stack. A config that runs it is written beside it,
    unless there is one already.
    """
    del debug
    from stillstack.address import located
    from stillstack.ingest import StackOptions, simulated_config, write_simulation
    from stillstack.simulation import simulate_stack
    from stillstack.terminal import Display

    stack = simulate_stack(
        frames,
        _parse_shape(shape),
        dose=dose,
        seed=seed,
        planted=planted,
        scene=scene,
        drift_px=drift,
        jitter_px=jitter,
    )
    options = StackOptions(chunk_frames or "auto", codec)
    with Display("simulate") as display:
        written = write_simulation(stack, destination, options, on_frames=display.frames)
    place = located(destination)
    # beside the stack; for one in an object store in the current folder
    folder = place.parent if isinstance(place, Path) else Path()
    config = folder / f"{place.name.removesuffix('.zarr')}.yaml"
    if not config.exists():
        frames_path = place.name if isinstance(place, Path) else destination
        aligned = f"{config.stem}-aligned.zarr"
        config.write_text(simulated_config(stack, frames_path, aligned), encoding="utf-8")
    _show_written(written, config)


@app.command(epilog="Example: **stillstack ingest '/data/run7/*.tif' run7.zarr**")
@guarded
def ingest(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="File, folder, 'pattern*.tif' or Zarr address.")
    ],
    destination: Annotated[
        str, typer.Argument(metavar="DST", help="Zarr stack to write: a folder or an address.")
    ],
    *,
    variable: Variable = None,
    pattern: Pattern = None,
    engine: Engine = None,
    chunk_frames: ChunkFrames = None,
    codec: Codec = "zstd",
    debug: Debug = False,
) -> None:
    """Copy frames from any source into a chunked Zarr stack; restartable."""
    del debug
    from stillstack import ingest as ingesting
    from stillstack.sources import open_source
    from stillstack.terminal import Display, say

    opened = open_source(source, variable=variable, pattern=pattern, engine=engine)
    for note in opened.notes:
        say(f"Warning: {note}")
    options = ingesting.StackOptions(chunk_frames or "auto", codec)
    with Display("ingest") as display:
        written = ingesting.ingest(opened, destination, options, on_frames=display.frames)
    _show_written(written)


def _parse_shape(text: str) -> tuple[int, int]:
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) == 1:
        parts *= 2
    if len(parts) != 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        from stillstack.errors import InputError

        raise InputError(
            f"--shape {text} is not rows x columns.", cure="Write it like 512x512, or 512 for both."
        )
    return int(parts[0]), int(parts[1])


def _show_written(written: Written, config: Path | None = None) -> None:
    from stillstack.tables import written_rows
    from stillstack.terminal import say, show_rows

    show_rows(f"Stack {written.path}", written_rows(written, config))
    for number, why in sorted(written.set_aside.items()):
        say(f"Frame {number} was set aside: {why}")
    if written.set_aside:
        raise typer.Exit(SET_ASIDE)
