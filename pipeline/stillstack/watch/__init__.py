"""A run while it runs: its progress, its log, and its state as another process sees it."""
