"""The one way in which kernels are compiled: without the GIL, and kept on disk where possible."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
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


def compiled_inner(function: Callable[..., Any]) -> Any:
    """As `compiled`, for functions that make no array and are called by compiled ones many times.

    They do not count the references to the arrays that they are given, which their callers hold. To
    count is atomic, and waits until all that was stored before has left the processor: in the loops
    of interpolation it took a third of the time.
    """
    return _compiled(function, {"contract"}, _nrt=False)


def compiled_in_place(function: Callable[..., Any]) -> Any:
    """As `compiled_inner`, put into its callers instead of called."""
    return _compiled(function, {"contract"}, _nrt=False, forceinline=True)


def wide_vectors() -> None:
    """Have the compiler use the widest vectors there are in the compiled function that calls this.

    For most processors with vectors of 64 bytes it chooses those of 32, lest a few wide
    instructions slow down all the others. Loops that do little but multiply and add are faster with
    the wide ones. In Python it does nothing, nor where the processor has no such vectors.
    """


@intrinsic
def _prefer_wide_vectors(typing_context: Any) -> Any:
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature, arguments
        attributes = builder.function.attributes
        # A set that takes the names it knows; this one is LLVM's, and it passes it on.
        if isinstance(attributes, set):
            set.add(attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@overload(wide_vectors, inline="always")
def _wide_vectors() -> Any:
    def ask() -> None:
        _prefer_wide_vectors()  # type: ignore[call-arg]  # numba gives the context

    return ask


def fetch(array: Any, index: Any) -> None:
    """Have the processor bring the line of its cache with ``array[index]``, which is read soon.

    Nothing waits for it, and no place is wrong. In Python it does nothing.
    """


@intrinsic
def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        there = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(there.data, [arguments[1]]), cgutils.voidptr_t)
        ir, word = cgutils.ir, cgutils.int32_t  # type: ignore[attr-defined]  # numba's llvmlite
        kind = ir.FunctionType(ir.VoidType(), [place.type, word, word, word])
        named = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        # to read, into the second cache, data
        builder.call(named, [place, word(0), word(2), word(1)])
        return context.get_dummy_value()

    return types.void(array, index), generate


@overload(fetch, inline="always")
def _fetch(array: Any, index: Any) -> Any:
    del array, index

    def ask(array: Any, index: Any) -> None:
        _prefetch(array, index)  # type: ignore[call-arg]  # numba gives the context

    return ask


# Added to a number of less than 2^22, it leaves the number, rounded, in the lowest bits.
_ROUNDING: Final = np.float32(1.5 * 2**23)


def rounded_bits(value: Any) -> Any:
    """Round a single-precision number to a whole one, halves to the even one, in one addition.

    Returns 32 bits, which grow with the number by one for each whole one, and the lower half of
    which is the number's own where that has 16 bits. Those of NaN and of what is far too large or
    too small differ from any such by more than 2^16.

    Examples
    --------
    >>> [int(rounded_bits(np.float32(value)) - rounded_bits(np.float32(0))) for value in (2.5, 7.6)]
    [2, 8]
    """
    return (np.float32(value) + _ROUNDING).view(np.uint32)


@intrinsic
def _bits(typing_context: Any, value: Any) -> Any:
    del typing_context, value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.bitcast(arguments[0], cgutils.int32_t)

    return types.uint32(types.float32), generate


@overload(rounded_bits, inline="always")
def _rounded_bits(value: Any) -> Any:
    del value

    def rounded(value: Any) -> Any:
        return _bits(value + _ROUNDING)  # type: ignore[call-arg]

    return rounded


def put_halves(array: Any, index: Any, first: Any, second: Any) -> None:
    """Store the lower halves of two numbers of 32 bits as neighbours in an array of 16 bits."""
    for place, bits in ((index, first), (index + type(index)(1), second)):
        array[place] = np.uint32(bits).astype(np.uint16).astype(array.dtype)


@intrinsic
def _store_halves(typing_context: Any, array: Any, index: Any, first: Any, second: Any) -> Any:
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        there = context.make_array(signature.args[0])(context, builder, arguments[0])
        word = cgutils.int32_t
        low, high = arguments[2:] if sys.byteorder == "little" else reversed(arguments[2:])
        both = builder.or_(builder.and_(low, word(0xFFFF)), builder.shl(high, word(16)))
        place = builder.gep(there.data, [arguments[1]])
        builder.store(both, builder.bitcast(place, word.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(array, index, first, second), generate


@overload(put_halves, inline="always")
def _put_halves(array: Any, index: Any, first: Any, second: Any) -> Any:
    del array, index, first, second

    def stored(array: Any, index: Any, first: Any, second: Any) -> None:
        _store_halves(array, index, first, second)  # type: ignore[call-arg]

    return stored


def _compiled(function: Callable[..., Any], fastmath: set[str], **more: Any) -> Any:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, **more}
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
