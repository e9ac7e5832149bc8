"""Continuous batching: merged passes change nothing, places are freed, queues are bounded, ends are clean."""

import asyncio
import threading
import time
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from serving import Seen, working

from fakes import tiny_texts
from unembed.decoding.inversion import Inversion
from unembed.decoding.options import STRATEGIES, Decoding
from unembed.decoding.predictor import Predictor, stream
from unembed.server.admission import next_in_turn
from unembed.server.batching import Batcher
from unembed.server.http_errors import Fault
from unembed.server.models import Models, Served
from unembed.server.pace import Cost, Rate
from unembed.server.tickets import Done, Failed, Ticket
from unembed.server.work import Embedded, Need, Pause, Recovered, Snapshot, embed, invert, read


def blocked(gate: threading.Event) -> Any:
    """Work that holds the thread until the gate opens, so that others arrive meanwhile."""

    def make(ticket: Ticket) -> Generator[Need, Any, str]:
        ticket.emit("begun")
        gate.wait(20)
        return "held"
        yield Pause()

    return make


def endless(ticket: Ticket) -> Generator[Need, Any, None]:
    """Work that never ends of itself."""
    while True:
        ticket.emit("again")
        time.sleep(0.005)
        yield Pause()


def some_decodings() -> list[Decoding]:
    """Every strategy, sampled, guided or neither, steered or not, with as many candidates."""
    return [
        Decoding(steps, strategy, candidates, temperature, guidance, steering=steering, seed=steps)
        for strategy in STRATEGIES
        for steps, temperature, guidance, steering, candidates in (
            (3, 0.0, 0.0, 100.0, 1),
            (7, 0.6, 0.0, 30.0, 2),
            (5, 0.0, 1.0, 0.0, 1),
        )
    ]


def same(found: Inversion, expected: Inversion) -> bool:
    return found.ids == expected.ids and np.allclose(found.confidence, expected.confidence, atol=1e-4)


def test_merged_passes_recover_what_each_request_recovers_alone(models: Models) -> None:
    """All strategies at once, over two models, must come out as `Inverter.invert` gives them one by one."""
    cases = [(served, decoding) for served in models.all for decoding in some_decodings()]
    vectors = [
        served.inverter.encode([text]) for (served, *_), text in zip(cases, tiny_texts(len(cases), 3), strict=True)
    ]
    seen = Seen()

    async def together() -> list[list[Recovered]]:
        gate = threading.Event()
        async with working(seen, max_batch=256, max_waiting=128) as batcher:
            holder = batcher.submit(models.default, 1, blocked(gate))
            tickets = [
                batcher.submit(served, decoding.candidates, lambda _, s=served, e=e_BD, d=decoding: invert(s, e, d))
                for (served, decoding), e_BD in zip(cases, vectors, strict=True)
            ]
            gate.set()
            found = [await ticket.result() for ticket in tickets]
            assert await holder.result() == "held"
            return found

    found = asyncio.run(together())
    for (served, decoding), e_BD, recovered in zip(cases, vectors, found, strict=True):
        expected = served.inverter.invert(e_BD, decoding)[0]
        several = expected.candidates or [expected]
        assert len(recovered[0].inversions) == len(several)
        for one, other in zip(recovered[0].inversions, several, strict=True):
            assert same(one, other), decoding
            assert one.cosine == pytest.approx(other.cosine, abs=1e-4)
    assert max(requests for _, requests, _ in seen.passes) == len(cases) // 2  # one model's requests, all in one pass
    assert len(seen.passes) <= 2 * 8


@pytest.mark.parametrize("model", ["tiny", "other"])
def test_frames_are_those_of_the_library(models: Models, model: str) -> None:
    served = models.find(model)
    e_BD = served.inverter.encode(["no river is quiet."])
    options = Decoding(steps=6, strategy="two-stage", temperature=0.4, seed=2)

    async def watched() -> list[Snapshot]:
        async with working() as batcher:
            ticket = batcher.submit(served, 1, lambda t: invert(served, e_BD, options, watch=t.emit))
            found = []
            while not isinstance(event := await ticket.event(), Done):
                found.append(event)
            return found

    with torch.inference_mode():
        modulation = served.inverter.denoiser.condition(torch.tensor(e_BD))
        steering = served.inverter.steering(torch.tensor(e_BD))
        expected = list(stream(served.inverter.denoiser, modulation, options, steering=steering))
    assert (steering is None) == (model == "tiny")
    found = asyncio.run(watched())
    assert [snapshot.ids for snapshot in found] == [frame.ids.tolist() for frame in expected]
    assert [snapshot.changed for snapshot in found] == [frame.changed.tolist() for frame in expected]
    assert [snapshot.step for snapshot in found] == [frame.step for frame in expected]
    assert [snapshot.done for snapshot in found] == [frame.done for frame in expected]


