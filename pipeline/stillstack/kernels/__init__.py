"""Pure functions of one frame: NumPy, scipy.fft and numba, nothing else."""
