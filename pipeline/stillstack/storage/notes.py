"""Names of the notes in ``run/``: what is known of a run beside its result."""

from __future__ import annotations

from typing import Final

ATTEMPTS_NOTE: Final = "attempts"
"""When and where the run was worked on, and how that ended."""

CHECKS_NOTE: Final = "checks"
"""What independent checks found when the report was last written."""

INPUT_OPTIONS_NOTE: Final = "input_options"
"""How the address of the input is reached."""

PLAN_NOTE: Final = "plan"
"""What the run was expected to take."""

SET_ASIDE_NOTE: Final = "set_aside"
"""Why frames were set aside, by their number."""
