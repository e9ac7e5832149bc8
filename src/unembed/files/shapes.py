"""Whether tensors are those that a network declares, told before it takes memory.

A config of a few bytes can declare a network of any size. Its shapes are told on torch's meta device, where nothing is
stored, with one of the layers that repeat. They are compared one by one, so that the first tensor that is not there
ends it: a network that passes is as large as the file that it comes from.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


def check_declared(make: Callable[[], nn.Module], layers: str, count: int, state: Mapping[str, Any]) -> None:
    """Compare the tensors of a network of `count` layers with those of a file.

    Args:
        make: makes the network with one layer.
        layers: what the names of its layers begin with, such as "blocks."; the number follows.

    Raises:
        ValueError: a tensor is missing, has another shape, or is not part of the network.
    """
    try:
        with torch.device("meta"):
            one = {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
    except (RuntimeError, OverflowError, TypeError, ZeroDivisionError, AssertionError) as error:
        raise ValueError(f"declares a network that cannot be ({str(error).splitlines()[0][:100]})") from error
    first = f"{layers}0."
    rest = {name.removeprefix(first): shape for name, shape in one.items() if name.startswith(first)}
    known = {name: shape for name, shape in one.items() if not name.startswith(first)}
    for name, shape in known.items():
        check_shape(name, shape, state)
    for number in range(count):
        for name, shape in rest.items():
            check_shape(f"{layers}{number}.{name}", shape, state)
            known[f"{layers}{number}.{name}"] = shape
    for name in sorted(state.keys() - known.keys(), key=str):
        raise ValueError(f"tensor {name} is not part of this {make().__class__.__name__.lower()}")


def check_shape(name: str, expected: tuple[int, ...], state: Mapping[str, Any]) -> None:
    """Raise ValueError unless the tensor is there with that shape."""
    if name not in state:
        raise ValueError(f"tensor {name} is missing")
    found = tuple(getattr(state[name], "shape", ()))
    if found != expected:
        raise ValueError(f"tensor {name} has shape {found}, expected {expected}")
