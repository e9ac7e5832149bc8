"""Train on another machine, without a network between the two: see README.md in this folder."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

RUNS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(RUNS), str(RUNS.parent / "src")]  # a bare checkout, where unembed is not installed

import click  # noqa: E402
from remote import archive  # noqa: E402

from unembed.cli.command_group import Commands  # noqa: E402
from unembed.cli.terminal import printable  # noqa: E402
from unembed.config import config_to_dict, load_config, overridden  # noqa: E402
from unembed.errors import DataError, InputError  # noqa: E402

THERE, BACK = (5 * archive.MIB, "xz"), (15 * archive.MIB, "gz")  # at most 8 files of 16 MiB come back
LINES = 8  # of the log that are shown
FOLDER = click.Path(path_type=Path, file_okay=False)
FOUND = click.Path(path_type=Path, exists=True)
WORK = click.argument("work", type=FOLDER)
NAME = click.option("--name", default="run", show_default=True, help="Folder of the run in WORK.")


@click.group(cls=Commands, help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("source", type=FOUND)
@click.option("--data", type=FOLDER, help="Folder that `unembed prepare` wrote.")
@click.option("--share", type=(str, float), multiple=True, help="Send this share of a part's passages: novels-100 0.4.")
@click.option("--wheels", type=FOUND, help="Folder of wheels that the other machine lacks.")
@click.option("-o", "--output", required=True, type=FOLDER, help="Folder for the loads.")
def pack(
    source: Path, data: Path | None, share: tuple[tuple[str, float], ...], wheels: Path | None, output: Path
) -> None:
    """Put into loads what a training needs, if SOURCE is its configuration, or an inverter's folder to start from."""
    from remote.contents import add_training

    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent) as staged:
        if (source / "config.json").is_file():
            shutil.copytree(source, Path(staged, "start"))
        elif source.is_dir() or data is None:
            raise InputError(f"{source}: expected the folder of an inverter, or a configuration with --data SHARDS")
        else:
            add_training(Path(staged), source, data, dict(share), wheels)
        sizes = archive.write(Path(staged), output, *THERE)
    for number, size in enumerate(sizes, 1):
        click.echo(f"{output}/load-{number:02d}: {size / archive.MIB:.1f} MiB")


@main.command()
@click.argument("loads", type=FOLDER, nargs=-1, required=True)
@click.option("-o", "--output", "work", required=True, type=FOLDER, help="Folder to work in.")
def unpack(loads: tuple[Path, ...], work: Path) -> None:
    """Check the loads, a folder of them for each time that `pack` was called, and put all into WORK."""
    for folder in loads:
        archive.read(folder, work)
    click.echo(f"{work}: {', '.join(sorted(path.name for path in work.iterdir()))}")


@main.command()
@WORK
@click.argument("first", nargs=-1)
@NAME
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time box, FIRST included.")
@click.option("--from", "start_from", type=FOLDER, help="Inverter to start from.  [default: WORK/start, if any]")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change a key of the configuration.")
def start(
    work: Path, first: tuple[str, ...], name: str, minutes: float | None, start_from: Path | None, sets: tuple[str, ...]
) -> None:
    """Start training, or go on with it, in a session of its own, which outlives this command.

    FIRST, after --, is a command to run before it; training follows whatever comes of that.
    """
    work = work.resolve()
    run, code = work / name, work / "code"
    config = overridden(config_to_dict(load_config(work / "config.yaml")), ",".join(sets))
    if start_from is None and (work / "start").is_dir():
        start_from = work / "start"
    run.mkdir(exist_ok=True)
    if running(run):
        raise InputError(f"{run}: is running already; look at it, or give another --name")
    (run / "done").unlink(missing_ok=True)
    job: dict[str, Any] = {"config": config, "data": str(work / "shards"), "minutes": minutes, "first": first}
    job["start_from"] = str(start_from.resolve()) if start_from else None
    (run / "job.json").write_text(json.dumps(job, indent=1), encoding="utf-8")
    environment = {"PYTHONPATH": f"{work / 'site'}:{code / 'src'}:{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}  # the log must hold what was said before a kill
    with (run / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(code / "runs" / "remote" / "job.py"), str(run)], env=os.environ | environment,
            cwd=work / "encoders", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    while process.poll() is None and not running(run):  # until it has loaded what it needs
        time.sleep(0.1)
    click.echo(f"process {process.pid}, from {start_from or 'new weights'}")
    if process.poll():
        click.echo(end_of_log(run))
        sys.exit(1)


@main.command()
@WORK
@click.argument("output", required=False, type=FOLDER)
@NAME
@click.option("--wait", default=0, show_default=True, help="Seconds to stay, or until the run has ended.")
@click.option("--load", default=1, show_default=True, help="1: what there is now; 2, ...: its other loads.")
def look(work: Path, output: Path | None, name: str, wait: int, load: int) -> None:
    """Show how a run goes, and put its log and its weights so far, in 8 bits, into OUTPUT. Exit code 1: it died."""
    run = work / name
    if not (run / "job.json").exists():
        raise InputError(f"{run}: no run was started here")
    until = time.monotonic() + wait
    while (alive := running(run)) and time.monotonic() < until:
        time.sleep(0.5)
    status = "running" if alive else "done" if (run / "done").exists() else "died"
    click.echo(f"{end_of_log(run)}\n{run}: {status}")
    if output is not None:
        if load == 1:
            from remote.contents import add_result

            with TemporaryDirectory(dir=work) as staged:
                add_result(Path(staged), run)
                archive.write(Path(staged), run / "look", *BACK)
        loads = sorted((run / "look").glob("load-*"))
        if not 1 <= load <= len(loads):
            raise InputError(f"--load {load}: expected 1 to {len(loads)}")
        shutil.copytree(loads[load - 1], output / loads[load - 1].name, dirs_exist_ok=True)
        click.echo(f"load {load} of {len(loads)} -> {output}")
    sys.exit(1 if status == "died" else 0)


@main.command()
@click.argument("loads", type=FOLDER)
@click.option("-o", "--output", required=True, type=FOLDER, help="Folder for the inverter and the log.")
def join(loads: Path, output: Path) -> None:
    """Check the loads that a look brought, and make OUTPUT/inverter of them."""
    from unembed.storage.checkpoint import load_inverter

    archive.read(loads, output)
    if not (output / "inverter").is_dir():
        raise DataError(f"{loads}: holds a log alone, since there was no checkpoint yet; it is in {output}")
    steps = load_inverter(output / "inverter", causal=None).results["steps"]
    click.echo(f"inverter of {steps:,} steps -> {output / 'inverter'}")


def running(run: Path) -> bool:
    """Whether a process holds the run's lock."""
    with (run / "lock").open("a") as lock, suppress(OSError):
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    return True


def end_of_log(run: Path) -> str:
    """The last lines that the run said, of its progress bar too."""
    lines = (run / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(printable(line)[:300] for line in lines[-LINES:])


if __name__ == "__main__":
    main()
