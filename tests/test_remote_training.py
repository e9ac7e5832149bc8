"""Training on another machine, rehearsed: loads there, a training that is killed and goes on, weights back."""

import dataclasses
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from remote import __main__ as script
from remote import archive

from fakes import tiny_config, tiny_texts
from test_encoder import bert
from unembed.config import config_to_dict, load_config
from unembed.corpus.prepare import prepare
from unembed.corpus.windows import Shards
from unembed.encoders.encoder import load_encoder
from unembed.encoders.recipes import describe
from unembed.errors import DataError
from unembed.storage.checkpoint import load_inverter, training_checkpoints

SCRIPTS = Path(script.__file__).parent


# --- loads


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files of several kinds, half of them incompressible."""
    folder = tmp_path / "files"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "noise.bin").write_bytes(random.Random(0).randbytes(2 * archive.MIB + 17))
    (folder / "deep" / "zeros.bin").write_bytes(bytes(archive.MIB))
    (folder / "deep" / "er" / "empty").touch()
    (folder / "text").write_text("ünï\n")
    return folder


@pytest.fixture
def loads(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in two loads."""
    monkeypatch.setattr(archive, "LOAD", 2 * archive.MIB)
    sizes = archive.write(files, tmp_path / "loads", archive.MIB, "gz")
    assert len(sizes) == 2
    assert all(size <= archive.LOAD for size in sizes)
    return tmp_path / "loads"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_loads_come_back_as_they_were(files: Path, loads: Path, tmp_path: Path) -> None:
    target = tmp_path / "back"
    (target / "deep").mkdir(parents=True)
    (target / "deep" / "old").touch()
    (target / "other").touch()
    archive.read(loads, target)
    assert contents(target) == contents(files) | {"other": b""}  # a folder is replaced as a whole, others stay
    whole = b"".join(path.read_bytes() for path in sorted(loads.glob("load-*/part-*")))
    with tarfile.open(fileobj=io.BytesIO(whole)) as by_hand:  # as by `tar`
        by_hand.extractall(tmp_path / "by hand", filter="data")
    assert contents(tmp_path / "by hand") == contents(files)


def test_a_large_file_comes_back_in_files_of_less_than_16_mib(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "noise.bin").write_bytes(random.Random(0).randbytes(17 * archive.MIB))
    (size,) = archive.write(tmp_path / "files", tmp_path / "loads", *script.BACK)
    sizes = [path.stat().st_size for path in (tmp_path / "loads" / "load-01").iterdir()]
    assert max(sizes) <= 16 * archive.MIB
    assert len(sizes) == 3
    assert size <= sum(sizes) <= 64 * archive.MIB
    archive.read(tmp_path / "loads", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "files")


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("load-02/part-003.gz", None, "load-02/part-003.gz: missing, 1 of 4 parts are; send their loads"),
        ("load-02", None, "load-02/part-00..gz: missing, [12] of 4 parts are; send their loads"),
        ("load-01/part-000.gz", lambda good: good[:-1], r"part-000.gz: damaged .\d+ bytes., send load-01 again"),
        ("load-01/part-000.gz", lambda good: good[:99] + bytes([good[99] ^ 1]) + good[100:], "part-000.gz: damaged"),
        ("load-01/part-000.gz", lambda good: b"", "part-000.gz: damaged .0 bytes., send load-01 again"),
        ("load-01/SHA256SUMS", lambda good: good + b"\n", "loads: 2 different load-./SHA256SUMS, expected one"),
        (
            "load-0*/SHA256SUMS",
            lambda good: good.replace(b"part-", b"../rt-"),
            "SHA256SUMS: damaged, send load-0. again",
        ),
        ("load-0*/SHA256SUMS", None, "loads: 0 different load-./SHA256SUMS, expected one"),
    ],
)
def test_what_is_missing_or_damaged_is_named(loads: Path, tmp_path: Path, name: str, bad: Any, message: str) -> None:
    for path in loads.glob(name):
        if bad is not None:
            path.write_bytes(bad(path.read_bytes()))
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=message) as caught:
        archive.read(loads, tmp_path / "back")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "back").exists()


# --- the whole way


