"""Files inverted row by row: stopped anywhere and continued, the result is that of a run never stopped."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from fakes import LocalEncoder, fake_encoder, local_parts, save_tiny_inverter, tiny_texts
from unembed.cli import bulk
from unembed.cli.bulk import invert_file
from unembed.cli.options import Plan
from unembed.decoding.inversion import PLAUSIBLE
from unembed.encoders.embedding_files import open_vectors, scan
from unembed.errors import InputError, OutputError
from unembed.inverter import Inverter
from unembed.search.options import plan

OPTIONS = {"steps": 4, "strategy": "remask", "temperature": 0.7, "seed": 3, "measure_cosine": True}
ROWS, BATCH = 23, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_inverter(tmp_path_factory.mktemp("inverter") / "tiny")


@pytest.fixture
def inverter(folder):
    return Inverter.from_pretrained(folder, encoder=fake_encoder())


@pytest.fixture
def vectors(tmp_path):
    np.save(tmp_path / "in.npy", fake_encoder().encode(tiny_texts(ROWS)))
    return open_vectors(str(tmp_path / "in.npy"))


def planned(batch_size=BATCH, measure_cosine=True, **options):
    return Plan(*plan(**options), measure_cosine, batch_size)


def run(inverter, vectors, output, batch_size=BATCH, overwrite=False, **changed):
    scanned = scan(vectors, inverter.recipe)
    return invert_file(
        inverter, vectors, scanned, output, planned(batch_size, **(OPTIONS | changed)), overwrite=overwrite
    )


def texts(lines):
    return [json.loads(line)["text"] for line in lines.splitlines()]


def interrupt_after(inverter, monkeypatch, batches, error=KeyboardInterrupt):
    """Let `invert` work for so many calls, then raise."""
    calls = iter(range(batches))
    invert = inverter.invert

    def interrupted(*args, **options):
        if next(calls, None) is None:
            raise error
        return invert(*args, **options)

    monkeypatch.setattr(inverter, "invert", interrupted)


def stop_after(batches, monkeypatch, inverter, vectors, output, **options):
    """A run interrupted after so many batches."""
    with monkeypatch.context() as patch:
        interrupt_after(inverter, patch, batches)
        with pytest.raises(KeyboardInterrupt):
            run(inverter, vectors, output, **options)


@pytest.fixture
def whole(inverter, vectors, tmp_path):
    """The bytes of the uninterrupted result."""
    run(inverter, vectors, tmp_path / "whole.jsonl")
    return (tmp_path / "whole.jsonl").read_bytes()


def test_lines_are_what_invert_gives(inverter, vectors, whole, tmp_path):
    rows = [json.loads(line) for line in whole.splitlines()]
    expected = inverter.invert(np.load(tmp_path / "in.npy"), **OPTIONS)
    assert [row["row"] for row in rows] == list(range(ROWS))
    assert [row["text"] for row in rows] == [inversion.text for inversion in expected]
    assert [row["tokens"] for row in rows] == [inversion.tokens for inversion in expected]
    for row, inversion in zip(rows, expected, strict=True):
        assert row["cosine"] == pytest.approx(inversion.cosine, abs=1e-5)
        assert row["confidence"] == pytest.approx(inversion.confidence, abs=1e-4)
        assert row["passes"] == inversion.passes
        assert row["encoder_calls"] == 0
    assert len({row["text"] for row in rows}) > 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npy", "whole.jsonl", "whole.jsonl.state.json"]


@pytest.mark.parametrize("batches", [0, 1, 3, 5])
def test_an_interrupted_run_continues_to_the_same_bytes(inverter, vectors, whole, tmp_path, monkeypatch, batches):
    output = tmp_path / "out.jsonl"
    stop_after(batches, monkeypatch, inverter, vectors, output)
    assert not output.exists()
    summary = run(inverter, vectors, output)
    assert output.read_bytes() == whole
    assert summary["continued_from"] == batches * BATCH
    assert summary["rows"] == ROWS
    assert not (tmp_path / "out.jsonl.part").exists()


@pytest.mark.parametrize("cut", [1, 60, 1500])
def test_torn_lines_are_cut(inverter, vectors, whole, tmp_path, monkeypatch, cut):
    output, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    stop_after(3, monkeypatch, inverter, vectors, output)
    part.write_bytes(part.read_bytes()[:-cut])
    assert run(inverter, vectors, output)["continued_from"] < 3 * BATCH
    assert output.read_bytes() == whole


def test_rows_that_are_all_there_are_only_renamed(inverter, vectors, whole, tmp_path, monkeypatch):
    (tmp_path / "whole.jsonl").rename(tmp_path / "whole.jsonl.part")
    interrupt_after(inverter, monkeypatch, 0, AssertionError)
    assert run(inverter, vectors, tmp_path / "whole.jsonl")["continued_from"] == ROWS
    assert run(inverter, vectors, tmp_path / "whole.jsonl")["continued_from"] == ROWS  # and then nothing is to be done
    assert (tmp_path / "whole.jsonl").read_bytes() == whole


def test_batch_size_may_change(inverter, vectors, whole, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    stop_after(3, monkeypatch, inverter, vectors, output)
    run(inverter, vectors, output, batch_size=5)
    assert texts(output.read_bytes()) == texts(whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 5}, "was made with steps 4, this call has 5"),
        ({"strategy": "euler"}, "was made with strategy 'remask', this call has 'euler'"),
        ({"measure_cosine": False}, "was made with measure_cosine True, this call has False"),
    ],
)
def test_other_options_are_refused(inverter, vectors, whole, tmp_path, monkeypatch, changed, message):
    output = tmp_path / "out.jsonl"
    stop_after(2, monkeypatch, inverter, vectors, output)
    before = (tmp_path / "out.jsonl.part").read_bytes()
    for name in (output, tmp_path / "whole.jsonl"):  # begun, and done
        with pytest.raises(InputError, match=message + "; choose another output, or --overwrite it"):
            run(inverter, vectors, name, **changed)
    assert (tmp_path / "out.jsonl.part").read_bytes() == before
    assert (tmp_path / "whole.jsonl").read_bytes() == whole


def test_another_input_or_inverter_is_refused_unless_overwritten(inverter, vectors, whole, tmp_path):
    output = tmp_path / "whole.jsonl"
    np.save(tmp_path / "other.npy", np.load(tmp_path / "in.npy")[::-1])
    other = open_vectors(str(tmp_path / "other.npy"))
    with pytest.raises(InputError, match=r"made with input sha256 \w{12}\.\.\., this call has \w{12}\.\.\.;"):
        run(inverter, other, output)
    with torch.no_grad():
        inverter.denoiser.output_bias.add_(0.1)
    with pytest.raises(InputError, match="made with inverter sha256"):
        run(inverter, vectors, output)
    assert output.read_bytes() == whole
    assert run(inverter, other, output, overwrite=True)["continued_from"] == 0
    assert output.read_bytes() != whole


def test_an_interrupted_overwrite_keeps_the_old_result_and_can_go_on(inverter, vectors, whole, tmp_path, monkeypatch):
    output = tmp_path / "whole.jsonl"
    stop_after(2, monkeypatch, inverter, vectors, output, overwrite=True, seed=9)
    assert output.read_bytes() == whole
    with pytest.raises(InputError, match="seed 9, this call has 3"):
        run(inverter, vectors, output)
    assert run(inverter, vectors, output, seed=9)["continued_from"] == 2 * BATCH
    assert output.read_bytes() != whole


def test_a_file_of_someone_elses_is_not_touched(inverter, vectors, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("mine\n")
    with pytest.raises(InputError, match="exists, and nothing says what it was made from"):
        run(inverter, vectors, output)
    (tmp_path / "out.jsonl.state.json").write_text("{")
    with pytest.raises(InputError, match="state.json: cannot be read as what out.jsonl was made from"):
        run(inverter, vectors, output)
    assert output.read_text() == "mine\n"


def test_a_deleted_result_is_made_anew_with_any_options(inverter, vectors, whole, tmp_path):
    (tmp_path / "whole.jsonl").unlink()
    assert run(inverter, vectors, tmp_path / "whole.jsonl", steps=2)["continued_from"] == 0


def test_lines_that_do_not_count_up_are_refused(inverter, vectors, whole, tmp_path):
    lines = whole.splitlines(keepends=True)
    (tmp_path / "whole.jsonl").unlink()
    for wrong in (lines[1:6], [*lines, *lines[:4]], [*lines[:3], b"\0\0\0\n"]):
        (tmp_path / "whole.jsonl.part").write_bytes(b"".join(wrong))
        with pytest.raises(InputError, match=r"\.part: line \d+ is not row \d+ of 23; --overwrite starts anew"):
            run(inverter, vectors, tmp_path / "whole.jsonl")


def test_only_one_process_writes(inverter, vectors, tmp_path):
    with (tmp_path / "out.jsonl.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is being written by another process"):
            run(inverter, vectors, tmp_path / "out.jsonl")


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(inverter, vectors, whole, tmp_path):
    output = tmp_path / "out.jsonl"
    size = len(whole) // 2
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(OutputError, match=r"out\.jsonl\.part: cannot be written \(File too large\)"):
            run(inverter, vectors, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not output.exists()
    assert run(inverter, vectors, output)["continued_from"] > 0
    assert output.read_bytes() == whole


def test_a_folder_that_cannot_be_written(inverter, vectors, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        run(inverter, vectors, tmp_path / "in.npy" / "out.jsonl")


def test_several_candidates_are_in_the_line(inverter, vectors, tmp_path):
    run(inverter, vectors, tmp_path / "out.jsonl", candidates=3)
    row = json.loads((tmp_path / "out.jsonl").read_bytes().splitlines()[0])
    assert len(row["candidates"]) == 3
    assert row["candidates"][0]["text"] == row["text"]
    assert set(row["candidates"][0]) == {"text", "cosine", "score"}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_is_continued(folder, tmp_path, stop):
    np.save(tmp_path / "in.npy", fake_encoder().encode(tiny_texts(120) * 3))  # long enough to be stopped on the way
    output, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    arguments = ["invert", "--embeddings", str(tmp_path / "in.npy"), "--model", str(folder), "--no-cosine"]
    arguments += ["--device", "cpu", "--steps", "16", "--batch-size", "4", "-o", str(output)]
    process = subprocess.Popen(
        [sys.executable, "-m", "unembed", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore SIGINT, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not (part.exists() and part.stat().st_size > 0):
        time.sleep(0.002)
    process.send_signal(stop)
    _, errors = process.communicate()
    assert part.stat().st_size > 0
    assert not output.exists()
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert errors == f"unembed: interrupted; the same command again goes on from the rows in {part}\n"
    else:
        assert process.returncode == -signal.SIGKILL

    inverter = Inverter.from_pretrained(folder)
    vectors = open_vectors(str(tmp_path / "in.npy"))
    options = {
        "steps": 16,
        "strategy": "confidence",
        "candidates": 1,
        "seconds": None,
        "max_calls": None,
        "guidance": 0.0,
        "balance": 0.7,
        "steering": 75.0,
        "temperature": None,
    }
    options |= {"seed": 0, "measure_cosine": False}
    scanned = scan(vectors, inverter.recipe)
    assert invert_file(inverter, vectors, scanned, output, planned(**options))["continued_from"] >= 4
    invert_file(inverter, vectors, scanned, tmp_path / "whole.jsonl", planned(**options))
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def guided(lines):
    """The records of guided rows without the time that they took, and passes, which are made again after a kill."""
    rows = [json.loads(line) for line in lines.splitlines()]
    for row in rows:
        assert row.pop("seconds") > 0
        assert row.pop("passes") > 0
    return rows


def test_guided_rows_say_what_was_found_and_in_what_time(tmp_path):
    texts = ["wild horse and dog"]
    vectors = np.concatenate([LocalEncoder().encode(texts), np.random.default_rng(0).standard_normal((1, 64))])
    np.save(tmp_path / "in.npy", (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
    inverter, seen = Inverter(local_parts(), LocalEncoder()), []
    plain = inverter.invert
    inverter.invert = lambda e, *how, **more: (
        seen.append((len(e), how[1] and how[1].journal_folder)) or plain(e, *how, **more)
    )
    vectors = open_vectors(str(tmp_path / "in.npy"))
    invert_file(inverter, vectors, scan(vectors, inverter.recipe), tmp_path / "out.jsonl", planned(max_calls=1000))
    rows = guided((tmp_path / "out.jsonl").read_bytes())
    assert (rows[0]["text"], rows[0]["exact"], rows[0]["plausible"]) == (texts[0], True, True)
    assert rows[0]["encoder_calls"] < 1000 == rows[1]["encoder_calls"]
    assert (rows[1]["exact"], rows[1]["plausible"]) == (False, rows[1]["cosine"] >= PLAUSIBLE)
    # Small batches, so that each row is told of; nothing is left behind.
    assert seen == [(torch.get_num_threads(), tmp_path / "out.jsonl.journal")] * (2 // torch.get_num_threads())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "out.jsonl", "out.jsonl.state.json"]
    run(inverter, vectors, tmp_path / "blind.jsonl")
    assert seen[-1][0] == 2
    assert not {"seconds", "exact", "plausible"} & set(
        json.loads((tmp_path / "blind.jsonl").read_text().splitlines()[0])
    )


KILLED = """
import sys, time
import numpy as np, torch
sys.path.insert(0, {tests!r})
from fakes import LocalEncoder, local_parts
import unembed.inverter
torch.set_num_threads(1)