def test_requests_join_and_leave_between_passes(served: Served) -> None:
    """A second request that comes while the first runs shares its passes, and both end."""
    e_BD = served.inverter.encode(tiny_texts(2, 4))
    seen = Seen()

    async def staggered() -> None:
        async with working(seen) as batcher:
            reached, go_on = threading.Event(), threading.Event()

            def watch(snapshot: Snapshot) -> None:
                if snapshot.step == 5:
                    reached.set()
                    go_on.wait(20)

            first = batcher.submit(served, 1, lambda _: invert(served, e_BD[:1], Decoding(steps=12), watch=watch))
            await asyncio.to_thread(reached.wait, 20)
            second = batcher.submit(served, 1, lambda _: invert(served, e_BD[1:], Decoding(steps=12)))
            go_on.set()
            await first.result()
            await second.result()

    asyncio.run(staggered())
    requests = [requests for _, requests, _ in seen.passes]
    assert requests[:5] == [1] * 5
    assert requests[6:12] == [2] * 6
    assert requests[12:] == [1] * (len(requests) - 12)
    assert sum(requests) == 24


def test_a_large_request_lets_others_in(served: Served) -> None:
    """It takes part of a pass only, and gives its place up between its parts."""
    e_BD = served.inverter.encode(tiny_texts(12, 5))
    seen = Seen()

    async def mixed() -> list[str]:
        order: list[str] = []
        gate = threading.Event()
        async with working(seen, max_batch=8) as batcher:
            batcher.submit(served, 1, blocked(gate))
            large = [
                batcher.submit(served, 4, lambda _: invert(served, e_BD, Decoding(steps=4), at_once=batcher.at_once))
                for _ in range(2)
            ]
            small = batcher.submit(served, 1, lambda _: invert(served, e_BD[:1], Decoding(steps=4)))
            gate.set()

            async def note(name: str, ticket: Ticket) -> None:
                found = await ticket.result()
                order.append(name)
                assert [one.inversions[0].ids for one in found] == expected[: len(found)]

            await asyncio.gather(note("small", small), *(note("large", ticket) for ticket in large))
        return order

    expected = [inversion.ids for inversion in served.inverter.invert(e_BD, steps=4)]
    assert asyncio.run(mixed()) == ["small", "large", "large"]
    assert max(rows for _, _, rows in seen.passes) <= 8


def test_texts_of_many_requests_are_embedded_together(served: Served) -> None:
    seen = Seen()
    texts = tiny_texts(40, 6)

    async def together() -> list[Embedded]:
        gate = threading.Event()
        async with working(seen) as batcher:
            assert await batcher.submit(served, 1, blocked(gate)).event() == "begun"
            tickets = [
                batcher.submit(served, 1, lambda _, t=text: embed([t], read(served, [t]))) for text in texts[:10]
            ]
            tickets.append(batcher.submit(served, 1, lambda _: embed(texts, read(served, texts))))
            gate.set()
            return [await ticket.result() for ticket in tickets]

    *single, many = asyncio.run(together())
    assert seen.embedded == [50]
    np.testing.assert_allclose(many.vectors, served.inverter.encode(texts), atol=1e-6)
    np.testing.assert_allclose(np.concatenate([one.vectors for one in single]), many.vectors[:10], atol=1e-6)
    assert [one.ids[0] for one in single] == served.inverter.tokenizer.encode_batch(texts[:10])


def test_a_full_queue_refuses_and_says_when_to_come_back(served: Served) -> None:
    async def fill() -> None:
        gate = threading.Event()
        async with working(max_batch=1, max_waiting=2) as batcher:
            holder = batcher.submit(served, 1, blocked(gate))
            assert await holder.event() == "begun"
            waiting = [batcher.submit(served, 1, blocked(gate)) for _ in range(2)]
            assert (batcher.active, batcher.waiting) == (1, 2)
            with pytest.raises(Fault, match="2 requests are waiting") as refused:
                batcher.submit(served, 1, blocked(gate))
            assert (refused.value.status, refused.value.kind) == (503, "overloaded")
            assert refused.value.retry_after is not None
            waiting[0].leave()  # a place in the queue is free at once
            third = batcher.submit(served, 1, blocked(gate))
            gate.set()
            assert [await ticket.result() for ticket in (holder, waiting[1], third)] == ["held"] * 3

    asyncio.run(fill())


