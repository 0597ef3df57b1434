"""From shifts of single frames to a trajectory: gaps, jumps, outliers, drift and jitter."""
