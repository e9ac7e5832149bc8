"""The command line as a user meets it: what it prints where, in a terminal and outside, and that it starts at once."""

import io
import json
import re
import resource
import subprocess
import sys
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

import unembed
import unembed.storage.packaged_inverters
from fakes import (
    LocalEncoder,
    fake_encoder,
    local_parts,
    save_tiny_inverter,
    tiny_config,
    tiny_parts,
    tiny_surrogate,
    tiny_texts,
    tiny_tokenizer,
)
from unembed.cli import command_group, options
from unembed.cli import main as cli
from unembed.cli.terminal import METRICS, canvas_text, printable
from unembed.config import config_to_dict
from unembed.decoding.options import Decoding
from unembed.errors import EncoderError
from unembed.inverter import Inverter
from unembed.search.options import options_of

TEXTS = ["the old cat watched a river.", "no king paints the ship at night."]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_inverter(tmp_path_factory.mktemp("inverter") / "tiny"))


@pytest.fixture
def run(monkeypatch):
    """Call the command with the fake encoder in the place of every other."""
    for module in ("encoders.encoder", "inverter.inverter", "training.train"):
        monkeypatch.setattr(f"unembed.{module}.load_encoder", lambda *_, **__: fake_encoder())
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def call(*arguments, code=0, **options):
        result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="unembed", **options)
        assert result.exit_code == code, result.output
        return result

    return call


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys; from unembed.cli.main import main; main(['--help'], standalone_mode=False)"
    code += "; print([name for name in ('torch', 'numpy', 'rich', 'transformers', 'pyarrow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "unembed", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    )  # of a processor, however busy it is


@pytest.mark.parametrize("name", ["encode", "invert", "prepare", "train", "fit", "evaluate"])
def test_help_of_each_command(run, name):
    out = run(name, "--help").stdout
    assert out.startswith(f"Usage: unembed {name} [OPTIONS]")
    for parameter in cli.main.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert parameter.help.endswith((".", "]"))
            assert parameter.opts[-1] in out


def test_the_default_encoder_is_packaged():
    assert options.ENCODER in unembed.storage.packaged_inverters.PACKAGED


REQUIRED = [
    (name, parameter.opts[-1])
    for name, command in cli.main.commands.items()
    for parameter in command.params
    if parameter.required and isinstance(parameter, click.Option)
]


@pytest.mark.parametrize(("name", "left_out"), REQUIRED)
def test_a_required_option_that_is_left_out_is_named(run, name, left_out):
    command = cli.main.commands[name]
    words = ["x.yaml"] * sum(isinstance(one, click.Argument) and one.required for one in command.params)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.required and parameter.opts[-1] != left_out:
            words += [parameter.opts[-1], "x"]
    assert f"Missing option '{left_out}'" in run(name, *words, code=2).stderr.replace(
        f"'-o' / '{left_out}'", f"'{left_out}'"
    )


def test_required_options_are_known():
    assert {name for name, _ in REQUIRED} == {"prepare", "train", "align", "evaluate", "recover"}


def test_commands_are_those_of_the_design(run):
    assert set(cli.main.commands) >= {"encode", "invert", "prepare", "train", "evaluate"}
    assert run("--version").stdout == f"unembed {unembed.__version__}\n"
    assert "encode" in run(code=2).stderr  # the help


def test_encode_prints_json_lines_that_invert_reads(run, model):
    lines = run("encode", *TEXTS).stdout
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    expected = fake_encoder().encode(TEXTS)
    np.testing.assert_array_equal(np.float32([row["embedding"] for row in rows]), expected)
    found = run("invert", "--embeddings", "-", "--model", model, input=lines).stdout
    inversions = Inverter.from_pretrained(model, encoder=fake_encoder()).invert(expected)
    assert found.splitlines() == [inversion.text for inversion in inversions]


def test_encode_to_a_file(run, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS * 700) + "\n")  # more than a chunk
    output = tmp_path / "new" / "vectors.npy"
    out = run("encode", "--texts", tmp_path / "texts.txt", "-o", output).stdout
    assert out == f"1,400 embeddings of 16 dimensions -> {output}\n"
    np.testing.assert_array_equal(np.load(output), fake_encoder().encode(TEXTS * 700))
    tree = json.loads(run("encode", TEXTS[0], "-o", output, "--json").stdout)
    assert tree == {"encoder": "fake", "dimension": 16, "texts": 1, "output": str(output)}
    tree = json.loads(run("encode", *TEXTS, "--json").stdout)
    np.testing.assert_array_equal(np.float32(tree["embeddings"]), fake_encoder().encode(TEXTS))


