"""What two stores are compared by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def stored(path: str | Path) -> dict[str, Any]:
    """Everything in a store that has to be the same, however it came about."""
    root = Path(path)
    found: dict[str, Any] = {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and file.relative_to(root).parts[0] != "run"
    }
    found["zarr.json"] = json.loads(found["zarr.json"])["attributes"]
    return found
