"""Store a trained inverter as the package carries it: weights in bfloat16 or 8 bits, shards under 50 MB.

    python runs/package.py RUN/inverter src/unembed/weights/minilm --table table.jsonl

With the table of `evaluate_table.py`, its row for `confidence` in 8 passes goes onto the model card and the page.
The table has to be of SOURCE. To show the figures of weights in 8 bits, store them with --int8, measure what was
stored, and store that with --int8 and --table: its weights stay what they are.
"""

import json
from pathlib import Path

import click
import torch
from scripts import run

from unembed.inverter import Inverter
from unembed.storage.fingerprint import fingerprint


@click.command(help=__doc__)
@click.argument("source")
@click.argument("target")
@click.option("--table", type=click.Path(path_type=Path, exists=True), help="JSONL of evaluate_table.py")
@click.option(
    "--int8",
    is_flag=True,
    help="large matrices in 8 bits with a scale for each row, but for the token table; the rest stays bfloat16",
)
def main(source: str, target: str, table: Path | None, int8: bool) -> None:
    inverter = Inverter.from_pretrained(source)
    if table is not None:
        rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
        wanted = ("confidence", 8, fingerprint(inverter.denoiser))
        found = (row for row in rows if (row["strategy"], row["steps"], row["model"]["sha256"]) == wanted)
        inverter.results["evaluation"] = next(found)
    inverter.save_pretrained(target, dtype=torch.int8 if int8 else torch.bfloat16)
    click.echo(f"{source} -> {target}")


if __name__ == "__main__":
    run(main)
