"""Pickles as data: a reader of the few instructions of Chroma's and Qdrant's files, which can call nothing.

Python's own unpickler, even one whose classes are refused, takes memory by what a pickle says and not by what it holds
(a memo entry of number 2**31 is an array of 2**31 entries). This one takes memory in proportion to its bytes: it makes
text, numbers, lists, dictionaries and `Instance`s, which are the name of a class and a state.
Source of the format: CPython's Lib/pickletools.py.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

CONTAINERS = 1 << 20  # lists, dictionaries and sets of a pickle
DEPTH = 1000  # of lists in lists
Buffer = bytes | memoryview


class PickleError(ValueError):
    """A pickle that is damaged, or has an instruction or a class that is not expected."""


@dataclass(eq=False, repr=False)
class Instance:
    """An object of a class, which stays a name."""

    of: str
    arguments: tuple[Any, ...]
    state: Any = None

    def __repr__(self) -> str:  # of the name alone: a state may hold the object itself
        return f"<{self.of}>"


@dataclass(frozen=True)
class _Class:
    name: str


@dataclass
class _Machine:
    data: Buffer
    classes: Collection[str]
    at: int = 0

    def __post_init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under open marks
        self.memo: list[Any] = []
        self.left = CONTAINERS

    def take(self, count: int) -> Buffer:
        """The next bytes."""
        end = self.at + count
        if end > len(self.data):
            raise PickleError("it is cut")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def text(self, size: int) -> str:
        return bytes(self.take(size)).decode("utf-8", "replace")

    def line(self) -> str:
        """Text up to a line's end, as in instructions of old protocols."""
        found = bytes(self.data[self.at : self.at + 500]).partition(b"\n")
        self.at += len(found[0]) + 1
        return found[0].decode("utf-8", "replace")

    def marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def recall(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def remember(self, key: int) -> None:
        """Keep the last value for later. Python numbers these in their order."""
        if key > len(self.memo):
            raise PickleError("a reference that is not expected")
        self.memo[key:] = [self.stack[-1]]

    def container(self, made: Any) -> None:
        """An empty list, dictionary or set: the smallest instruction that takes the most memory."""
        self.left -= 1
        if self.left < 0:
            raise PickleError(f"it has more than {CONTAINERS} lists")
        self.stack.append(made)

    def decimals(self) -> None:
        """A run of float64, as vectors are written: one instruction byte before each."""
        start = self.at - 1
        run = np.frombuffer(self.data, np.uint8, offset=start)[: 9 * 1024 : 9] == ord("G")
        count = min(len(run) if run.all() else int(run.argmin()), (len(self.data) - start) // 9)
        if not count:
            raise PickleError("it is cut")
        self.stack.extend(np.ndarray((count,), ">f8", self.data, start + 1, (9,)).tolist())
        self.at = start + 9 * count

    def named(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}"
        if full not in self.classes:
            raise PickleError(f"a pickle that names {full[:100]}, which is not run")
        self.stack.append(_Class(full))

    def instance(self) -> None:
        arguments, of = self.stack.pop(), self.stack.pop()
        if not isinstance(of, _Class) or not isinstance(arguments, tuple):
            raise PickleError("it calls what is no class")
        self.stack.append(Instance(of.name, arguments))

    def build(self) -> None:
        state = self.stack.pop()
        self.top(Instance).state = state

    def top(self, kind: type) -> Any:
        """The last value, which has to be of a kind."""
        if type(self.stack[-1]) is not kind:
            raise PickleError(f"it fills what is no {kind.__name__}")
        return self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def put(self, items: list[Any]) -> None:
        """Keys and values into a dictionary. Keys are text and small numbers: hashing others may take for ever."""
        keys = items[::2]
        if len(items) % 2 or not all(isinstance(key, str | int) and not _large(key) for key in keys):
            raise PickleError("a dictionary's keys are neither text nor numbers")
        self.top(dict).update(zip(keys, items[1::2], strict=True))

    def add(self, items: list[Any]) -> None:
        if not all(isinstance(one, str) for one in items):
            raise PickleError("a set's members are no text")
        self.top(set).update(items)

    def joined(self, count: int) -> None:
        items = self.stack[len(self.stack) - count :]
        if len(items) < count:
            raise PickleError("it takes more than there is")
        del self.stack[len(self.stack) - count :]
        self.stack.append(tuple(items))

    def start(self) -> None:
        if len(self.below) >= DEPTH:
            raise PickleError("it nests too deeply")
        self.below.append(self.stack)
        self.stack = []

    def pair(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put([key, value])

    def global_by_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.named(module, name)


def _large(key: str | int) -> bool:
    return isinstance(key, int) and not -(1 << 60) < key < 1 << 60


def _long(m: _Machine) -> None:
    size = m.number(1)
    if size > 9:
        raise PickleError("a number of more than 64 bits")
    m.stack.append(m.number(size, signed=True))


INSTRUCTIONS: dict[int, Callable[[_Machine], Any]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    ord("("): _Machine.start,
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("K"): lambda m: m.stack.append(m.number(1)),
    ord("M"): lambda m: m.stack.append(m.number(2)),
    ord("J"): lambda m: m.stack.append(m.number(4, signed=True)),
    0x8A: _long,
    ord("G"): _Machine.decimals,
    ord("X"): lambda m: m.stack.append(m.text(m.number(4))),
    0x8C: lambda m: m.stack.append(m.text(m.number(1))),
    0x8D: lambda m: m.stack.append(m.text(m.number(8))),
    ord("B"): lambda m: m.stack.append(bytes(m.take(m.number(4)))),
    ord("C"): lambda m: m.stack.append(bytes(m.take(m.number(1)))),
    0x8E: lambda m: m.stack.append(bytes(m.take(m.number(8)))),
    ord("]"): lambda m: m.container([]),
    ord("}"): lambda m: m.container({}),
    ord(")"): lambda m: m.stack.append(()),
    0x8F: lambda m: m.container(set()),
    ord("a"): lambda m: m.extend([m.stack.pop()]),
    ord("e"): lambda m: m.extend(m.marked()),
    ord("s"): _Machine.pair,
    ord("u"): lambda m: m.put(m.marked()),
    0x90: lambda m: m.add(m.marked()),
    0x85: lambda m: m.joined(1),
    0x86: lambda m: m.joined(2),
    0x87: lambda m: m.joined(3),
    ord("t"): lambda m: m.stack.append(tuple(m.marked())),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("q"): lambda m: m.remember(m.number(1)),
    ord("r"): lambda m: m.remember(m.number(4)),
    ord("h"): lambda m: m.recall(m.number(1)),
    ord("j"): lambda m: m.recall(m.number(4)),
    ord("c"): lambda m: m.named(m.line(), m.line()),
    0x93: _Machine.global_by_stack,
    0x81: _Machine.instance,  # NEWOBJ
    ord("R"): _Machine.instance,  # REDUCE
    ord("b"): _Machine.build,
}
STOP = ord(".")


def read_pickle(data: Buffer, classes: Collection[str] = ()) -> Any:
    """What a pickle holds; objects of the `classes` named (`module.Name`) as `Instance`.

    Raises:
        PickleError: it is damaged, or has an instruction or a class that is not expected.
    """
    machine = _Machine(data, classes)
    try:
        while (code := data[machine.at]) != STOP:
            machine.at += 1
            INSTRUCTIONS[code](machine)
        return machine.stack.pop()
    except PickleError:
        raise
    except KeyError as error:
        raise PickleError("an instruction or a reference that is not expected") from error
    except (IndexError, TypeError) as error:
        raise PickleError("it is damaged") from error
