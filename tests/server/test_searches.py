"""Searches in the batcher: they take turns, count by their time, end in time, and let others through."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serving import Seen, working

from fakes import tiny_texts
from unembed.decoding.inversion import Inversion
from unembed.decoding.options import Decoding
from unembed.server.guided import Limits, Reached, search
from unembed.server.http_errors import Fault
from unembed.server.models import Models, Served
from unembed.server.pace import Cost
from unembed.server.tickets import Done
from unembed.server.work import Recovered, invert

UNIT = [1.0] + [0.0] * 15
ENOUGH = Limits(20.0, None, float("inf"))


def test_a_token_is_changed_where_it_was_not_taken_over(served: Served) -> None:
    """By alignment, not by position: one more word in front changes one token."""
    one = served.inverter.invert(np.array(UNIT, np.float32))[0]

    def texts(row: int, seconds: float) -> Iterator[Inversion]:
        for words in (["a", "cat"], ["the", "a", "cat"], ["the", "a", "cat"], ["the", "a", "dog"]):
            yield replace(one, tokens=words)

    found: list[Reached] = []

    async def follow() -> None:
        async with working() as batcher:
            await batcher.submit(served, 1, lambda _: search(texts, 1, ENOUGH, found.append)).result()

    asyncio.run(follow())
    assert [reached.step for reached in found] == [0, 1, 2, 3]
    assert [reached.changed[0] for reached in found] == [
        [False, False], [True, False, False], [False, False, False], [False, False, True],
    ]  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3])
def test_searches_end_with_the_time_that_their_request_has(served: Served, rows: int) -> None:
    """They would go on for as long as the limit allows and longer: what was found comes, and no refusal at the end."""
    one = served.inverter.invert(np.array(UNIT, np.float32))[0]

    def rounds(_: int, seconds: float) -> Iterator[Inversion]:
        for number in range(1000):
            time.sleep(0.25)
            yield replace(one, seconds=0.25 * number)
            if 0.25 * number > seconds:
                return

    async def follow() -> list[Recovered]:
        async with working(time_limit=4.0) as batcher:
            make = lambda ticket: search(rounds, rows, Limits(4.0, None, ticket.deadline))  # noqa: E731
            found: list[Recovered] = await batcher.submit(served, 1, make, Cost(seconds=4.0)).result()
            return found

    started = time.monotonic()
    assert len(asyncio.run(follow())) == rows
    assert 1.5 < time.monotonic() - started < 4.5


def test_a_blind_request_is_done_while_long_searches_run(slow: Callable[[float], Models]) -> None:
    """Three searches of slow rounds: 16 passes must not wait for more than a few of them."""
    models = slow(0.05)
    inverter = models.default.inverter
    e_BD = inverter.encode(tiny_texts(4, 1))
    seen = Seen()

    async def together() -> int:
        async with working(seen) as batcher:
            searches = [
                batcher.submit(
                    models.default,
                    1,
                    lambda t, e=e_D: search(lambda _, seconds: inverter.search(e, seconds=seconds), 1, ENOUGH, t.emit),
                )
                for e_D in e_BD[:3]
            ]
            for ticket in searches:
                assert (await ticket.event()).step == 0
            before = len(seen.rounds)
            plain = batcher.submit(models.default, 1, lambda _: invert(models.default, e_BD[3:], Decoding(steps=16)))
            assert len(await plain.result()) == 1
            rounds = len(seen.rounds) - before
            for ticket in searches:
                assert not isinstance(await ticket.event(), Done)
                ticket.leave()
            return rounds

    assert asyncio.run(together()) <= 8


def test_searches_take_turns_and_are_counted(other: Served) -> None:
    seen, order = Seen(), list[str]()

    async def together() -> None:
        gate = threading.Event()
        async with working(seen, max_batch=2) as batcher:
            tickets = []
            for number, e_D in enumerate(other.inverter.encode(tiny_texts(3, 2))):
                watch = lambda reached, n=number: (gate.wait(20), order.append(f"{n}.{reached.step}"))  # noqa: E731
                begin = lambda _, s, e=e_D: other.inverter.search(e, seconds=s, max_calls=60)  # noqa: E731
                limits = Limits(60.0, 60, float("inf"))
                work = lambda _, b=begin, w=watch, x=limits: search(b, 1, x, w)  # noqa: E731
                tickets.append(batcher.submit(other, 1, work, Cost(seconds=5.0)))
            gate.set()
            found = [await ticket.result() for ticket in tickets]
            assert sum(calls for _, calls in seen.rounds) == sum(f[0].inversions[0].encoder_calls for f in found)
            assert sum(passes for passes, _ in seen.rounds) == sum(f[0].passes for f in found)

    asyncio.run(together())
    assert {f"{number}.{step}" for number in range(3) for step in range(2)} <= set(order)
    assert {name[0] for name in order[:3]} == {"0", "1", "2"}  # although there is room for two at a time


def test_a_search_counts_by_its_time(other: Served) -> None:
    """It shares the thread with others and does not wait for their ends, but too many are refused."""
    inverter = other.inverter
    e_BD = inverter.encode(tiny_texts(2, 2))

    async def fill() -> None:
        gate = threading.Event()

        def make(_: Any) -> Any:
            limits = Limits(60.0, 9, float("inf"))
            return search(
                lambda _, s: inverter.search(e_BD[0], seconds=s, max_calls=9), 1, limits, lambda _: gate.wait(20)
            )

        async with working(time_limit=20.0) as batcher:
            blind = lambda _: invert(other, e_BD[1:], Decoding(steps=8))  # noqa: E731
            first = batcher.submit(other, 1, make, Cost(seconds=20.0))
            with pytest.raises(Fault, match="longer than the limit of 20 s") as refused:
                batcher.submit(other, 1, make, Cost(seconds=11.0))  # of the one before it, its own share
            assert refused.value.retry_after == 10
            second = batcher.submit(other, 1, make, Cost(seconds=10.0))
            plain = batcher.submit(other, 1, blind, Cost(8))
            gate.set()
            assert len(await plain.result()) == len(await first.result()) == len(await second.result()) == 1

    asyncio.run(fill())
