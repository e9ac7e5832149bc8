"""Pickles as data: the same as Python's own unpickler for what stores hold, and nothing runs."""

import io
import os
import pickle
import pickletools
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unembed.stores.pickles import Instance, PickleError, read_pickle

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(value=VALUES, protocol=st.sampled_from([2, 3, 4, 5]))
def test_it_reads_as_python_does(value: Any, protocol: int) -> None:
    written = pickle.dumps(value, protocol)
    known = all(one.name not in ("GLOBAL", "STACK_GLOBAL") for one, _, _ in pickletools.genops(written))
    if known:  # protocol 2 writes bytes as a call
        assert read_pickle(written) == pickle.loads(written)


@settings(deadline=None)
@given(numbers=st.lists(st.floats(width=64, allow_nan=False), max_size=5000))
def test_it_reads_vectors(numbers: list[float]) -> None:
    assert read_pickle(pickle.dumps({"vector": numbers}, 4))["vector"] == numbers


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damage_is_an_error_of_its_own(data: st.DataObject) -> None:
    written = bytearray(pickle.dumps({"a": [1.5] * 20, "b": {"c", "d"}, "e": (1, "x"), "f": None}, 4))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(written) - 1), st.integers(0, 255)), max_size=4)):
        written[at] = value
    with suppress(PickleError):
        read_pickle(bytes(written[: data.draw(st.integers(0, len(written)))]))


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_runs(tmp_path: Path, protocol: int) -> None:
    with pytest.raises(PickleError, match=r"names \w+\.mkdir, which is not run|not expected"):
        read_pickle(pickle.dumps([Touch(tmp_path / "ran")], protocol))
    assert not (tmp_path / "ran").exists()


class Thing:
    def __init__(self) -> None:
        self.name = "x"


def test_a_class_that_is_expected_stays_a_name() -> None:
    found = read_pickle(pickle.dumps(Thing()), {f"{__name__}.Thing"})
    assert isinstance(found, Instance)
    assert (found.of, found.arguments, found.state) == (f"{__name__}.Thing", (), {"name": "x"})
    assert str(found) == f"<{__name__}.Thing>"


BOMBS = {
    "a memo entry far away": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
    "a bytearray that is not there": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "a number of a thousand bytes": b"\x80\x04\x8a\xff" + b"\x7f" * 255 + b".",
    "a tuple of tuples as a key": b"\x80\x04}N\x85" + b"".join(
        b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60)
    ) + b"Ns.",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_small_pickle_takes_little(bomb: bytes) -> None:
    tracemalloc.start()
    with suppress(PickleError):
        read_pickle(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_an_object_in_itself() -> None:
    written = io.BytesIO()
    endless: list[Any] = []
    endless.append(endless)
    pickle.dump(endless, written, 4)
    found = read_pickle(written.getvalue())
    assert found[0] is found
