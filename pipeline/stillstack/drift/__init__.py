"""From shifts of single frames to a trajectory: gaps, jumps, outliers, drift and jitter."""

from stillstack.drift.clock import Gap, read_clock
from stillstack.drift.exchange import read_shifts, write_shifts
from stillstack.drift.trajectory import Jump, Trajectory, follow

__all__ = ["Gap", "Jump", "Trajectory", "follow", "read_clock", "read_shifts", "write_shifts"]
