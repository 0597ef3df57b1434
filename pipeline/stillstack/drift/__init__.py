"""From shifts of single frames to a trajectory: gaps, jumps, outliers, drift and jitter."""

from stillstack.drift.clock import Gap, read_clock
from stillstack.drift.exchange import read_shifts, write_shifts
from stillstack.drift.grouping import SumQuality, choose_sum, sum_ranges
from stillstack.drift.sums import interpolate_sums
from stillstack.drift.trajectory import Jump, Trajectory, follow

__all__ = [
    "Gap",
    "Jump",
    "SumQuality",
    "Trajectory",
    "choose_sum",
    "follow",
    "interpolate_sums",
    "read_clock",
    "read_shifts",
    "sum_ranges",
    "write_shifts",
]