def test_encode_says_what_the_encoder_does_not_read(run):
    result = run("encode", "the cat " * 40, *TEXTS)
    assert result.stderr == "unembed: note: 1 of the texts go on past the 62 tokens that the encoder reads\n"
    assert len(result.stdout.splitlines()) == 3


def test_round_trip_outside_a_terminal_is_plain_lines(run, model):
    result = run("invert", "--model", model, *TEXTS)
    first, second = result.stdout.split("\n\n")
    assert re.fullmatch(
        rf"original:  {re.escape(TEXTS[0])}\nrecovered: .+\ncosine -?\d\.\d\d\d, \d+ of 8 tokens in place", first
    )
    assert second.startswith(f"original:  {TEXTS[1]}\nrecovered: ")
    assert result.stderr == ""


def test_round_trip_as_json(run, model, tmp_path):
    result = run("invert", "--model", model, *TEXTS, "--json", "--steps", 5, "--seed", 7)
    (line,) = result.stdout.splitlines()
    tree = json.loads(line)
    expected = Inverter.from_pretrained(model, encoder=fake_encoder()).invert(
        fake_encoder().encode(TEXTS), steps=5, seed=7
    )
    assert tree["encoder"] == "fake"
    assert tree["options"] == {
        "steps": 5, "strategy": "confidence", "candidates": 1, "seconds": None, "max_calls": None, "guidance": 0.0,
        "balance": 0.7, "steering": 75.0, "temperature": None, "seed": 7, "measure_cosine": True,
    }  # fmt: skip
    assert [row["original"] for row in tree["results"]] == TEXTS
    for number, (row, inversion) in enumerate(zip(tree["results"], expected, strict=True)):
        assert (row["row"], row["text"], row["tokens"]) == (number, inversion.text, inversion.tokens)
        assert row["cosine"] == pytest.approx(inversion.cosine, abs=1e-6)
        assert 0 <= row["token_accuracy"] <= 1
    run("invert", "--model", model, *TEXTS, "--steps", 5, "--seed", 7, "-o", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [inversion.text for inversion in expected]


def test_options_reach_the_inverter(run, model, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        Inverter,
        "invert",
        lambda self, e, *how, **more: seen.update(more, **options_of(*(how or (Decoding(), None)))) or [],
    )
    options = {"steps": 3, "strategy": "euler", "candidates": 2, "guidance": 1.5, "temperature": 0.3, "seed": 4}
    options |= {"balance": 0.2, "steering": 30.0}
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    run(
        "invert",
        "--embeddings",
        "-",
        "--model",
        model,
        *arguments,
        "--batch-size",
        9,
        input=run("encode", "cat").stdout,
    )
    assert options.items() <= seen.items()
    assert seen["batch_size"] == 9
    assert seen["measure_cosine"]
    assert seen["first_row"] == 0
    run("invert", "--embeddings", "-", "--model", model, "--no-cosine", input=run("encode", "cat").stdout)
    assert not seen["measure_cosine"]


def test_files_as_json_and_to_a_file(run, model, tmp_path):
    embeddings = fake_encoder().encode(tiny_texts(100))
    np.save(tmp_path / "in.npy", embeddings)
    call = ["invert", "--embeddings", tmp_path / "in.npy", "--model", model, "--batch-size", 32]
    tree = json.loads(run(*call, "--json").stdout)
    texts = [row["text"] for row in tree["results"]]
    expected = Inverter.from_pretrained(model, encoder=fake_encoder()).invert(embeddings, batch_size=32)
    assert texts == [inversion.text for inversion in expected]
    output = tmp_path / "out.jsonl"
    assert run(*call, "-o", output).stdout == f"100 rows -> {output}\n"
    assert [json.loads(line)["text"] for line in output.read_text().splitlines()] == texts
    assert run(*call, "-o", output).stdout == f"100 rows -> {output}, 100 of them from before\n"
    summary = json.loads(run(*call, "-o", output, "--overwrite", "--json").stdout)
    assert (summary["rows"], summary["continued_from"], summary["output"]) == (100, 0, str(output))
    assert run(*call, "-o", output, "--steps", 2, code=2).stderr == (
        f"unembed: {output}: was made with steps 8, this call has 2; choose another output, or --overwrite it\n"
    )


def plain(text):
    """What a terminal would show, without its colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.fixture
def terminal(monkeypatch):
    """Standard output that takes itself for a wide terminal, and no pauses."""
    monkeypatch.setattr("unembed.cli.terminal.FRAME_SECONDS", 0.0)
    return {"FORCE_COLOR": "1", "COLUMNS": "200", "TERM": "xterm-256color", "NO_COLOR": None}


def test_a_terminal_shows_every_pass(run, model, terminal):
    out = run("invert", "--model", model, TEXTS[0], "--steps", 4, env=terminal).stdout
    lines = plain(out).splitlines()
    assert [line[:9].strip() for line in lines if line.startswith("   pass ")] == [f"pass {i}" for i in range(5)]
    assert lines[0].count("░") == 16
    assert "░" not in lines[4]
    assert any(line.startswith(" original  the old cat watched a river.") for line in lines)
    recovered = next(line for line in lines if line.startswith("recovered  "))
    inverter = Inverter.from_pretrained(model, encoder=fake_encoder())
    inversion = inverter.invert(fake_encoder().encode(TEXTS[:1]), steps=4)[0]
    assert recovered.removeprefix("recovered  ").strip() == inversion.text
    assert re.search(
        rf"cosine {inversion.cosine:.3f} · \d of 8 tokens in place \(\d+%\) · 4 passes, \d\.\d\d s", plain(out)
    )
    assert "\x1b[1;32m" in out  # what changed


def test_no_color_is_respected(run, model, terminal):
    out = run("invert", "--model", model, TEXTS[0], "--steps", 4, env=terminal | {"NO_COLOR": "1"}).stdout
    assert not re.search(r"\x1b\[[\d;]*3\d", out)
    assert "pass 4" in out


def test_narrow_terminals_wrap_below_the_text(run, model, terminal):
    out = plain(run("invert", "--model", model, TEXTS[0], "--steps", 2, env=terminal | {"COLUMNS": "30"}).stdout)
    lines = out.splitlines()
    assert max(map(len, lines)) <= 30
    assert lines[1].startswith(" " * 11 + "░")  # the second line of pass 0


def test_a_terminal_shows_candidates_best_first(run, model, terminal):
    call = ["invert", "--model", model, TEXTS[0], "--candidates", 3]
    out = plain(run(*call, env=terminal).stdout)
    (result,) = json.loads(run(*call, "--json").stdout)["results"]
    for candidate in result["candidates"]:
        assert candidate["text"] in " ".join(out.split())
    assert "pass 1" not in out


def test_a_terminal_shows_files_as_a_table(run, model, terminal):
    lines = run("encode", *TEXTS).stdout
    out = plain(run("invert", "--embeddings", "-", "--model", model, input=lines, env=terminal).stdout)
    for row, line in enumerate(out.splitlines()):
        assert re.match(rf" {{8}}{row} +-?0\.\d\d\d  \w+", line)


def test_what_is_shown_cannot_steer_the_terminal(run, model, terminal):
    assert printable("a\x1b]0;title\x07\r\n\u202eb\x9b 🦉 नमस्ते") == "a\ufffd]0;title\ufffd \ufffdb\ufffd 🦉 नमस्ते"
    text = "the \x1b[2Jcat\x07"
    for env in (terminal, {}):
        assert "\x1b[2J" not in run("invert", "--model", model, text, env=env).stdout
    assert json.loads(run("invert", "--model", model, text, "--json").stdout)["results"][0]["original"] == text


def test_pieces_join_as_in_writing():
    tokenizer = tiny_tokenizer()
    ids = [*tokenizer.encode("the cats watched."), tokenizer.mask_id, *tokenizer.encode("dog")]
    ids = tokenizer.canvas(ids, 16)
    out = Console(file=io.StringIO(), color_system=None)
    shown = canvas_text(out, tokenizer, ids, [False] * 16)
    assert shown.plain == "the cats watched. ░ dog"
    assert canvas_text(
        Console(file=io.TextIOWrapper(io.BytesIO(), "ascii")), tokenizer, ids, [False] * 16
    ).plain.isascii()


@pytest.fixture
def endpoint():
    """The address of an encoder in the OpenAI shape, and the texts it was asked for."""
    asked, encoder = [], fake_encoder()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
            asked.extend(texts)
            data = [{"index": i, "embedding": row.tolist()} for i, row in enumerate(encoder.encode(texts))]
            body = json.dumps({"data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/embeddings", asked
        server.shutdown()


def test_guided_inversion_asks_a_remote_encoder(run, endpoint, tmp_path):
    url, asked = endpoint
    model = tmp_path / "model"
    Inverter(tiny_parts()._replace(surrogate=tiny_surrogate())).save_pretrained(model)
    np.save(tmp_path / "e.npy", fake_encoder().encode(TEXTS))
    call = ["invert", "--model", model, "--embeddings", tmp_path / "e.npy", "--encoder-url", url, "--json"]
    blind = json.loads(run(*call).stdout)
    assert all(row["encoder_calls"] == 0 and "seconds" not in row for row in blind["results"])
    asked.clear()
    found = run(*call, "--max-calls", 20)
    tree = json.loads(found.stdout)
    calls = [row["encoder_calls"] for row in tree["results"]]
    assert max(calls) <= 20
    assert sum(calls) >= len(asked) - 1 == len(set(asked)) - 1 > 10  # the probe; what both rows found is asked for once
    tokens = sum(len(ids) + 2 for ids in tiny_tokenizer().encode_batch(asked))
    assert found.stderr == f"{url}: asked for {len(asked)} texts, {tokens} tokens\n"
    gone = run(*call[:-2], "nowhere", "--max-calls", 1, code=2)
    assert gone.stderr == "unembed: encoder URL is 'nowhere', expected http:// or https://\n"


SEARCHED = ["wild horse and dog", "the old cat"]
CALLS = 2000


@pytest.fixture
def local(monkeypatch):
    """The inverter of `LocalEncoder` in the place of the packaged one."""
    monkeypatch.setattr(Inverter, "from_pretrained", lambda *_, **__: Inverter(local_parts(), LocalEncoder()))


def test_a_terminal_shows_the_best_text_so_far(run, local, terminal):
    found = Inverter.from_pretrained().invert(LocalEncoder().encode(SEARCHED), max_calls=CALLS)
    shown = run("invert", *SEARCHED, "--max-calls", CALLS, "--seconds", 90, env=terminal).stdout
    first, second = plain(shown).split("original  ")[1:]
    for text, one, part in zip(SEARCHED, found, (first, second), strict=True):
        assert part.startswith(text)
        assert re.search(rf"recovered  {text} *\n", part)
        assert re.search(
            rf"cosine 1.000 · (\d) of \1 tokens in place \(100%\) · "
            rf"exact after \d+\.\d s, {one.encoder_calls} encoder calls",
            part,
        )
    lines = plain(shown).split("\n")
    assert sum(bool(re.search(r"blind  0\.\d{3}  \w+", line)) for line in lines) == 2
    bests = re.findall(r"\d+\.\d s  ([01]\.\d{3})  \w+", plain(shown).split("original  ")[0])
    assert bests == sorted(bests)
    assert "1.000" in bests
    assert re.search(r"\d\.\d of 90 s, \d+ of 2,000 encoder calls", plain(shown))  # the live line
    assert "\x1b[1;32m" in shown  # words that are new


def test_a_pipe_gets_what_a_terminal_shows(run, local):
    found = Inverter.from_pretrained().invert(LocalEncoder().encode(SEARCHED), max_calls=CALLS)
    parts = run("invert", *SEARCHED, "--max-calls", CALLS).stdout.split("\n\n")
    for text, one, part in zip(SEARCHED, found, parts, strict=True):
        original, recovered, figures, ended = part.strip().split("\n")
        assert (original, recovered) == (f"original:  {text}", f"recovered: {text}")
        assert figures.startswith("cosine 1.000, ")
        assert re.match(rf"exact after \d+\.\d s, {one.encoder_calls} encoder calls", ended)
    results = json.loads(run("invert", *SEARCHED, "--max-calls", CALLS, "--json").stdout)["results"]
    assert [(row["text"], row["encoder_calls"]) for row in results] == [(one.text, one.encoder_calls) for one in found]
    assert all(row["exact"] and row["plausible"] and row["seconds"] > 0 for row in results)
    (lost,) = json.loads(run("invert", TEXTS[1], "--max-calls", 20, "--json").stdout)["results"]
    assert (lost["exact"], lost["plausible"]) == (False, True)
    ended = run("invert", TEXTS[1], "--max-calls", 20).stdout.splitlines()[-1]
    assert re.fullmatch(r"not exact after \d+\.\d s, 20 encoder calls, which is all that it may spend", ended)


def test_a_vector_that_no_text_has_is_told_of(run, local, terminal, monkeypatch):
    monkeypatch.setattr("unembed.decoding.inversion.PLAUSIBLE", 0.999)  # in 64 dimensions a few words are near anything
    rows = json.dumps(np.eye(64)[0].tolist())
    call = ["invert", "--embeddings", "-", "--max-calls", 20]
    shown = plain(run(*call, input=rows, env=terminal).stdout)
    assert re.search(
        r"nothing close was found after \d\.\d s, 20 encoder calls: this may be no embedding of this encoder", shown
    )
    (row,) = json.loads(run(*call, "--json", input=rows).stdout)["results"]
    assert (row["exact"], row["plausible"]) == (False, False)


def test_prepare_train_evaluate(run, tmp_path):
    """The whole chain on the fake encoder, each command as the documentation writes it."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("\n".join(tiny_texts(400, seed=len(name) + ord(name[0]))) + "\n")
    config = config_to_dict(tiny_config())
    config["training"] |= {"steps": 4, "learning_rate": 0.03}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    sources = sorted(tmp_path.glob("*.txt"))
    data, out = tmp_path / "data", tmp_path / "out"
    table = run("prepare", tmp_path / "tiny.yaml", "--texts", *sources, "-o", data).stdout
    assert re.search(r"\n *one +\d{3} +\d+ ", table)
    assert re.search(r"\n *two +\d{3} +\d+ ", table)
    trained = run("train", tmp_path / "tiny.yaml", "--data", data, "-o", out)
    assert trained.stdout == f"inverter -> {out / 'inverter'}\n"
    again = run("train", tmp_path / "tiny.yaml", "--data", data, "-o", out, code=2)
    assert again.stderr == f"unembed: {out}: holds a run already; continue it with --resume or choose another folder\n"
    run("train", tmp_path / "tiny.yaml", "--data", data, "-o", out, "--resume")
    fitted = Inverter.from_pretrained(out / "inverter")
    assert fitted.surrogate.steers
    assert fitted.calibration is not None
    changed = ["--set", "training.seed=1", "--set", "training.steps=3", "--no-fit"]
    more = ["--data", data, "-o", tmp_path / "o2", "--from", out / "inverter", "--minutes", 1]
    run("train", tmp_path / "tiny.yaml", *more, *changed)
    kept = Inverter.from_pretrained(tmp_path / "o2" / "inverter")
    assert (kept.surrogate, kept.calibration) == (None, None)
    assert (kept.config.training.seed, kept.results["steps"]) == (1, 4 + 3)  # those it started from as well
    wrong = run("train", tmp_path / "tiny.yaml", *more, "--set", "training.sed=1", code=2)
    assert "sed" in wrong.stderr
    # Neither alone is possible: a width is a multiple of the heads.
    together = ["--set", "model.width=30", "--set", "model.heads=5"]
    nowhere = run(
        "train", tmp_path / "tiny.yaml", "--data", tmp_path / "none", "-o", tmp_path / "o3", *together, code=2
    )
    assert "multiple" not in nowhere.stderr
    assert "none" in nowhere.stderr

    call = ["evaluate", "--model", out / "inverter", "--texts", data / "test.txt", "--tokens", "natural", "--limit", 9]
    call += ["--steps", 3]
    tree = json.loads(run(*call, "--json").stdout)
    assert (tree["n"], tree["tokens"], tree["steps"], tree["strategy"]) == (9, "natural", 3, "confidence")
    shown = run(*call, env={"COLUMNS": "100"}).stdout
    for name, label in METRICS.items():
        low, high = (f"{bound:.{1 if name == 'bleu' else 3}f}" for bound in tree["intervals"][name])
        assert re.search(rf"\n *{label} .* {low} to {high}", shown)
    assert "9 whole texts, confidence, 3 steps" in shown
    assert "random vector" in shown
    assert json.loads(run(*call, "--json", "--tokens", 4, "--candidates", 2).stdout)["options"]["temperature"] > 0


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["C", "--texts", "a", "b", "c", "-o", "D"], ("a", "b", "c")),
        (["--texts", "a", "b", "-o", "D", "C"], ("a", "b")),
        (["C", "-o", "D", "--texts", "a", "--texts", "b", "--limit", "3"], ("a", "b")),
    ],
)
def test_prepare_takes_what_the_shell_makes_of_a_star(arguments, texts):
    context = cli.main.commands["prepare"].make_context("prepare", arguments)
    assert context.params["texts"] == texts
    assert context.params["config"] == "C"


