"""Load on the demo server: concurrent streams of inversions for a bounded time, and what they saw.

    python bench/load.py                          starts a server with the packaged inverter, then measures
    python bench/load.py --url http://host:8080   measures one that runs (with --rate-limit 0)
    python bench/load.py --searches 2             the same beside two guided inversions at any time

Unusual here: HTTP is written by hand on asyncio streams, so that the client costs little beside the server it shares a
machine with. Each stream asks for one inversion after the other; one that is refused with 503 waits as told.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import click

from unembed.server.example_sentences import EASY, HARD

COLUMNS = (
    "streams  done  refused  failed  seq/s  passes/s  rows/pass   first frame p50/p99 s      done p50/p99 s   memory MB"
)


@dataclass
class Seen:
    """What the streams of one level saw."""

    first: list[float] = field(default_factory=list)  # seconds from request to first frame
    done: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


async def ask(host: str, port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, str], bytes]:
    """One request and its whole answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request(host, path, body))
        status, headers = await head(reader)
        return (
            status,
            headers,
            unchunked(await reader.read()) if "transfer-encoding" in headers else await reader.read(),
        )
    finally:
        writer.close()


def request(host: str, path: str, body: dict[str, Any] | None) -> bytes:
    """A request as bytes, on a connection of its own."""
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [] if body is None else ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return int(lines[0].split()[1]), headers


def unchunked(data: bytes) -> bytes:
    """The body of a chunked answer."""
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        parts.append(data[: int(size, 16)])
        data = data[int(size, 16) + 2 :]
    return b"".join(parts)


async def invert(host: str, port: int, body: dict[str, Any], seen: Seen) -> None:
    """One inversion, streamed."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port, limit=2**20)
    first, finished = 0.0, False
    try:
        writer.write(request(host, "/v1/invert", body))
        status, headers = await head(reader)
        if status != 200:
            seen.outcomes["refused" if status == 503 else f"status {status}"] += 1
            await asyncio.sleep(min(float(headers.get("retry-after", 1)), 2.0))
            return
        while line := await reader.readline():
            if line.startswith(b"data: "):
                first = first or time.perf_counter() - started
                finished = finished or line.startswith(b'data: {"type": "result"')
        seen.outcomes["done" if finished else "broken"] += 1
        if finished:
            seen.first.append(first)
            seen.done.append(time.perf_counter() - started)
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.outcomes[type(error).__name__] += 1
    finally:
        writer.close()


async def level(
    host: str, port: int, streams: int, seconds: float, bodies: Sequence[dict[str, Any]], searches: int = 0
) -> tuple[Seen, float]:
    """`streams` clients at once for so many seconds; what was begun is finished, but not the searches beside it."""
    seen, aside = Seen(), Seen()
    started = time.perf_counter()

    async def one(number: int) -> None:
        turn = number
        while time.perf_counter() - started < seconds:
            await invert(host, port, bodies[turn % len(bodies)], seen)
            turn += streams

    async def search(number: int) -> None:
        for turn in count(number, searches):
            await invert(host, port, bodies[turn % len(bodies)] | {"seconds": 20.0}, aside)

    beside = [asyncio.create_task(search(number)) for number in range(searches)]
    await asyncio.gather(*(one(number) for number in range(streams)))
    spent = time.perf_counter() - started
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    seen.outcomes.update({f"guided {name}": times for name, times in aside.outcomes.items() if name != "done"})
    return seen, spent


async def metrics(host: str, port: int) -> Counter[str]:
    """Sums of the server's metrics over their labels."""
    _, _, text = await ask(host, port, "/metrics")
    sums: Counter[str] = Counter()
    for line in text.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            sums[name.partition("{")[0]] += float(value)  # type: ignore[assignment]
    return sums


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


