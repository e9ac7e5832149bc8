"""`unembed fit` as a user calls it: what the folder holds afterwards, what a kill costs, and what is refused."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import unembed.training.fit
from fakes import FakeEncoder, fake_encoder, save_tiny_inverter, tiny_config, tiny_surrogate, tiny_texts
from unembed.cli.main import main
from unembed.config import Config
from unembed.corpus.prepare import prepare
from unembed.errors import EncoderError, InputError
from unembed.inverter import Inverter
from unembed.surrogate import distillation
from unembed.surrogate.bag import FILE
from unembed.surrogate.distillation import Settings
from unembed.training.fit import FitOptions, fit
from unembed.training.train import train

SMALL = Settings(width=32, blocks=1, batch=16, rate=5e-3)
FILES = (FILE, "calibration.json")
REPOSITORY = Path(__file__).parents[1]


def config(held_out: float = 0.2) -> Config:
    found = tiny_config()
    return dataclasses.replace(found, data=dataclasses.replace(found.data, held_out=held_out))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "tiny.txt"
    path.write_text("\n".join(tiny_texts(600)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(corpus: Path) -> Path:
    prepare(config(), [str(corpus)], corpus.parent / "shards", fake_encoder())
    return corpus.parent / "shards"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_inverter(tmp_path / "model")


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    """The one that inverters load; students are small."""
    found = fake_encoder()
    monkeypatch.setattr("unembed.training.fit.Settings", lambda: SMALL)
    monkeypatch.setattr("unembed.inverter.inverter.load_encoder", lambda *_: found)
    return found


def call(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="unembed")
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: object, code: int = 2) -> str:
    """The one line of a call that must fail."""
    result = call("fit", *arguments, code=code)
    assert result.stdout == ""
    assert result.stderr.startswith("unembed: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr).removeprefix("unembed: ").strip()


def ticking() -> SimpleNamespace:
    """A clock by which each step of the student takes a second."""
    ticks = itertools.count()
    return SimpleNamespace(perf_counter=lambda: float(next(ticks)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "time", ticking())


def contents(model: Path) -> dict[str, bytes]:
    return {name: (model / name).read_bytes() for name in FILES if (model / name).exists()}


# --- what it does


def test_an_inverter_has_all_that_it_needs_afterwards(model: Path, data: Path, encoder: FakeEncoder) -> None:
    e = encoder.encode(tiny_texts(5, seed=3))
    plain = Inverter.from_pretrained(model).invert(e)
    words = ["fit", model, "--data", data, "--limit", 3000, "--minutes", 0.02, "--device", "cpu"]
    figures = json.loads(call(*words, "--json").stdout)
    assert figures.pop("model") == str(model)
    assert list(figures) == ["surrogate", "student", "calibration"]
    for name in ("surrogate", "student"):
        assert 0.5 < figures[name]["cosine"] < 1
        assert 0 < figures[name]["correlation"] < 1
    assert figures["surrogate"]["n"] % 4 == 0  # windows with three edits each
    assert figures["calibration"]["after"] < figures["calibration"]["before"]

    inverter = Inverter.from_pretrained(model)
    assert inverter.surrogate is not None
    assert inverter.surrogate.steers
    assert inverter.surrogate.fitted.student is not None
    assert inverter.calibration is not None
    assert inverter.calibration.about["ece_after"] == figures["calibration"]["after"]
    assert "calibrated chance that it is right" in (model / "README.md").read_text(encoding="utf-8")
    found = inverter.invert(e, candidates=2)
    assert np.mean([one.cosine for one in found]) > np.mean([one.cosine for one in plain])  # steered
    (searched,) = inverter.invert(e[:1], max_calls=20)
    assert searched.encoder_calls <= 20

    # Once more: nothing is embedded that was, and nothing changes.
    before, calls = contents(model), encoder.calls
    again = call(*words)
    assert contents(model) == before
    assert encoder.calls == calls
    assert [line.split(":")[0] for line in again.stdout.splitlines()] == [*figures, f"inverter -> {model}"]
    assert f"then {figures['calibration']['after']:.3f}, of {figures['calibration']['n']} texts" in again.stdout


def test_texts_are_split_by_their_hashes(model: Path, corpus: Path, data: Path, encoder: FakeEncoder) -> None:
    """As `prepare` splits them: with the same share held out, files and shards are the same texts."""
    tree = json.loads((model / "config.json").read_text())
    tree["config"]["data"]["held_out"] = 0.2
    (model / "config.json").write_text(json.dumps(tree))
    other = Path(shutil.copytree(model, model.with_name("other")))
    more = ["--only", "surrogate", "--only", "calibration", "--limit", 2000, "--json"]
    one = json.loads(call("fit", model, "--data", data, *more).stdout)
    two = json.loads(call("fit", other, "--texts", corpus, "--work", other.parent / "work", *more).stdout)
    assert {**one, "model": ""} == {**two, "model": ""}
    assert contents(model) == contents(other)
    assert model.with_name("model.fit").exists()
    assert not other.with_name("other.fit").exists()
    line = refused(other, "--data", data, "--work", other.parent / "work", *more)
    assert "work: belongs to another texts" in line


def test_stored_embeddings_are_taken_as_they_are(corpus: Path, model: Path, tmp_path: Path) -> None:
    stored = config()
    stored = dataclasses.replace(stored, data=dataclasses.replace(stored.data, embeddings="stored"))
    prepare(stored, [str(corpus)], tmp_path / "stored", fake_encoder())
    encoder, options = fake_encoder(), FitOptions(only=("surrogate",), limit=2000)
    figures = fit(model, data=tmp_path / "stored", options=options, encoder=encoder)
    assert encoder.calls == figures["surrogate"]["n"]
    assert figures["surrogate"]["cosine"] > 0.6


def test_steps_alone(model: Path, data: Path, encoder: FakeEncoder) -> None:
    words = [model, "--data", data, "--limit", 2000, "--minutes", 0.001, "--only"]
    line = refused(*words, "student")
    assert line.endswith("has no surrogate for a student, expected the step 'surrogate' before it")
    assert contents(model) == {}
    call("fit", *words, "calibration")
    assert list(contents(model)) == ["calibration.json"]
    call("fit", *words, "surrogate")
    linear = contents(model)
    assert refused(*words, "student", "--go-on").endswith("model: has no student to go on with")
    shown = call("fit", *words, "student").stdout
    assert [line.split(":")[0] for line in shown.splitlines()[:-1]] == ["surrogate", "student"]
    assert len(contents(model)[FILE]) > len(linear[FILE])
    assert contents(model)["calibration.json"] == linear["calibration.json"]
    # The same bag again: its student stays. Another one: it goes.
    before = contents(model)
    call("fit", *words, "surrogate")
    assert contents(model) == before
    call("fit", *words, "surrogate", "--limit", 5000)
    fitted = Inverter.from_pretrained(model).surrogate
    assert fitted is not None
    assert fitted.fitted.student is None


@pytest.mark.usefixtures("clock")
def test_a_student_is_trained_on(model: Path, data: Path) -> None:
    def student(**options: Any) -> dict[str, dict[str, float]]:
        options = {"only": ("student",), "limit": 2000} | options
        return fit(model, data=data, options=FitOptions(**options), encoder=fake_encoder(), settings=SMALL)

    tiny_surrogate().save(model / FILE)
    first = student(minutes=0.5)
    before = contents(model)
    judged = student(minutes=0, go_on=True)  # its figures, and no training
    assert contents(model) == before
    assert judged == first
    more = student(minutes=1.5, go_on=True)
    assert contents(model) != before
    assert more["student"]["cosine"] > first["student"]["cosine"]


@pytest.mark.usefixtures("clock")
def test_a_stream_keeps_no_embeddings(model: Path, data: Path) -> None:
    tiny_surrogate().save(model / FILE)
    encoder = fake_encoder()
    options = FitOptions(only=("student",), minutes=1, stream=True)
    figures = fit(model, data=data, options=options, encoder=encoder, settings=SMALL)
    names = sorted(path.name.split("-")[0] for path in model.with_name("model.fit").iterdir())
    assert names == ["held", "student", "work.json"]
    assert encoder.calls > figures["student"]["n"] + 4000
    assert figures["student"]["cosine"] > figures["surrogate"]["cosine"]


# --- killed


def run(model: Path, data: Path, encoder: FakeEncoder) -> dict[str, dict[str, float]]:
    options = FitOptions(limit=4096, minutes=2)
    return fit(model, data=data, options=options, encoder=encoder, settings=SMALL)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An uninterrupted call's inverter."""
    model = save_tiny_inverter(tmp_path_factory.mktemp("whole") / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "time", ticking())
        run(model, data, fake_encoder())
    return model