def test_what_cannot_be_done_in_time_is_refused_at_once(served: Served) -> None:
    """By the pace of what was done: an accepted request should be finished, not cut off."""
    e_BD = served.inverter.encode(["a young king."])
    blind = lambda _: invert(served, e_BD, Decoding(steps=8))  # noqa: E731

    async def fill() -> None:
        gate = threading.Event()
        async with working(time_limit=20.0) as batcher:
            await batcher.submit(served, 1, blind, Cost(8)).result()
            rate = batcher.pace.passes[served.id]
            assert 0 < rate.quickest <= rate.average < 1
            batcher.pace.passes[served.id] = Rate(1.0, 1.0, 0.1)  # a second each of late, a tenth at best
            with pytest.raises(
                Fault, match="would take about 40 s, a request's limit is 20 s: ask for fewer"
            ) as hopeless:
                batcher.submit(served, 1, endless, Cost(400))
            assert hopeless.value.status == 422
            holder = batcher.submit(served, 1, blocked(gate), Cost(190))
            assert await holder.event() == "begun"
            with pytest.raises(Fault, match="wait already take longer than the limit of 20 s") as refused:
                batcher.submit(served, 1, endless, Cost(15))
            assert (refused.value.status, refused.value.retry_after) == (503, 10)
            fits = batcher.submit(served, 1, blind, Cost(8))  # of the large one before it as much counts as its own
            gate.set()
            await fits.result()

    asyncio.run(fill())


def test_a_client_leaves_others_a_share_of_the_queue(served: Served) -> None:
    async def fill() -> list[str]:
        gate, order = threading.Event(), list[str]()
        async with working(max_batch=1, max_waiting=8) as batcher:
            tickets = [batcher.submit(served, 1, blocked(gate), client="large")]
            assert await tickets[0].event() == "begun"

            def noting(name: str) -> Any:
                def make(ticket: Ticket) -> Generator[Need, Any, str]:
                    order.append(name)
                    return name
                    yield Pause()

                return make

            tickets += [batcher.submit(served, 1, noting("large"), client="large") for _ in range(5)]
            with pytest.raises(Fault, match="5 of your requests are waiting already") as refused:
                batcher.submit(served, 1, noting("large"), client="large")
            assert refused.value.status == 503
            tickets += [batcher.submit(served, 1, noting(name), client=name) for name in ("one", "two")]
            gate.set()
            for ticket in tickets:
                await ticket.result()
            return order

    assert asyncio.run(fill()) == ["large"] * 5 + ["one", "two"]


def test_who_has_no_canvas_at_work_goes_first(served: Served) -> None:
    def ticket(client: str, rows: int = 1) -> Any:
        return SimpleNamespace(client=client, rows=rows)

    first, second, third = ticket("a"), ticket("b"), ticket("c")
    assert next_in_turn([first, second, third], []) is first
    assert next_in_turn([first, second, third], [ticket("a")]) is second
    assert next_in_turn([first, second], [ticket("a", 4), ticket("b", 2), ticket("b", 3)]) is first
    assert next_in_turn([], [first]) is None


def test_who_leaves_frees_the_place_and_its_work_ends(served: Served) -> None:
    async def leave() -> None:
        closed = threading.Event()

        def make(ticket: Ticket) -> Generator[Need, Any, None]:
            try:
                yield from endless(ticket)
            finally:
                closed.set()

        async with working(max_batch=1) as batcher:
            with batcher.submit(served, 1, make) as ticket:
                assert await ticket.event() == "again"
            assert await asyncio.to_thread(closed.wait, 20)
            e_BD = served.inverter.encode(["a child."])
            await batcher.submit(served, 1, lambda _: invert(served, e_BD, Decoding(steps=2))).result()
            assert (batcher.active, batcher.waiting) == (0, 0)

    asyncio.run(leave())


def test_a_request_ends_with_its_time(served: Served) -> None:
    async def wait() -> None:
        async with working(time_limit=0.2) as batcher:
            with pytest.raises(Fault, match="longer than 0.2 s") as found:
                await batcher.submit(served, 1, endless).result()
            assert found.value.status == 504

    asyncio.run(wait())


def test_one_request_that_fails_does_not_take_others_along(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    def broken(ticket: Ticket) -> Generator[Need, Any, None]:
        yield Pause()
        raise RuntimeError("secret detail")

    async def run() -> None:
        e_BD = served.inverter.encode(["a child."])
        async with working() as batcher:
            bad = batcher.submit(served, 1, broken)
            good = batcher.submit(served, 1, lambda _: invert(served, e_BD, Decoding(steps=4)))
            assert len(await good.result()) == 1
            with pytest.raises(Fault, match="^internal error$"):
                await bad.result()
            assert batcher.status == "ok"

    asyncio.run(run())
    assert "secret detail" in caplog.text


def test_a_pass_that_fails_fails_its_requests_and_the_thread_goes_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Predictor, *_: Any) -> Any:
        raise MemoryError

    async def run() -> None:
        e_BD = served.inverter.encode(["a child."])
        async with working() as batcher:
            with monkeypatch.context() as patch:
                patch.setattr(Predictor, "questions", fail)
                with pytest.raises(Fault, match="internal error"):
                    await batcher.submit(served, 1, lambda _: invert(served, e_BD, Decoding(steps=4))).result()
            assert len(await batcher.submit(served, 1, lambda _: invert(served, e_BD, Decoding())).result()) == 1

    asyncio.run(run())