class Slow(LocalEncoder):
    def encode(self, texts, batch_size=32, show_progress_bar=False):
        time.sleep({pause})
        return super().encode(texts)

unembed.inverter.Inverter.from_pretrained = classmethod(lambda cls, *_, **__: cls(local_parts(), Slow()))
from unembed.cli.main import main
main()
"""


def test_a_process_killed_in_the_middle_of_a_search_is_continued(tmp_path):
    np.save(tmp_path / "in.npy", LocalEncoder().encode(tiny_texts(3)))
    output, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"

    def command(output, pause):
        code = KILLED.format(tests=os.path.dirname(__file__), pause=pause)
        arguments = ["invert", "--embeddings", str(tmp_path / "in.npy"), "--max-calls", "60", "-o", str(output)]
        return [sys.executable, "-c", code, *arguments, "--device", "cpu"]

    process = subprocess.Popen(command(output, 0.1))
    while process.poll() is None and not (journal / "1.npz").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    part = tmp_path / "out.jsonl.part"
    assert len(part.read_bytes().splitlines()) == 1
    assert not output.exists()
    whole = tmp_path / "whole.jsonl"
    for name in (output, whole):
        done = subprocess.run(command(name, 0), capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"3 rows -> {name}" + (", 1 of them from before" if name == output else ""))
    assert guided(output.read_bytes()) == guided(whole.read_bytes())
    assert not journal.exists()


def test_text_stays_text(inverter):
    inversion = inverter.invert(fake_encoder().encode(["the cat"]))[0]
    object.__setattr__(inversion, "text", "grüße \u2028 🦉")
    line = bulk.line(inversion, 0)
    assert line.count(b"\n") == 1
    assert json.loads(line)["text"] == "grüße \u2028 🦉"
