"""The command ``stillstack``. Heavy imports are inside the commands, so that --help is quick."""

from __future__ import annotations

import importlib.metadata
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stillstack.exit_codes import FAULT, MEND_INPUT, SET_ASIDE, guarded

if TYPE_CHECKING:
    from stillstack.ingest import Written

app = typer.Typer(
    name="stillstack",
    help="Register and align drifting image stacks behind something that stands still.",
    epilog="Exit codes: 0 good, 1 fault, 2 mend your input, 3 finished with unreadable frames set "
    "aside, 130 or 143 interrupted (the same command goes on).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON on stdout; progress stays on stderr.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="Replace a setting of the config. Repeatable."
    ),
]
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config of the run.")]
ChunkFrames = Annotated[
    int | None, typer.Option(min=1, help="Frames in a chunk. Default: about 4 MiB of them.")
]
Codec = Annotated[Literal["zstd", "lz4"], typer.Option(help="zstd is smaller, lz4 faster.")]


def main() -> None:
    """Run the command line."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stillstack {importlib.metadata.version('stillstack')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    del version


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
    variable: Annotated[
        str | None, typer.Option(help="Array inside a Zarr group or an HDF5 file.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="What file names say, such as 'scan{scan:d}_delay{delay:f}.tif'."),
    ] = None,
    chunk_frames: ChunkFrames = None,
    codec: Codec = "zstd",
    debug: Debug = False,
) -> None:
    """Copy frames from any source into a chunked Zarr stack; restartable."""
    del debug
    from stillstack import ingest as ingesting
    from stillstack.sources import open_source
    from stillstack.terminal import Display

    opened = open_source(source, variable=variable, pattern=pattern)
    options = ingesting.StackOptions(chunk_frames or "auto", codec)
    with Display("ingest") as display:
        written = ingesting.ingest(opened, destination, options, on_frames=display.frames)
    _show_written(written)


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


@app.command(epilog="Example: **stillstack run run7.yaml**; again, to finish an interrupted run")
@guarded
def run(
    config: Config,
    *,
    overrides: Overrides = None,
    with_report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write the report at the end.")
    ] = True,
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
    from stillstack.report import write_report
    from stillstack.run import run as run_config
    from stillstack.summary import summarise
    from stillstack.tables import run_json, run_rows
    from stillstack.terminal import Display, as_json, say, show_error, show_rows, show_text

    loaded = load_config(config, overrides or ())
    began = time.monotonic()
    planned = make_plan(loaded).refuse()
    for finding in planned.warnings:
        say(f"Warning: {finding}")
    with Display() as display:
        result = run_config(planned, progress=display.run, on_link=display.dashboard)
    seconds = time.monotonic() - began
    summary = summarise(result)
    page = None
    if with_report:
        say("Writing the report.")
        try:
            page = write_report(loaded.output.place)
        except StillstackError as error:  # the run itself is good
            show_error(error)
    if json:
        show_text(as_json(run_json(summary, loaded.output.path, page, seconds)))
    else:
        took = seconds if display.started else None
        show_rows(f"Run of {config}", run_rows(summary, loaded.output.path, page, took))
    if summary.n_unreadable:
        say(f"{summary.n_unreadable} frames could not be read and were set aside.")
        raise typer.Exit(SET_ASIDE)


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
    """Write the HTML page of a run."""
    del debug
    from stillstack.report import write_report
    from stillstack.terminal import show_text

    page = write_report(run_path, out)
    show_text(str(page))
    if open_it:
        typer.launch(page.absolute().as_uri())


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