KILLED = """
import sys, time
from pathlib import Path
import torch
from fakes import FakeEncoder
from test_fit import run, ticking
from unembed.surrogate import distillation
torch.set_num_threads(1)
model, data, calls, seconds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
clock = ticking()

def now():
    found = clock.perf_counter()
    if found == seconds:
        time.sleep(3600)  # until killed
    return found

class Encoder(FakeEncoder):
    def encode_tokens(self, ids, lengths):
        if self.calls >= calls:
            time.sleep(3600)
        return super().encode_tokens(ids, lengths)

distillation.time.perf_counter = now
run(model, data, Encoder())
"""


@pytest.mark.parametrize(
    ("calls", "seconds", "sign"), [(3000, 0, "windows-0000.safetensors"), (10**9, 90, "student-*.pt")]
)
def test_killed_and_continued_gives_the_same(
    model: Path, data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, calls: int, seconds: int, sign: str
) -> None:
    paths = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(model), str(data), str(calls), str(seconds or 10**9)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    work = model.with_name("model.fit")
    try:
        limit = time.monotonic() + 300
        while not list(work.glob(sign)):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert contents(model).keys() == ({FILE} if seconds else set())  # whole or not at all
    kept = {path.name: path.stat().st_mtime_ns for path in work.glob("*.safetensors") if "student" not in path.name}
    monkeypatch.setattr(distillation, "time", ticking())
    run(model, data, fake_encoder())
    assert contents(model) == contents(whole)
    assert {name: (work / name).stat().st_mtime_ns for name in kept} == kept


