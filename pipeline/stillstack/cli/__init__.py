"""The command ``stillstack``: the only place that prints.

Each module holds the commands of one kind. Heavy imports are inside the commands, so that --help is
quick.
"""

from stillstack.cli import (  # noqa: I001  # the order of --help
    making,
    planning,
    assessing,
    running,
    looking,
    exploring,
    reducing,
)
from stillstack.cli.app import app

__all__ = [
    "app",
    "assessing",
    "exploring",
    "looking",
    "main",
    "making",
    "planning",
    "reducing",
    "running",
]


def main() -> None:
    """Run the command line."""
    app(prog_name="stillstack")  # also where it is python -m: completion asks for this name
