"""How many threads NumPy has.

NumPy's (OpenBLAS) wait in a busy loop on the cores that torch needs next, and divide work that is too small for it. On
two cores a round of a search took .57 s, and .33 s with one thread; a factorisation of 256 x 256 numbers 19 ms and 2.
"""

from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_numpy_thread() -> Any:
    """A context in which NumPy has one thread."""
    return _libraries().limit(limits=1, user_api="blas")


@cache
def _libraries() -> ThreadpoolController:
    """The libraries of this process that have threads, which takes some milliseconds to find out."""
    return ThreadpoolController()