def test_an_interruption_says_how_to_go_on(
    model: Path, data: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder, "encode_tokens", interrupt)
    line = refused(model, "--data", data, code=130)
    assert line == "interrupted; the same command again goes on where it stopped"


# --- refused


def test_what_is_no_inverter(tmp_path: Path, model: Path, data: Path) -> None:
    assert refused(tmp_path / "none", "--data", data).endswith("none: is no folder, expected one of an inverter, such "
                                                               "as `unembed train` writes")  # fmt: skip
    (tmp_path / "empty").mkdir()
    assert "config.json: cannot be read" in refused(tmp_path / "empty", "--data", data)
    (model / "model.safetensors").write_bytes(b"none")
    assert "cannot be read as safetensors" in refused(model, "--data", data)


def test_texts_that_will_not_do(tmp_path: Path, model: Path, data: Path, encoder: FakeEncoder) -> None:
    assert refused(model) == "neither --texts nor --data were given, expected one of them"
    assert refused(model, "--data", data, "--texts", "x").startswith("both --texts and --data were given")
    assert refused(model, "--texts", tmp_path / "none.txt").endswith("none.txt: no such file or folder")
    assert "no manifest.json" in refused(model, "--data", tmp_path / "none")
    assert not model.with_name("model.fit").joinpath("texts").exists()
    (tmp_path / "few.txt").write_text("\n".join(tiny_texts(60)), encoding="utf-8")
    line = refused(model, "--texts", tmp_path / "few.txt", "--work", tmp_path / "few")
    assert "texts are held out for validation, expected at least 20; give more texts, one in 20 is held out" in line
    (tmp_path / "empty.txt").touch()
    assert refused(model, "--texts", tmp_path / "empty.txt", "--work", tmp_path / "w").endswith("expected texts")
    shutil.copytree(data, tmp_path / "shards")
    manifest = tmp_path / "shards" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"tokenizer": "', '"tokenizer": "0'))
    assert "another tokenizer than the inverter's" in refused(model, "--data", tmp_path / "shards")
    (tmp_path / "held.txt").write_text((data / "validation.txt").read_text(), encoding="utf-8")
    tree = json.loads((model / "config.json").read_text())
    tree["config"]["data"]["held_out"] = 0.2
    (model / "config.json").write_text(json.dumps(tree))
    line = refused(model, "--texts", tmp_path / "held.txt", "--work", tmp_path / "held")
    assert line.endswith("no passages to draw from in the split 'train'")
    assert contents(model) == {}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--minutes", "0"], "minutes is 0.0, expected more than 0"),
        (["--limit", "0"], "Invalid value for '--limit': 0 is not in the range x>=1."),
        (["--only", "student,x"], "Invalid value for '--only': 'student,x' is not one of"),
        (["--go-on"], "a new surrogate has no student to go on with"),
        (["--device", "tpu"], "device is 'tpu'"),
    ],
)
def test_options_that_are_impossible(model: Path, data: Path, more: list[str], message: str) -> None:
    assert refused(model, "--data", data, *more).startswith(message)


