"""The command ``stillstack``: the only place that prints.

Each module holds the commands of one kind. Heavy imports are inside the commands, so that --help is
quick.
"""

from stillstack.cli import making, planning, running, looking, reducing  # noqa: I001  # the order of --help
from stillstack.cli.app import app

__all__ = ["app", "looking", "main", "making", "planning", "reducing", "running"]


def main() -> None:
    """Run the command line."""
    app(prog_name="stillstack")  # also where it is python -m: completion asks for this name