@pytest.mark.parametrize(
    ("arguments", "how"),
    [
        (["invert", "--embeddings", "x.npy", "-o", "y.jsonl"], "again goes on from the rows in y.jsonl.part"),
        (
            ["invert", "--embeddings", "x.npy", "-o", "y.jsonl", "--overwrite"],
            "without --overwrite goes on from the rows",
        ),
        (["train", "c.yaml", "--data", "d", "-o", "o"], "with --resume goes on from the newest checkpoint"),
        (["train", "c.yaml", "--data", "d", "-o", "o", "--resume"], "same command goes on from the newest checkpoint"),
        (["prepare", "c.yaml", "--texts", "t", "-o", "o"], "the same command again goes on where it stopped"),
        (["fit", "m", "--texts", "t"], "the same command again goes on where it stopped"),
    ],
)
def test_an_interruption_says_how_to_go_on(run, model, tmp_path, monkeypatch, arguments, how):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for name in ("cli.bulk.invert_file", "training.train.train", "training.fit.fit", "corpus.prepare.prepare"):
        monkeypatch.setattr(f"unembed.{name}", interrupt)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", fake_encoder().encode(TEXTS))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config_to_dict(tiny_config())))
    extra = ["--model", model] if arguments[0] == "invert" else []
    result = run(*arguments, *extra, code=130)
    assert result.stderr.startswith("unembed: interrupted; the same command")
    assert how in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_nobody_foresaw_is_one_line_too(run, model, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("unembed.inverter.Inverter.encode", fail)
    result = run("invert", "--model", model, "cat", code=1)
    assert result.stderr == "unembed: unexpected RuntimeError: two lines (set UNEMBED_TRACEBACK=1 to see where)\n"
    monkeypatch.setenv(command_group.TRACEBACK, "1")
    with pytest.raises(RuntimeError):
        CliRunner().invoke(cli.main, ["invert", "--model", model, "cat"], catch_exceptions=False)


def test_a_missing_encoder_costs_only_the_cosines(run, model, monkeypatch, tmp_path):
    def missing(*_, **__):
        raise EncoderError("encoder 'fake' is not here")

    np.save(tmp_path / "in.npy", fake_encoder().encode(TEXTS))
    monkeypatch.setattr("unembed.inverter.inverter.load_encoder", missing)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("invert", "--model", model, "--embeddings", tmp_path / "in.npy", "--json")
    assert result.stderr == "unembed: warning: cosines are not measured: encoder 'fake' is not here\n"
    assert [row["cosine"] for row in json.loads(result.stdout)["results"]] == [None, None]
    assert run("invert", "--model", model, "cat", code=1).stderr == "unembed: encoder 'fake' is not here\n"


@pytest.mark.parametrize("output", ["/dev/full", "closed pipe"])
def test_output_that_nobody_takes(output):
    code = "import click; from unembed.cli.main import main; "
    code += "main.add_command(click.Command('print', callback=lambda: click.echo('x' * 100_000))); main(['print'])"
    command = [sys.executable, "-c", code]
    if output == "/dev/full":
        with open(output, "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.stderr == "unembed: standard output: No space left on device\n"
    else:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.close()
        done = subprocess.CompletedProcess(command, process.wait(), stderr=process.stderr.read())
        process.stderr.close()
        assert done.stderr == ""
    assert done.returncode == 1
