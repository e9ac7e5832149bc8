"""Train on a machine that is lent for a fixed time: no network there, files only while it lasts, few minutes a command.

\b
    here     borrowed.py pack configs/minilm_gpu.yaml --data SHARDS -o LOADS     source, shards and encoder in pieces
    there    borrowed.py unpack LOADS -o WORK                                    once all loads have arrived
             borrowed.py start WORK --minutes 18                                 returns at once; the training runs on
             borrowed.py poll WORK --wait 540                                    how it goes; 1 if it died
             borrowed.py collect WORK OUT                                        the inverter in pieces, at any time
    here     borrowed.py join OUT/run-inverter -o FOLDER                         FOLDER/inverter and its figures

`start` trains in a session of its own, which outlives the command, then measures from all masks on held-out texts.
Where the process was killed, the same `start` goes on from the newest checkpoint. Several runs in one WORK have a
--name each. `--set section.key=value` changes the packed configuration; each `--try` of the same form is trained for a
short while first, and the best goes on. Any machine can be its own borrowed one: WORK is a folder with `shards` in it.
"""

import fnmatch
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

CODE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CODE / "src"))  # a bare checkout, where unembed is not installed

import click  # noqa: E402
import yaml  # noqa: E402
from borrowed_job import TRAINING_ENCODER, Job, keep, log_rows, read_json, write_json  # noqa: E402
from pieces import MIB, Member, read_pieces, tree, write_pieces  # noqa: E402
from thinned import thinned, weighted  # noqa: E402

from unembed.cli.commands import Commands  # noqa: E402
from unembed.config import config_to_dict, load_config, overridden  # noqa: E402
from unembed.corpus.truths import parse_tokens  # noqa: E402
from unembed.errors import CheckpointError, InputError  # noqa: E402
from unembed.files.atomic import atomic_folder  # noqa: E402

SOURCE = ("src", "runs", "configs")
ENCODER_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
NEEDED = ["torch", "numpy", "transformers", "tokenizers", "safetensors", "huggingface_hub", "accelerate", "tensorboard"]
NEEDED += ["yaml", "tqdm", "click", "sacrebleu", "rapidfuzz"]
TELL_SECONDS = 60.0
FOLDER = click.Path(path_type=Path, file_okay=False)
NAME = click.option("--name", default="run", show_default=True, help="Folder of the run in WORK.")


