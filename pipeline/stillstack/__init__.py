"""Registration of drifting image stacks behind something static, on Dask, Zarr and xarray."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillstack.assess import assess
    from stillstack.config import RunConfig, load_config
    from stillstack.doctor import examine
    from stillstack.graph import align, register
    from stillstack.kernels.correlation import correlate_masked
    from stillstack.kernels.registration import (
        Reference,
        Registration,
        prepare_reference,
        register_frame,
    )
    from stillstack.model import Status, is_good
    from stillstack.plan import plan
    from stillstack.reduction import reduce_run
    from stillstack.run import open_run, run
    from stillstack.scan import unstack_scan
    from stillstack.simulation import simulate_stack
    from stillstack.sources import open_stack

__all__ = [
    "Reference",
    "Registration",
    "RunConfig",
    "Status",
    "align",
    "assess",
    "correlate_masked",
    "examine",
    "is_good",
    "load_config",
    "open_run",
    "open_stack",
    "plan",
    "prepare_reference",
    "reduce_run",
    "register",
    "register_frame",
    "run",
    "simulate_stack",
    "unstack_scan",
]

# Imported when first used, so that `stillstack --help` does not wait for Dask and numba.
_HOMES = {
    "assess": "assess",
    "RunConfig": "config",
    "load_config": "config",
    "align": "graph",
    "register": "graph",
    "correlate_masked": "kernels.correlation",
    "examine": "doctor",
    "Reference": "kernels.registration",
    "Registration": "kernels.registration",
    "prepare_reference": "kernels.registration",
    "register_frame": "kernels.registration",
    "Status": "model",
    "is_good": "model",
    "plan": "plan",
    "reduce_run": "reduction",
    "open_run": "run",
    "run": "run",
    "simulate_stack": "simulation",
    "open_stack": "sources",
    "unstack_scan": "scan",
}

# Rooms that notebooks work in: ``stillstack.physics`` is there without an import of its own.
_ROOMS = (
    "errors",
    "explore",
    "ingest",
    "physics",
    "pictures",
    "report",
    "simulation",
    "summary",
    "tables",
    "valid",
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("stillstack")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"stillstack.{_HOMES[name]}"), name)
        if "xarray" in sys.modules:  # xarray objects know .stillstack as soon as there can be any
            importlib.import_module("stillstack.accessor")
        globals()[name] = value
        return value
    if name in _ROOMS:
        return importlib.import_module(f"stillstack.{name}")
    message = f"module 'stillstack' has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS, "__version__"})


class _ContentsPage(ModuleType):
    """Keeps ``stillstack.run`` the function, also when the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in __all__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _ContentsPage
