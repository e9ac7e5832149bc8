"""A borrowed machine, rehearsed: pieces, a training that is killed and goes on, weights back, tries."""

import dataclasses
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from fakes import fake_encoder, tiny_config, tiny_texts
from test_encoder import bert
from unembed.config import Config, config_from_dict, config_to_dict, load_config, overridden
from unembed.corpus.prepare import prepare
from unembed.corpus.windows import Shards
from unembed.encoders.encoder import load_encoder
from unembed.encoders.recipes import describe
from unembed.errors import ConfigError, DataError, InputError, UnembedError
from unembed.inverter import Inverter
from unembed.storage.checkpoint import load_inverter, load_training, training_checkpoints
from unembed.training.train import train

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "runs"))

import borrowed as script  # noqa: E402
import borrowed_job  # noqa: E402
import pieces  # noqa: E402

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "PYTHONPATH": ""}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


# --- pieces


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files of several kinds, half of them incompressible."""
    folder = tmp_path / "files"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "noise.bin").write_bytes(random.Random(0).randbytes(2 * pieces.MIB + 17))
    (folder / "deep" / "zeros.bin").write_bytes(bytes(pieces.MIB))
    (folder / "deep" / "er" / "empty").touch()
    (folder / "text").write_text("ünï\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def packed(files: Path, out: Path) -> dict[str, Any]:
    return pieces.write_pieces(pieces.tree(files, "a/b"), out, piece_mib=1, load_mib=3, load_files=3, preset=0)


def test_pieces_come_back_as_they_were(files: Path, tmp_path: Path) -> None:
    manifest = packed(files, tmp_path / "loads")
    loads = sorted((tmp_path / "loads").iterdir())
    assert len(loads) == 2
    for load in loads:
        found = list(load.iterdir())
        assert len(found) <= 3
        assert sum(path.stat().st_size for path in found) <= 3 * pieces.MIB
        assert all(path.stat().st_size < 1.01 * pieces.MIB for path in found)
    assert pieces.read_pieces(loads, tmp_path / "back") == manifest
    assert contents(tmp_path / "back" / "a" / "b") == contents(files)
    again = pieces.write_pieces(
        pieces.tree(files, "a/b"), tmp_path / "again", piece_mib=1, load_mib=3, load_files=3, preset=0
    )
    assert again == manifest  # the same files give the same pieces
    with pytest.raises(InputError, match="back: exists already"):
        pieces.read_pieces(loads, tmp_path / "back")


def test_what_is_missing_or_damaged_is_named(files: Path, tmp_path: Path) -> None:
    packed(files, tmp_path / "loads")
    first, *others = sorted((tmp_path / "loads").iterdir())
    with pytest.raises(DataError, match=r"\d+ of 4 pieces are missing: load-02/piece-000[0-9].xz") as caught:
        pieces.read_pieces([first], tmp_path / "back")
    assert "\n" not in str(caught.value)
    piece = next(first.glob("piece-*"))
    good = piece.read_bytes()
    for bad in (good[:-1], good[:100] + bytes([good[100] ^ 1]) + good[101:], b""):
        piece.write_bytes(bad)
        with pytest.raises(DataError, match=f"{piece.name}: damaged .{len(bad)} bytes, expected {len(good)}., send it"):
            pieces.read_pieces([first, *others], tmp_path / "back")
    assert not (tmp_path / "back").exists()
    (tmp_path / "resent").mkdir()
    (tmp_path / "resent" / piece.name).write_bytes(good)
    pieces.read_pieces([tmp_path / "loads", tmp_path / "resent"], tmp_path / "back")
    assert contents(tmp_path / "back" / "a" / "b") == contents(files)


def test_manifests_that_do_not_fit(files: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pieces.json, expected folders called load-01"):
        pieces.read_pieces([tmp_path], tmp_path / "back")
    packed(files, tmp_path / "loads")
    (files / "text").write_text("other")
    packed(files, tmp_path / "other")
    with pytest.raises(DataError, match="differ: pieces of two packings are mixed"):
        pieces.read_pieces([tmp_path / "loads", tmp_path / "other"], tmp_path / "back")
    for text, message in (("{", "is damaged"), ('{"format": 9}', "format 9, expected 1"), ("[]", "is damaged")):
        for path in tmp_path.glob("loads/*/pieces.json"):
            path.write_text(text)
        with pytest.raises(DataError, match=message):
            pieces.read_pieces([tmp_path / "loads"], tmp_path / "back")


# --- the whole way


def borrowed(*arguments: object, code: Path | None = None, exit_code: int = 0) -> str:
    """Call the script, with `code` in a process of its own; what it said."""
    words = list(map(str, arguments))
    if code is None:
        called = CliRunner().invoke(script.main, words)
        said, code_found = called.output, called.exit_code
    else:
        command = [sys.executable, str(code / "runs" / "borrowed.py"), *words]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
        said, code_found = done.stdout + done.stderr, done.returncode
    assert code_found == exit_code, said
    assert "Traceback" not in said
    return said


def until(condition: Any, what: str, seconds: float = 240) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def configuration(folder: Path) -> Config:
    """A tiny denoiser for the tiny encoder `folder / "tiny"`, with a checkpoint several times a second."""
    config = tiny_config()
    training = dataclasses.replace(
        config.training, steps=10**6, checkpoint_minutes=0.004, log_every=2, validate_every=10**6
    )  # only the clock ends it, however fast the machine
    return dataclasses.replace(config, encoder=describe("tiny", folder / "tiny"), training=training)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The machine at home: an encoder, shards, a configuration, and their loads."""
    folder = tmp_path_factory.mktemp("here")
    bert(folder / "tiny")
    (folder / "texts.txt").write_text("".join(text + "\n" for text in tiny_texts(400)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = configuration(folder)
        (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
        prepare(config, ["texts.txt"], folder / "shards", load_encoder(config.encoder))
        wheel = folder / "wheels" / "absent-1.0-py3-none-any.whl"
        wheel.parent.mkdir()
        shutil.make_archive(str(wheel), "zip", folder / "shards", "train")
        wheel.with_name(wheel.name + ".zip").rename(wheel)
        borrowed("pack", "config.yaml", "--data", "shards", "-o", "loads", "--wheels", "wheels")
    return folder


def test_a_training_survives_its_machine(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    borrowed("unpack", here / "loads", "-o", tmp_path / "work")
    work, run = tmp_path / "work", tmp_path / "work" / "run"
    there = work / "code"
    assert contents(work / "shards") == contents(here / "shards")
    assert (work / "site" / "train" / "texts.tokens.bin").exists()
    assert not any("weights" in path.parts for path in there.rglob("*"))
    assert "tokens is 'whole'" in borrowed(
        "start", work, "--minutes", "5", "--tokens", "whole", code=there, exit_code=2
    )
    assert not run.exists()  # it costs no time of the machine
    command = ["start", work, "--tokens", "natural", "--limit", "10", "--steps", "2", "--minutes"]

    said = borrowed(*command, "5", code=there)
    assert "started, process" in said
    process = json.loads((run / "pid.json").read_text())["pid"]
    assert os.getsid(process) != os.getsid(0)
    try:
        assert "is running already" in borrowed(*command, "5", code=there, exit_code=2)
        until(lambda: any(int(path.name[-8:]) >= 4 for path in training_checkpoints(run / "training")), "a checkpoint")
        said = borrowed("poll", work, "--collect", tmp_path / "so-far")
        assert "running  training" in said
        assert "load 1 of 1" in said
    finally:
        os.kill(process, signal.SIGKILL)
    said = borrowed("poll", work, "--wait", "60", exit_code=1)  # ends at once: it is dead
    assert "died  training" in said
    (checkpoint,) = training_checkpoints(run / "training")
    reached = json.loads((checkpoint / "state.json").read_text())["progress"]
    rows = [json.loads(line) for line in (run / "training" / "log.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["step"] <= reached["step"]]
    assert kept

    said = borrowed(*command, "5", "--set", "training.seed=3", code=there, exit_code=2)
    assert "was started with another config" in said
    minutes = reached["seconds"] / 60 + 0.03
    borrowed(*command, minutes, code=there)
    said = borrowed("poll", work, "--wait", "240")
    assert "done" in said
    rows = [json.loads(line) for line in (run / "training" / "log.jsonl").read_text().splitlines()]
    assert rows[: len(kept)] == kept
    assert rows[-1]["step"] > reached["step"]
    assert "| confidence |" in (run / "table.md").read_text()

    borrowed("join", tmp_path / "so-far" / "run-inverter", "-o", tmp_path / "early")
    assert load_inverter(tmp_path / "early" / "inverter").results["steps"] >= 1

    said = borrowed("collect", work, tmp_path / "out")
    assert "load 1 of 1" in said
    assert len(list((tmp_path / "out").rglob("*.*"))) <= 8
    borrowed("join", tmp_path / "out" / "run-inverter", "-o", tmp_path / "back")
    assert {"log.jsonl", "log.txt", "table.md", "table.jsonl", "job.json"} <= set(
        os.listdir(tmp_path / "back" / "notes")
    )
    monkeypatch.chdir(here)  # where the encoder is
    found = Inverter.from_pretrained(tmp_path / "back" / "inverter").denoiser.state_dict()
    average = load_inverter(run / "training" / "inverter").denoiser.state_dict()
    assert found.keys() == average.keys()
    assert all(torch.equal(found[name], average[name].bfloat16().float()) for name in found)
    row = json.loads((tmp_path / "back" / "notes" / "table.jsonl").read_text())
    assert row["n"] >= 1

    # the next run can start from the weights before the rate fell
    borrowed("collect", work, tmp_path / "out", "--what", "stable", "--dtype", "float32")
    borrowed("join", tmp_path / "out" / "run-stable", "-o", tmp_path / "start")
    stable = load_training(training_checkpoints(run / "training", "stable")[0]).weights
    found = load_inverter(tmp_path / "start" / "stable").denoiser.state_dict()
    assert all(torch.equal(found[name], stable[name]) for name in stable)
    said = borrowed("collect", work, tmp_path / "out", "--load", "2", exit_code=2)
    assert "there is no such load, expected 1 to 1" in said


def test_a_share_of_a_part_with_an_encoder_for_training_alone(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    options = ["--share", "texts=0.25", "--encoder", "bfloat16"]
    borrowed("pack", "config.yaml", "--data", "shards", "-o", tmp_path / "loads", *options)
    work = tmp_path / "work"
    borrowed("unpack", tmp_path / "loads", "-o", work)
    whole, part = Shards.open(here / "shards")["train"][0], Shards.open(work / "shards")["train"][0]
    assert len(part) == round(len(whole) / 4)
    assert all(np.array_equal(part.passage(i), whole.passage(i)) for i in range(len(part)))
    for held_out in ("validation", "test"):
        assert len(Shards.open(work / "shards")[held_out][0]) == len(Shards.open(here / "shards")[held_out][0])
    assert load_config(work / "config.yaml").data.weights["texts"] == 4.0
    encoders = here / "tiny", work / "encoders" / "training-encoder"
    sizes = [next(folder.glob("*.safetensors")).stat().st_size for folder in encoders]
    assert sizes[1] < 0.6 * sizes[0]

    command = ["start", work, "--minutes", "0.02", "--tokens", "natural", "--name"]
    assert "expected --limit 0" in borrowed(*command, "other", exit_code=2)
    borrowed(*command, "run", "--limit", "0", code=work / "code")
    assert "done" in borrowed("poll", work, "--wait", "240")
    assert not (work / "run" / "table.jsonl").exists()
    found = load_inverter(work / "run" / "inverter").config
    assert found.encoder == load_config("config.yaml").encoder  # what the inverter is for stays the whole one

    borrowed("pack", "config.yaml", "--data", "shards", "-o", tmp_path / "rest", "--encoder", "none")
    borrowed("unpack", tmp_path / "rest", "-o", tmp_path / "bare")
    assert not (tmp_path / "bare" / "encoders").exists()
    for share, message in (("texts", "expected PART=SHARE"), ("texts=2", "no share 2.0 of texts"), ("a=1", "of a, ")):
        said = borrowed("pack", "config.yaml", "--data", "shards", "-o", "x", "--share", share, exit_code=2)
        assert message in said


def test_what_cannot_be_packed_or_started(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    assert "nothing to do" in borrowed("start", tmp_path, exit_code=2)
    assert "no run was started here" in borrowed("poll", tmp_path, exit_code=2)
    (tmp_path / "shards").symlink_to(here / "shards")
    shutil.copy(here / "config.yaml", tmp_path)
    start = ["start", tmp_path, "--minutes", "1"]
    assert "absent.txt: there is no such file" in borrowed(*start, "--texts", "absent.txt", exit_code=2)
    said = borrowed(*start, "--try", "training.lerning_rate=1", exit_code=2)
    assert "unknown key training.lerning_rate" in said
    said = borrowed("pack", "config.yaml", "--data", "nothing", "-o", "x", exit_code=2)
    assert "no manifest.json" in said
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("rapidfuzz", "tqdm") else name)
    assert "packages are missing here: tqdm, rapidfuzz; put their wheels in" in borrowed(*start, exit_code=2)
    assert not (tmp_path / "run").exists()


# --- tries


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> borrowed_job.Job:
    """A job with the fake encoder, done in this process."""
    training = dataclasses.replace(tiny_config().training, steps=10**6, log_every=1)  # only the clock ends it
    config = dataclasses.replace(tiny_config(), training=training)
    (tmp_path / "texts.txt").write_text("".join(text + "\n" for text in tiny_texts(300)))
    prepare(config, [str(tmp_path / "texts.txt")], tmp_path / "shards", fake_encoder())
    monkeypatch.setattr("unembed.training.train.load_encoder", lambda *_: fake_encoder())
    return borrowed_job.Job(
        config=config_to_dict(config), data=str(tmp_path / "shards"), minutes=None, start_from=None, tries=[],
        try_minutes=0.01, choose_by="loss", texts=str(tmp_path / "shards" / "test.txt"), limit=5, tokens="natural",
        steps=[2],
    )  # fmt: skip


def test_the_best_try_goes_on(job: borrowed_job.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = ["", "training.learning_rate=1e-7,training.muon_learning_rate=1e-7", "training.learning_rate=1e-2"]
    tries.append("training.batch_size=100000000")
    run, configs = tmp_path / "run", []

    def watched(config: Config, data: str, out: Path, **options: Any) -> Path:
        configs.append(config)
        if config.training.batch_size > 1000:
            raise torch.OutOfMemoryError("out of\nmemory")
        return train(config, data, out, **options)

    monkeypatch.setattr("unembed.training.train.train", watched)
    monkeypatch.setattr(borrowed_job, "evaluate", lambda *_: None)
    job = dataclasses.replace(job, tries=tries, minutes=0.01)
    borrowed_job.work(run, job)
    kept = json.loads((run / "tries.json").read_text())
    rows = kept["rows"]
    assert [row["overrides"] for row in rows] == tries
    assert rows[3]["failed"] == "out of memory"
    assert rows[1]["losses"][-1] > rows[2]["losses"][-1]
    assert all(0.6 <= row["seconds"] < 6 for row in rows[:3])  # a step may take long where others are at work
    assert kept["chosen"] == min(rows[:3], key=lambda row: row["losses"][-1])["overrides"] != tries[1]
    table = (run / "tries.md").read_text()
    assert "| as configured |" in table
    assert table.strip().endswith(f"Chosen by loss: {kept['chosen'] or 'as configured'}")
    assert configs[-1] == config_from_dict(overridden(job.config, kept["chosen"]))
    assert load_inverter(run / "inverter").config == configs[-1]
    borrowed_job.work(run, job)  # started again, it tries nothing twice
    assert len(configs) == len(tries) + 2


def test_a_figure_that_no_try_has(job: borrowed_job.Job, tmp_path: Path) -> None:
    with pytest.raises(UnembedError, match="no figure 'beauty', expected one of accuracy_10, .* loss, token_accuracy"):
        borrowed_job.work(tmp_path / "run", dataclasses.replace(job, tries=[""], choose_by="beauty"))


def test_overrides() -> None:
    tree = config_to_dict(tiny_config())
    found = overridden(tree, "training.learning_rate=1e-2,model.causal=true,data.weights.dialogue=2")
    assert found["training"]["learning_rate"] == 0.01
    assert found["model"]["causal"] is True
    assert found["data"]["weights"] == {"dialogue": 2.0}
    found = overridden(tree, "training.freeze=[table, blocks],training.steps=7")
    assert (found["training"]["freeze"], found["training"]["steps"]) == (["table", "blocks"], 7)
    found = overridden(tree, "data.weights={dialogue: 2, questions: 0},training.steps=7")
    assert (found["data"]["weights"], found["training"]["steps"]) == ({"dialogue": 2.0, "questions": 0.0}, 7)
    assert overridden(tree, "") == tree
    for wrong, message in (
        ("training.learning_rate", "expected section.key=value"),
        ("causal=true", "expected section.key=value"),
        ("training.steps=x", "training.steps is 'x', expected a valid integer"),
        ("training.steps.x=1", "expected section.key=value"),
        ("training.freeze=table", "training.freeze is 'table', expected a list"),
        ("training.freeze=[1]", "training.freeze.0 is 1, expected a valid string"),
        ("nothing.x=1", "unknown key nothing"),
        ("data.weights={dialogue: 2", "'{dialogue: 2' is not YAML"),
    ):
        with pytest.raises(ConfigError, match=message):
            overridden(tree, wrong)


@pytest.mark.parametrize("causal", [False, True])
def test_the_evaluation_calls_a_script_that_understands_it(
    job: borrowed_job.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    calls: list[list[str]] = []

    def call(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="| a table |")

    monkeypatch.setattr(subprocess, "run", call)
    config = dataclasses.replace(tiny_config(), model=dataclasses.replace(tiny_config().model, causal=causal))
    borrowed_job.evaluate(tmp_path, job, config)
    ((_, path, *arguments),) = calls
    command = importlib.import_module(Path(path).stem).main
    options = command.make_context("script", list(arguments)).params
    assert str(options["twin" if causal else "model"]) == str(tmp_path / "inverter")
    assert (options["tokens"], options["limit"]) == ("natural", 5)
    assert causal or options["all_steps"] == (2,)
    assert (tmp_path / "table.md").read_text() == "| a table |"


def test_a_failure_is_told(job: borrowed_job.Job, tmp_path: Path) -> None:
    run = tmp_path / "run"
    dataclasses.replace(job, minutes=1.0, data=str(tmp_path / "nothing")).save(run)
    with pytest.raises(DataError):
        borrowed_job.main(run)
    said = borrowed("poll", tmp_path, exit_code=1)
    assert "died  failed  DataError: " in said
    assert "nothing: no manifest.json" in said
