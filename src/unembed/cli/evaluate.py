"""`unembed evaluate`: how much of held-out texts comes back."""

import json
import sys
from typing import Any

import click

from unembed.cli.options import TEXT_FILES, decoding_options, load_inverter, option


@click.command()
@option("--texts", None, f"Held-out texts: {TEXT_FILES}.", metavar="FILE", required=True)
@option("--tokens", "32", "Tokens to cut texts to; natural: whole texts; N-M: of so many.", metavar="N|natural|N-M")
@option("--limit", None, "Texts measured at most.  [default: all]", type=click.IntRange(min=1))
@decoding_options
@click.option("--skip-bad", is_flag=True, help="Leave out rows that are no texts; the report says which and why.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    texts: str, tokens: str, limit: int | None, batch_size: int, skip_bad: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Measure how much of held-out texts comes back, with intervals and the level of chance.

    Each text is embedded by the inverter's own encoder and recovered from all masks, its length not given.
    """
    from unembed.cli.terminal import console, show_report, working
    from unembed.corpus.held_out import parse_tokens
    from unembed.corpus.sources import find_sources, read_values

    wanted = parse_tokens(tokens)
    find_sources([texts])
    with working("loading"):
        from unembed.evaluation.evaluate import evaluate as measure

        inverter = load_inverter(options)
    decoding, search = inverter.plan(**options)
    report = measure(
        inverter, read_values(texts), decoding, search, tokens=wanted, limit=limit, skip_bad=skip_bad, source=texts,
        batch_size=batch_size, show_progress_bar=sys.stderr.isatty(),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        show_report(console(), report)