async def measure(url: str, levels: Sequence[int], seconds: float, steps: int, searches: int = 0) -> dict[int, float]:
    """Print a line for each level; returns sequences per second of each."""
    place = urlsplit(url)
    host, port = place.hostname or "127.0.0.1", place.port or 80
    status, _, answer = await ask(host, port, "/v1/embeddings", {"input": [*EASY, *HARD]})
    if status != 200:
        raise click.ClickException(f"{url} answered {status}: {answer.decode()[:200]}")
    bodies = [
        {"embeddings": entry["embedding"], "steps": steps, "stream": True} for entry in json.loads(answer)["data"]
    ]
    await level(host, port, 2, 1.0, bodies)  # warm
    rates: dict[int, float] = {}
    click.echo(COLUMNS)
    for streams in levels:
        before = await metrics(host, port)
        seen, spent = await level(host, port, streams, seconds, bodies, searches)
        after = await metrics(host, port)
        rates[streams] = len(seen.done) / spent
        passes = after["unembed_passes_total"] - before["unembed_passes_total"]
        merged = after["unembed_merged_passes_total"] - before["unembed_merged_passes_total"]
        fine = {"done", "refused", "guided refused"}
        failed = sum(times for outcome, times in seen.outcomes.items() if outcome not in fine)
        memory = [counts["process_resident_memory_bytes"] / 2**20 for counts in (before, after)]
        click.echo(
            f"{streams:7} {seen.outcomes['done']:5} {seen.outcomes['refused']:8} {failed:7} {rates[streams]:6.2f} "
            f"{passes / spent:9.1f} {passes / max(merged, 1):10.1f} "
            f"{percentile(seen.first, 0.5):12.3f} / {percentile(seen.first, 0.99):6.3f} "
            f"{percentile(seen.done, 0.5):12.3f} / {percentile(seen.done, 0.99):6.3f} "
            f"{memory[0]:6.0f} -> {memory[1]:.0f}"
        )
        if searches:
            rounds = after["unembed_round_seconds_count"] - before["unembed_round_seconds_count"]
            calls = after["unembed_encoder_calls_total"] - before["unembed_encoder_calls_total"]
            says = f"{rounds / spent:.2f} rounds/s, {calls / spent:.1f} encoder calls/s"
            click.echo(f"        beside {searches} searches: {says}")
        for outcome in seen.outcomes.keys() - {"done", "refused"}:
            click.echo(f"        {outcome}: {seen.outcomes[outcome]}")
    return rates


@click.command()
@click.option("--url", help="Server to measure; without it one is started.")
@click.option("--model", help="Inverter of the server that is started.  [default: the packaged one]")
@click.option("--levels", default="1,8,32,128", show_default=True, help="Numbers of concurrent streams.")
@click.option("--seconds", default=20.0, show_default=True, help="For each level.")
@click.option("--steps", default=8, show_default=True, help="Passes of each inversion.")
@click.option(
    "--searches", default=0, show_default=True, help="Guided inversions of 20 seconds at any time beside them."
)
def main(url: str | None, model: str | None, levels: str, seconds: float, steps: int, searches: int) -> None:
    """Measure the server under 1, 8, 32 and 128 concurrent streams."""
    counts = [int(streams) for streams in levels.split(",")]
    server = None
    if url is None:
        command = [
            sys.executable,
            "-m",
            "unembed",
            "serve",
            "--port",
            "0",
            "--rate-limit",
            "0",
            *(["--model", model] if model else []),
        ]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        assert server.stdout is not None
        line = server.stdout.readline()
        click.echo(line.rstrip())
        url = next((word for word in line.split() if word.startswith("http://")), None)
        if url is None:
            raise click.ClickException("the server did not start")
    try:
        rates = asyncio.run(measure(url, counts, seconds, steps, searches))
    finally:
        if server is not None:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    one, many = counts[0], 32 if 32 in counts else counts[-1]
    click.echo(f"{many} streams give {rates[many] / max(rates[one], 1e-9):.1f} times the sequences/s of {one}")


if __name__ == "__main__":
    main()