def test_work_of_something_else(model: Path, data: Path, tmp_path: Path, encoder: FakeEncoder) -> None:
    words = [model, "--data", data, "--limit", 2000, "--only", "surrogate"]
    work = model.with_name("model.fit")
    work.mkdir()
    (work / "mine.txt").touch()
    advice = "choose another --work, or delete it"
    expected = f"{work}: holds no work.json, expected a folder that `unembed fit` made; {advice}"
    assert refused(*words) == expected
    (work / "mine.txt").unlink()
    call("fit", *words)
    assert f"{work}: belongs to another seed (0, this call has 1); {advice}" == refused(*words, "--seed", 1)
    belongs = json.loads((work / "work.json").read_text())
    for name in ("inverter", "encoder", "texts"):
        (work / "work.json").write_text(json.dumps(belongs | {name: "0" * 64}))
        assert refused(*words).startswith(f"{work}: belongs to another {name} (000000000000, this call has ")
    (work / "work.json").write_text("{")
    assert refused(*words) == f"{work / 'work.json'}: does not say what the folder belongs to; {advice}"
    (work / "work.json").write_text(json.dumps(belongs))
    chunk = work / "windows-0000.safetensors"
    content = chunk.read_bytes()
    shutil.rmtree(work / "surrogate-2000")
    chunk.write_bytes(content[: len(content) // 2])
    assert "windows-0000.safetensors: cannot be read as safetensors" in refused(*words)
    chunk.write_bytes(content[:-8] + b"\xff" * 8)
    assert "does not hold 2048 texts with embeddings; delete it to have it made again" in refused(*words)
    chunk.unlink()
    call("fit", *words)


def test_a_state_of_another_student(model: Path, data: Path) -> None:
    tiny_surrogate().save(model / FILE)

    def student(settings: Settings, minutes: float) -> list[Path]:
        options = FitOptions(only=("student",), limit=2000, minutes=minutes)
        fit(model, data=data, options=options, encoder=fake_encoder(), settings=settings)
        return list(model.with_name("model.fit").glob("student-*"))

    (small,) = student(SMALL, 0.001)
    (wide,) = set(student(dataclasses.replace(SMALL, width=64), 0.001)) - {small}
    shutil.copy(wide, small)
    with pytest.raises(InputError, match=r"is no state of this student \(.*\); delete it to begin anew"):
        student(SMALL, 0.002)


def test_folders_that_cannot_be_written(
    model: Path, data: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    line = refused(model, "--data", data, "--work", tmp_path / "file" / "work", code=1)
    assert "cannot be written (Not a directory)" in line

    def read_only(*_: Any, **__: Any) -> None:  # to root no folder is
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(unembed.training.fit.tempfile, "TemporaryFile", read_only)
    assert refused(model, "--data", data, code=1) == f"{model}: cannot be written (Permission denied)"
    assert encoder.calls == 0


def test_an_encoder_that_answers_nonsense(model: Path, data: Path, encoder: FakeEncoder) -> None:
    encoder.network.table.weight.data[:] = float("nan")
    assert refused(model, "--data", data, code=1).startswith("fake: an embedding has NaN or infinite values; ")
    assert contents(model) == {}


# --- at the end of a training


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unembed.training.fit, "FEWEST", 2048)


def trained(data: Path, out: Path, steps: int = 4, freeze: tuple[str, ...] = (), **options: Any) -> Path:
    settings = config()
    changes = {"steps": steps, "learning_rate": 0.03, "freeze": freeze}
    settings = dataclasses.replace(settings, training=dataclasses.replace(settings.training, **changes))
    return train(settings, data, out, encoder=fake_encoder(), show_progress_bar=False, fit=True, **options)


@pytest.mark.usefixtures("quick")
def test_a_training_ends_with_it(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inverter = trained(data, tmp_path / "whole")
    found = Inverter.from_pretrained(inverter, encoder=fake_encoder())
    assert found.surrogate is not None
    assert found.surrogate.steers
    assert found.calibration is not None
    assert not inverter.with_name("inverter.fit").exists()
    before = contents(inverter)
    assert sorted(before) == sorted(FILES)
    # Interrupted while it fits, it goes on without a step more.
    embedded: list[int] = []
    calibrate = unembed.training.fit.calibrate

    def fail(*_: Any) -> None:
        raise EncoderError("lost")

    monkeypatch.setattr(unembed.training.fit, "calibrate", fail)
    with pytest.raises(EncoderError):
        trained(data, tmp_path / "other")
    assert (tmp_path / "other" / "inverter.fit").exists()
    monkeypatch.setattr(unembed.training.fit, "calibrate", calibrate)
    encode = FakeEncoder.encode_tokens
    monkeypatch.setattr(
        FakeEncoder, "encode_tokens", lambda self, ids, lengths: embedded.append(len(ids)) or encode(self, ids, lengths)
    )
    assert contents(trained(data, tmp_path / "other", resume=True)) == before
    assert sum(embedded) < 200  # what it calibrates with
    # A finished run stays as it is; a longer one fits anew.
    embedded.clear()
    trained(data, tmp_path / "other", resume=True)
    assert embedded == []
    longer = contents(trained(data, tmp_path / "other", steps=8, resume=True))
    assert all(longer[name] != before[name] for name in FILES)
    # A surrogate that belongs to a frozen table stays.
    frozen = contents(trained(data, tmp_path / "frozen", freeze=("table",), start_from=inverter))
    assert frozen[FILE] == before[FILE]
    assert frozen["calibration.json"] != before["calibration.json"]


@pytest.mark.usefixtures("quick")
def test_a_training_on_few_texts_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("\n".join(tiny_texts(60)), encoding="utf-8")
    prepare(config(), [str(tmp_path / "few.txt")], tmp_path / "data", fake_encoder())
    with pytest.warns(UserWarning, match="not wholly fitted: .* expected at least 20; .*; see `unembed fit`"):
        inverter = trained(tmp_path / "data", tmp_path / "run")
    assert list(contents(inverter)) == [FILE]
