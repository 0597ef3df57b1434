"""The one way in which kernels are compiled: without the GIL, and kept on disk where possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit
from numpy.typing import NDArray


def compiled(function: Callable[..., Any]) -> Any:
    """Return the function compiled on its first call, for the types of that call.

    The machine code is kept beside the package or, where that is read-only, in the user's cache
    folder; `NUMBA_CACHE_DIR` chooses another. Where none can be written (a container without a
    home), each process compiles for itself instead of failing on import.

    Fused multiply-add is allowed, reordering is not.
    """
    return _compiled(function, {"contract"})


def compiled_sums(function: Callable[..., Any]) -> Any:
    """As `compiled`, with sums reordered so that they vectorise.

    Still the same bits on every run of one machine type. NaN and infinity keep their meaning.
    """
    return _compiled(function, {"contract", "reassoc", "nsz", "arcp"})


def _compiled(function: Callable[..., Any], fastmath: set[str]) -> Any:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # numba's "no locator available"
        return njit(function, cache=False, **options)


def locked(array: NDArray[Any]) -> NDArray[Any]:
    """Read-only view of an input.

    To numba a writable array is another type than a read-only one, hence another compilation,
    hence perhaps other last bits: frames that came over the network are read-only, others not.
    """
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view
