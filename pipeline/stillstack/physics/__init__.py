"""What is computed from averages: differences, profiles, centres, independent checks."""

from stillstack.physics.azimuthal import azimuthal_average
from stillstack.physics.centre import Centre, fit_centre
from stillstack.physics.checks import Checks, Halves, Stretches, check_alignment
from stillstack.physics.combine import combine, jackknife, leave_one_out
from stillstack.physics.differences import difference, relative_change
from stillstack.physics.pairs import Pairs, pump_pairs

__all__ = [
    "Centre",
    "Checks",
    "Halves",
    "Pairs",
    "Stretches",
    "azimuthal_average",
    "check_alignment",
    "combine",
    "difference",
    "fit_centre",
    "jackknife",
    "leave_one_out",
    "pump_pairs",
    "relative_change",
]
