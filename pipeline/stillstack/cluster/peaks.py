"""The largest memory that processes have had, as the kernel counted it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def peak_bytes() -> int:
    """Largest memory that this process has had; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    # ru_maxrss will not do: a process inherits it from the one that started it
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("VmHWM")), 0)


def worker_peaks(client: Any) -> list[int]:
    """Largest memory of each worker process that is there now and answers."""
    answers: dict[str, int] = client.run(peak_bytes, on_error="ignore")
    return sorted(answers.values())
