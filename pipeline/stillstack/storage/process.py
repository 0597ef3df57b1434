"""A process, named so that others can tell whether it still lives."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Name of this process: its host, machine, number, and when it was started."""
    return {
        "host": socket.gethostname(),
        "machine": machine_name(),
        "pid": os.getpid(),
        "birth": birth_of(os.getpid()),
    }


def is_alive(named: Mapping[str, Any]) -> bool | None:
    """Whether a process lives; None where only its own machine could tell.

    Parameters
    ----------
    named
        What `this_process` said there.
    """
    if named.get("machine") != machine_name() or not isinstance(named.get("pid"), int):
        return None
    # It is dead when its number is free, or another's by now.
    return birth_of(named["pid"]) == named.get("birth")


def machine_name() -> str:
    """Name what process numbers belong to: one boot of one kernel, and one namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return uuid.uuid4().hex  # equal to no other: only the age counts


def birth_of(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot; None where there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]