@click.group(cls=Commands, help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=FOLDER, help="Folder that `unembed prepare` wrote.")
@click.option("-o", "--output", required=True, type=FOLDER, help="Folder for the loads.")
@click.option("--from", "start_from", type=FOLDER, help="Inverter or stable-* checkpoint to start from, sent along.")
@click.option("--share", "shares", multiple=True, metavar="PART=SHARE", help="Send this share of a part's passages.")
@click.option(
    "--encoder",
    "encoder_as",
    default="whole",
    show_default=True,
    type=click.Choice(["whole", "bfloat16", "none"]),
    help="In bfloat16 it serves training alone, whose windows are embedded so anyway; none: it was sent before.",
)
@click.option("--wheels", type=FOLDER, help="Folder of wheels that the other machine lacks, made by `pip download`.")
@click.option("--load-mib", default=60, show_default=True, help="Size of a load: what one transfer takes.")
@click.option("--preset", default=6, show_default=True, type=click.IntRange(0, 9), help="Of xz: 0 is fast, 9 small.")
def pack(
    config: Path,
    data: Path,
    output: Path,
    start_from: Path | None,
    shares: tuple[str, ...],
    encoder_as: str,
    wheels: Path | None,
    load_mib: int,
    preset: int,
) -> None:
    """Put source, shards, encoder and configuration into loads of pieces with SHA-256 each."""
    from unembed.corpus.windows import Shards
    from unembed.encoders.recipes import locate, verify

    settings = load_config(config)
    recipe = settings.encoder
    kept = _shares(shares)
    Shards.open(data)
    if Path(recipe.encoder).is_absolute() or ".." in Path(recipe.encoder).parts:
        raise InputError(f"{config}: encoder.encoder is {recipe.encoder!r}, expected a name or a path below the folder")
    encoder = locate([recipe.encoder], recipe.revision)
    for name, digest in recipe.sha256.items():
        verify(encoder / name, digest)

    def members() -> Iterator[Member]:
        tree_of = weighted(config_to_dict(settings), kept)
        yield Member("config.yaml", yaml.safe_dump(tree_of, sort_keys=False).encode() if kept else config)
        for folder in SOURCE:
            yield from tree(CODE / folder, f"code/{folder}", skip=("weights",))
        yield from thinned(data, kept, "shards")
        place = f"encoders/{TRAINING_ENCODER if encoder_as == 'bfloat16' else recipe.encoder}"
        for member in tree(encoder, place, skip=("onnx", "openvino")) if encoder_as != "none" else ():
            if any(fnmatch.fnmatch(member.name, pattern) for pattern in ENCODER_FILES):
                yield _halved(member) if encoder_as == "bfloat16" else member
        if start_from is not None:
            yield from tree(start_from, "start")
        for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
            with zipfile.ZipFile(wheel) as archive:  # a wheel needs no installing but to lie on the path
                yield from (Member(f"site/{i.filename}", archive.read(i)) for i in archive.infolist() if not i.is_dir())

    if start_from is not None and (start_from / "state.json").exists():  # only its weights are needed
        keep(start_from, output.with_name(output.name + ".start"), "float32")
        start_from = output.with_name(output.name + ".start")
    manifest = write_pieces(members(), output, load_mib=load_mib, piece_mib=min(15, load_mib // 2), preset=preset)
    if start_from is not None and start_from.name == output.name + ".start":
        shutil.rmtree(start_from)
    _tell(manifest, output)


def _shares(given: Sequence[str]) -> dict[str, float]:
    """What `--share` says. Raises InputError."""
    shares = {}
    for one in given:
        name, _, share = one.partition("=")
        try:
            shares[name] = float(share)
        except ValueError as error:
            raise InputError(f"--share {one}: expected PART=SHARE, such as wikipedia-1=0.5") from error
    return shares


def _halved(member: Member) -> Member:
    """A file of an encoder, its weights in bfloat16."""
    import torch
    from safetensors.torch import load_file, save

    if not member.name.endswith(".safetensors"):
        return member
    assert isinstance(member.source, Path)
    tensors = load_file(member.source)
    kinds = {name: torch.bfloat16 if tensor.is_floating_point() else tensor.dtype for name, tensor in tensors.items()}
    return Member(member.name, save({name: tensor.to(kinds[name]) for name, tensor in tensors.items()}))


@main.command()
@click.argument("loads", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=FOLDER, help="Folder to make.")
def unpack(loads: tuple[Path, ...], output: Path) -> None:
    """Verify the pieces found below LOADS and put the files together; says which are missing or damaged."""
    manifest = read_pieces(loads, output)
    click.echo(f"{manifest['files']} files, {manifest['bytes'] / MIB:.0f} MiB -> {output}")


main.add_command(click.Command("join", params=unpack.params, callback=unpack.callback, help=unpack.help))


@main.command()
@click.argument("work", type=FOLDER)
@NAME
@click.option("--config", type=click.Path(path_type=Path), help="Another configuration than the packed one.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time box of training, without the tries.")
@click.option("--from", "start_from", type=FOLDER, help="Weights to start from; WORK/start where that was packed.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change a key of the configuration.")
@click.option(
    "--try", "tries", multiple=True, metavar="KEY=VALUE[,...]", help="Train so for a short while, and choose."
)
@click.option("--try-minutes", default=1.5, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--choose-by", default="token_accuracy", show_default=True, help="A validation figure, or loss.")
@click.option("--texts", default="test.txt", show_default=True, help="Held-out texts of the evaluation, in the shards.")
@click.option("--limit", default=1000, show_default=True, help="Texts measured; 0: the evaluation is left out.")
@click.option("--tokens", default=None, help="Tokens of each: 32, natural, or 6-16.  [default: model.max_tokens]")
@click.option("--steps", multiple=True, type=int, default=[8, 32], show_default=True, help="Passes of the evaluation.")
def start(
    work: Path,
    name: str,
    config: Path | None,
    minutes: float | None,
    start_from: Path | None,
    sets: tuple[str, ...],
    tries: tuple[str, ...],
    **more: Any,
) -> None:
    """Start training, or go on with it, in a process that outlives this command.

    With --try, the configuration as it is and each try are trained for the same short time first; the best goes on
    for --minutes, if those are given.
    """
    work = work.resolve()
    run = work / name
    if minutes is None and not tries:
        raise InputError("neither --minutes nor --try: nothing to do")
    config = config or work / "config.yaml"
    settings = overridden(config_to_dict(load_config(config)), ",".join(sets))  # some are possible only together
    for override in tries:
        overridden(settings, override)  # a wrong one is told now
    if start_from is None and (work / "start").is_dir():
        start_from = work / "start"
    if more["limit"] and (work / "encoders" / TRAINING_ENCODER).is_dir():
        raise InputError(f"{work}: has an encoder for training alone, expected --limit 0: no evaluation")
    shards = work / "shards"
    if not (shards / more["texts"]).exists():
        raise InputError(
            f"{shards / more['texts']}: there is no such file, expected the shards and their held-out texts"
        )
    job = Job(
        config=settings,
        data=str(shards),
        minutes=minutes,
        start_from=str(start_from.resolve()) if start_from else None,
        tries=["", *tries] if tries else [],
        try_minutes=more["try_minutes"],
        choose_by=more["choose_by"],
        texts=str(shards / more["texts"]),
        limit=more["limit"],
        tokens=str(parse_tokens(more["tokens"] or str(settings["model"]["max_tokens"]))),  # not refused after training
        steps=list(more["steps"]),
    )
    if (run / "job.json").exists():
        _same_job(run, job)
    process = read_json(run / "pid.json")
    if _alive(process):
        raise InputError(f"{run}: is running already (process {process['pid']})")
    code = work / "code" if (work / "code").is_dir() else CODE
    environment = _environment(work, code)
    run.mkdir(parents=True, exist_ok=True)
    (work / "encoders").mkdir(exist_ok=True)
    job.save(run)
    with (run / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, str(code / "runs" / "borrowed_job.py"), str(run)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=work / "encoders",
            start_new_session=True,
        )  # fmt: skip
    write_json(run / "pid.json", {"pid": child.pid, "born": _born(child.pid)})
    try:  # what is wrong at once should be told at once
        child.wait(2)
    except subprocess.TimeoutExpired:
        click.echo(f"started, process {child.pid}; log: {run / 'log.txt'}")
        return
    _tell_progress(run)
    sys.exit(1 if child.returncode else 0)


@main.command()
@click.argument("work", type=FOLDER)
@NAME
@click.option("--wait", default=0, show_default=True, help="Seconds to stay, or until the run has ended.")
@click.option("--lines", default=12, show_default=True, help="Lines of the log to show.")
@click.option("--collect", "output", type=FOLDER, help="Put the weights so far there in 8 bits, as `collect` does.")
def poll(work: Path, name: str, wait: float, lines: int, output: Path | None) -> None:
    """Show how a run goes: stage, loss, speed, share of the peak, time left. Exit code 1: it died or failed.

    A lent machine may be gone before the next command: with --collect, each poll brings what there is so far.
    """
    run = work / name
    if not (run / "job.json").exists():
        raise InputError(f"{run}: no run was started here")
    begun = told = time.monotonic()
    while not (ended := _ended(run)) and time.monotonic() < begun + wait:
        time.sleep(0.5)
        if time.monotonic() > told + TELL_SECONDS:
            told = time.monotonic()
            _tell_progress(run, 0)
    _tell_progress(run, lines)
    if output is not None and (run / "training" / "inverter").is_dir():
        _put(run, output, "inverter", "int8", 1)
    sys.exit(1 if ended == "died" else 0)


@main.command()
@click.argument("work", type=FOLDER)
@click.argument("output", type=FOLDER)
@NAME
@click.option("--what", default="inverter", show_default=True, type=click.Choice(["inverter", "stable", "checkpoint"]))
@click.option("--dtype", default="bfloat16", show_default=True, type=click.Choice(["bfloat16", "float32", "int8"]))
@click.option("--load", default=1, show_default=True, help="Which load to put there; 1 takes the latest weights.")
def collect(work: Path, output: Path, name: str, what: str, dtype: str, load: int) -> None:
    """Put the weights so far below OUTPUT, with the run's log and figures, as at most 8 files of at most 16 MiB.

    `inverter` is the moving average, which is what is used; `stable` the weights before the rate fell, from which a
    later run starts; `checkpoint` all that a resumed run needs, the optimizers' state included. What does not fit into
    one load is fetched by --load 2, 3, ... afterwards.
    """
    _put(work / name, output, what, dtype, load)


def _put(run: Path, output: Path, what: str, dtype: str, load: int) -> None:
    """Do what `collect` says."""
    outbox = run / f"outbox-{what}"
    if load == 1:
        with atomic_folder(run / "outgoing") as folder:
            _gather(run, folder, what, dtype)
        write_pieces(tree(run / "outgoing", ""), outbox, preset=0)
        shutil.rmtree(run / "outgoing")
    source = outbox / f"load-{load:02d}"
    if not source.is_dir():
        raise InputError(f"{source}: there is no such load, expected 1 to {len(list(outbox.glob('load-*')))}")
    output = output / f"{run.name}-{what}"  # what is fetched of several runs or kinds must not mix
    shutil.copytree(source, output / source.name, dirs_exist_ok=True)
    _tell(json.loads((source / "pieces.json").read_text(encoding="utf-8")), output, load)


def _gather(run: Path, folder: Path, what: str, dtype: str) -> None:
    """Copy what `collect` sends. Raises CheckpointError where there is nothing yet."""
    training = run / "training"
    notes = folder / "notes"
    notes.mkdir()
    for path in [*run.glob("*.json*"), *run.glob("*.md"), *run.glob("log.txt"), *training.glob("log.jsonl")]:
        shutil.copy(path, notes)
    for attempt in range(3):  # the run may be renewing what is read here
        try:
            if what == "inverter" and (run / "inverter").is_dir() and dtype == "bfloat16":
                shutil.copytree(run / "inverter", folder / "inverter", dirs_exist_ok=True)
            elif what == "inverter":
                keep(training / "inverter", folder / "inverter", dtype)
            else:
                newest = sorted(training.glob(f"{what}-*"))[-1:]
                if not newest:
                    raise CheckpointError(f"{training}: there is no {what}-* yet")
                if what == "stable":
                    keep(newest[0], folder / "stable", dtype)
                else:
                    shutil.copytree(newest[0], folder / newest[0].name, dirs_exist_ok=True)
            return
        except (OSError, CheckpointError):
            if attempt == 2:
                raise
            time.sleep(2)


def _environment(work: Path, code: Path) -> dict[str, str]:
    """The process's environment. Raises InputError where a package that it needs is neither here nor packed."""
    paths = [str(path) for path in (work / "site", code / "src") if path.is_dir()]
    missing = []
    for name in NEEDED:
        packed = any((Path(path) / name).is_dir() for path in paths)
        if not packed and importlib.util.find_spec(name) is None:
            missing.append(name)
    if missing:
        raise InputError(f"packages are missing here: {', '.join(missing)}; put their wheels in by `pack --wheels`")
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}  # the log must hold what was said before a kill
    return os.environ | offline | {"PYTHONPATH": os.pathsep.join(paths)}


def _same_job(run: Path, job: Job) -> None:
    """Only the time may change. Raises InputError."""
    old = asdict(Job.load(run))
    for key, value in asdict(job).items():
        if key != "minutes" and old[key] != value:
            raise InputError(f"{run}: was started with another {key.replace('_', ' ')}; give this run another --name")


def _born(pid: int) -> str:
    """When a process started, since numbers of processes are used again; empty where it is no more."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except OSError:
            return ""
        return "unknown"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _alive(process: dict[str, Any]) -> bool:
    """Whether the process that pid.json names still runs."""
    return bool(process) and _born(process["pid"]) == process["born"] != ""


def _ended(run: Path) -> str:
    """Empty while the run goes on, else `done` or `died`."""
    if _alive(read_json(run / "pid.json")):
        return ""
    return "done" if read_json(run / "state.json").get("stage") == "done" else "died"


def _tell(manifest: dict[str, Any], output: Path, load: int | None = None) -> None:
    pieces = [piece for piece in manifest["pieces"] if load in (None, piece["load"])]
    loads = manifest["pieces"][-1]["load"]
    size = sum(piece["bytes"] for piece in pieces) / MIB
    which = f"load {load} of {loads}" if load else f"{loads} loads"
    click.echo(f"{which}, {len(pieces)} pieces, {size:.1f} MiB -> {output}")


def _tell_progress(run: Path, lines: int = 12) -> None:
    """The last figures in one line, and the end of the log."""
    job, stage = Job.load(run), read_json(run / "state.json")
    ended = _ended(run)
    said = [ended or "running", stage.get("stage", "starting"), stage.get("reason", "")]
    rows = log_rows(run / "training") or next((log_rows(p) for p in sorted(run.glob("tries/*/run"))[::-1]), [])
    last: dict[str, Any] = next((row for row in reversed(rows) if "loss" in row), {})
    seen: dict[str, Any] = next((row for row in reversed(rows) if "loss" not in row), {})
    if last:
        said += [f"step {last['step']}", f"loss {last['loss']:.3f}", f"{last['sequences_per_second']:,.0f} sequences/s"]
        if "share_of_peak" in last:
            said.append(f"{last['share_of_peak']:.0%} of peak")
        if job.minutes is not None and stage.get("stage") == "training":
            said.append(f"{max(0.0, job.minutes - last['seconds'] / 60):.1f} min left")
    said += [f"{name} {value:.3f}" for name, value in seen.items() if name != "step"]
    click.echo("  ".join(filter(None, said)))
    if lines:
        text = (run / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines() if run.exists() else []
        click.echo("\n".join(line[:300] for line in text[-lines:]))


if __name__ == "__main__":
    main()