def test_only_the_culprit_of_a_failed_pass_fails(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One request of the merged pass cannot be computed: the others come out as they would alone."""
    e_BD = served.inverter.encode(tiny_texts(3, 8))
    questions, encode = Predictor.questions, type(served.inverter.encoder).encode

    def poisoned(self: Predictor, frame: Any) -> Any:
        if self.decoding.seed == 13 and frame.step == 2:
            raise IndexError("index 30522 is out of bounds")
        return questions(self, frame)

    def picky(self: Any, texts: Any, *rest: Any) -> Any:
        if "poison" in texts:
            raise IndexError("poison")
        return encode(self, texts, *rest)

    monkeypatch.setattr(Predictor, "questions", poisoned)
    monkeypatch.setattr(type(served.inverter.encoder), "encode", picky)

    async def run() -> list[list[Recovered]]:
        gate = threading.Event()
        async with working() as batcher:
            assert await batcher.submit(served, 1, blocked(gate)).event() == "begun"
            good = [
                batcher.submit(served, 1, lambda _, n=n: invert(served, e_BD[n : n + 1], Decoding(steps=4)))
                for n in range(3)
            ]
            bad = batcher.submit(served, 1, lambda _: invert(served, e_BD[:1], Decoding(steps=4, seed=13)))
            text, poison = (batcher.submit(served, 1, lambda _, t=t: embed([t], [[5]])) for t in ("a child.", "poison"))
            gate.set()
            for ticket in (bad, poison):
                with pytest.raises(Fault, match="internal error"):
                    await ticket.result()
            assert len((await text.result()).vectors) == 1
            return [await ticket.result() for ticket in good]

    expected = [served.inverter.invert(e_D, steps=4)[0] for e_D in e_BD]
    for (found,), one in zip(asyncio.run(run()), expected, strict=True):
        assert same(found.inversions[0], one)
    assert "poison" in caplog.text


def test_long_texts_take_turns_with_short_ones(served: Served) -> None:
    """Turns are counted in tokens, and each request has its own, so that a long one waits for the next."""
    seen, order = Seen(), list[str]()
    words = " ".join(["child"] * 60)

    async def run() -> None:
        gate = threading.Event()
        async with working(seen) as batcher:
            assert await batcher.submit(served, 1, blocked(gate)).event() == "begun"
            large = batcher.submit(served, 1, lambda _: embed([words] * 64, read(served, [words]) * 64))
            small = [batcher.submit(served, 1, lambda _: embed(["a child."], [[5, 6]])) for _ in range(3)]
            gate.set()

            async def note(name: str, ticket: Ticket) -> None:
                await ticket.result()
                order.append(name)

            await asyncio.gather(note("large", large), *(note("small", ticket) for ticket in small))

    asyncio.run(run())
    assert order == ["small"] * 3 + ["large"]
    assert max(seen.embedded) < 64


def test_draining_finishes_what_runs_and_refuses_what_waits(served: Served) -> None:
    async def drain() -> None:
        gate = threading.Event()
        async with working(max_batch=1) as batcher:
            running = batcher.submit(served, 1, blocked(gate))
            assert await running.event() == "begun"
            waiting = batcher.submit(served, 1, blocked(gate))
            batcher.drain(20.0)
            assert batcher.status == "shutting down"
            for attempt in (waiting.result, lambda: batcher.submit(served, 1, blocked(gate)).result()):
                with pytest.raises(Fault, match="shutting down") as refused:
                    await attempt()
                assert refused.value.status == 503
            gate.set()
            assert await running.result() == "held"

    asyncio.run(drain())


def test_what_is_not_finished_when_the_draining_ends_fails(served: Served) -> None:
    async def drain() -> None:
        async with working() as batcher:
            tickets = [batcher.submit(served, 1, endless) for _ in range(3)]
            await tickets[-1].event()
            batcher.drain(0.2)
            batcher.drain(60.0)  # changes nothing any more
            for ticket in tickets:
                with pytest.raises(Fault, match="shutting down"):
                    await asyncio.wait_for(ticket.result(), 10)
            assert batcher.active == 0

    asyncio.run(drain())


def test_closing_does_not_wait_for_ever(served: Served) -> None:
    async def close() -> Any:
        batcher = Batcher(Seen(), 1, 1, 60.0)
        batcher.start()
        ticket = batcher.submit(served, 1, endless)
        await ticket.event()
        await asyncio.to_thread(batcher.close, 0.1)
        while not isinstance(event := await ticket.event(), Failed):
            assert event == "again"
        return event.fault.status

    assert asyncio.run(close()) == 503