def remote(*arguments: object, exit_code: int = 0) -> str:
    """Call the script, in this process where nothing stays behind; what it said."""
    words = list(map(str, arguments))
    if words[0] == "start" and exit_code != 2:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
        command = [sys.executable, SCRIPTS, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        said, code = done.stdout + done.stderr, done.returncode
    else:
        called = CliRunner().invoke(script.main, words)
        said, code = called.output, called.exit_code
    assert code == exit_code, said
    assert "Traceback" not in said or exit_code == 1  # in a log
    return said


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder, shards of two parts, and a configuration."""
    folder = tmp_path_factory.mktemp("here")
    bert(folder / "tiny")
    config = dataclasses.replace(tiny_config(), encoder=describe(str(folder / "tiny"), folder / "tiny"))
    (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    for part, seed in (("texts", 0), ("others", 1)):
        (folder / f"{part}.txt").write_text("".join(text + "\n" for text in tiny_texts(300, seed)))
    paths = [str(folder / f"{part}.txt") for part in ("texts", "others")]
    prepare(config, paths, folder / "shards", load_encoder(config.encoder))
    return folder


def test_a_rehearsal(here: Path, tmp_path: Path) -> None:
    """From `pack` to a joined inverter, by a shell that does not see where it was packed; then on with feedback."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["bash", SCRIPTS / "rehearse.sh", tmp_path, here / "config.yaml", here / "shards"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "work/run: done\nload 1 of 1 -> out\ninverter of 20 steps -> here/joined/inverter\n" in done.stdout
    assert "again/run: done\nload 1 of 1 -> again-out\ninverter of 40 steps -> here/fed/inverter\n" in done.stdout
    joined, run = tmp_path / "here" / "joined", tmp_path / "there" / "work" / "run"
    assert {"job.json", "log.txt", "log.jsonl", "inverter"} == set(os.listdir(joined))
    found, average = load_inverter(joined / "inverter"), load_inverter(run / "inverter")
    assert found.config.encoder == load_config(here / "config.yaml").encoder  # what it is for, not what it saw
    for name, weights in average.denoiser.state_dict().items():
        assert (found.denoiser.state_dict()[name] - weights).abs().max() <= 0.005 * weights.abs().max()
    fed = load_inverter(tmp_path / "here" / "fed" / "inverter")
    assert not found.denoiser.feedback.weight.any()
    assert fed.denoiser.feedback.weight.any()
    assert fed.config.diffusion.feedback_share == 0.6
    assert set(os.listdir(tmp_path / "here" / "fed")) == set(os.listdir(joined))


def test_training_goes_on(here: Path, tmp_path: Path) -> None:
    """Where its process was killed, and, from what a look brought, on a new machine."""
    options = ["--data", here / "shards", "--share", "texts", 0.25, "-o", tmp_path / "loads"]
    remote("pack", here / "config.yaml", *options)
    work, run = tmp_path / "work", tmp_path / "work" / "run"
    remote("unpack", tmp_path / "loads", "-o", work)
    # Only the clock ends it, however fast the machine.
    start = [
        "start",
        work,
        "--set",
        "training.steps=1000000",
        "--set",
        "training.checkpoint_minutes=0.004",
        "--minutes",
    ]
    first = ["--", "bash", "-c", "sleep 0.1; echo $PWD; exit 3"]
    said = remote(*start, 5, *first)
    process = int(re.search(r"process (\d+), from new weights", said)[1])
    assert os.getsid(process) == process
    try:
        assert "is running already" in remote(*start, 5, exit_code=2)
        until = time.monotonic() + 240
        while not training_checkpoints(run):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert "work/run: running\nload 1 of 1" in remote("look", work, tmp_path / "early")
    finally:
        os.kill(process, signal.SIGKILL)
    assert "work/run: died" in remote("look", work, "--wait", 60, exit_code=1)  # which ends at once
    (checkpoint,) = training_checkpoints(run)
    reached = json.loads((checkpoint / "state.json").read_text())["progress"]
    seconds = json.loads((run / "first.json").read_text())["seconds"] + reached["seconds"] + 1
    remote(*start, seconds / 60, *first)
    said = remote("look", work, tmp_path / "out", "--wait", 240)
    assert "work/run: done" in said
    assert re.search(r"step \d+ +loss \d.*sequences/s", said)
    log = (run / "log.txt").read_text()
    assert log.count(f"{work}/encoders\n") == log.count("ended with 3") == 1  # in its folder, and once
    remote("join", tmp_path / "out", "-o", tmp_path / "back")
    assert load_inverter(tmp_path / "back" / "inverter").results["steps"] > reached["step"]
    assert "--load 2: expected 1 to 1" in remote("look", work, tmp_path / "out", "--load", 2, exit_code=2)
    thinned(here, work)

    shutil.rmtree(work)
    remote("join", tmp_path / "early", "-o", tmp_path / "back")
    steps = load_inverter(tmp_path / "back" / "inverter").results["steps"]
    remote("pack", tmp_path / "back" / "inverter", "-o", tmp_path / "weights")
    remote("unpack", tmp_path / "loads", tmp_path / "weights", "-o", work)
    assert f"from {work}/start" in remote("start", work, "--set", "training.steps=3", "--name", "again")
    assert "work/again: done" in remote("look", work, tmp_path / "again", "--name", "again", "--wait", 240)
    remote("join", tmp_path / "again", "-o", tmp_path / "back")
    assert load_inverter(tmp_path / "back" / "inverter").results["steps"] == steps + 3


def thinned(here: Path, work: Path) -> None:
    """What was sent: a share of a part, drawn from as often as before, and an encoder of half the size."""
    whole, part = (Shards.open(folder / "shards")["train"] for folder in (here, work))
    assert [len(one) for one in part] == [round(len(one) / (4 if one.name == "texts" else 1)) for one in whole]
    for one, other in zip(part, whole, strict=True):
        assert all(np.array_equal(one.passage(i), other.passage(i)) for i in range(len(one)))
    assert load_config(work / "config.yaml").data.weights == {"texts": 4.0}
    folders = here / "tiny", work / "encoders" / "training-encoder"
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
    assert sizes[1] < 0.6 * sizes[0]
    assert not any(path.name in ("weights", "test.txt") for path in work.rglob("*"))


def test_a_package_that_is_missing(here: Path, tmp_path: Path) -> None:
    """It can be sent; where it was not, `start` says so, and the log can be brought back without an inverter."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ModuleNotFoundError('No module named torch')")
    wheel = shutil.make_archive(str(tmp_path / "torch-1.0"), "zip", tmp_path, "torch")
    Path(wheel).rename(tmp_path / "torch-1.0-py3-none-any.whl")
    options = ["--data", here / "shards", "--wheels", tmp_path, "-o", tmp_path / "loads"]
    remote("pack", here / "config.yaml", *options)
    work = tmp_path / "work"
    remote("unpack", tmp_path / "loads", "-o", work)
    (work / "start").mkdir()
    (work / "start" / "surrogate.safetensors").write_text("what a first command has fitted")
    for said in (remote("start", work, exit_code=1), remote("look", work, tmp_path / "out", exit_code=1)):
        assert "ModuleNotFoundError: No module named torch\n" in said
    said = remote("join", tmp_path / "out", "-o", tmp_path / "back", exit_code=2)
    assert "holds a log alone, since there was no checkpoint yet" in said
    assert set(os.listdir(tmp_path / "back")) == {"job.json", "log.txt", "surrogate.safetensors"}


def test_what_cannot_be_packed_or_started(here: Path, tmp_path: Path) -> None:
    pack = ["pack", here / "config.yaml", "-o", tmp_path / "x"]
    assert "config.yaml: expected the folder of an inverter, or a configuration with" in remote(*pack, exit_code=2)
    assert "no manifest.json" in remote(*pack, "--data", tmp_path, exit_code=2)
    assert "expected the folder of an inverter" in remote("pack", here, "-o", tmp_path / "x", exit_code=2)
    for name, share in (("texts", 2), ("texts", 0), ("a", 1)):
        said = remote(*pack, "--data", here / "shards", "--share", name, share, exit_code=2)
        assert f"no share {share:.1f} of {name}, expected" in said
    assert os.listdir(tmp_path) == []
    assert "config.yaml: cannot be read" in remote("start", tmp_path, exit_code=2)
    assert "no run was started here" in remote("look", tmp_path, exit_code=2)
    shutil.copy(here / "config.yaml", tmp_path)
    said = remote("start", tmp_path, "--set", "training.lerning_rate=1", exit_code=2)
    assert "unknown key training.lerning_rate" in said
    assert os.listdir(tmp_path) == ["config.yaml"]
