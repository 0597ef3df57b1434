"""The command ``stillstack`` itself, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stillstack.versions import deciding_versions

app = typer.Typer(
    name="stillstack",
    help="Register and align drifting image stacks behind something that stands still.",
    epilog="Exit codes: 0 good, 1 fault, 2 mend your input, 3 finished with unreadable frames set "
    "aside, 130 or 143 interrupted (the same command goes on).",
    no_args_is_help=True,
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
Variable = Annotated[
    str | None, typer.Option(help="Array inside a Zarr group, a netCDF or an HDF5 file.")
]
Engine = Annotated[
    str | None, typer.Option(help="Let xarray open it, with this engine: cfgrib, zarr ...")
]
Pattern = Annotated[
    str | None,
    typer.Option(help="What file names say, such as 'scan{scan:d}_delay{delay:f}.tif'."),
]
ChunkFrames = Annotated[
    int | None, typer.Option(min=1, help="Frames in a chunk. Default: about 4 MiB of them.")
]
Codec = Annotated[Literal["zstd", "lz4"], typer.Option(help="zstd is smaller, lz4 faster.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        versions = deciding_versions()
        python = versions.pop("python")
        for name, version in versions.items():  # its own first
            typer.echo(f"{name} {version}")
        typer.echo(f"python {python}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the versions that matter and exit.",
        ),
    ] = False,
) -> None:
    del version
