"""Everything that users get wrong: one line that names it, the exit code, nothing half-written."""

import errno
import json
import os
import pickle
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from fakes import fake_encoder, tiny_config, tiny_texts, tiny_tokenizer
from unembed.cli.main import main
from unembed.config import Config, ModelConfig, Recipe, config_to_dict
from unembed.errors import ConfigError
from unembed.storage.checkpoint import build_denoiser, save_inverter, save_pt

ALIGNER = "an aligner reads another encoder's (`unembed align`)"
UNIT = np.eye(16, dtype=np.float32)


def save_tiny(folder, tokenizer, config):
    torch.manual_seed(0)
    save_inverter(folder, build_denoiser(config, tokenizer).state_dict(), tokenizer, config, {})
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("inverter") / "tiny", tiny_tokenizer(), tiny_config())


@pytest.fixture
def own_model(tmp_path):
    """An inverter's folder that a test may damage."""
    return save_tiny(tmp_path / "own", tiny_tokenizer(), tiny_config())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in an empty folder, with the fake encoder in the place of every other."""
    for module in ("encoders.encoder", "inverter.inverter", "training.train"):
        monkeypatch.setattr(f"unembed.{module}.load_encoder", lambda *_, **__: fake_encoder())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def refused(*arguments, code=2, stdin=None):
    """The one line on standard error of a call that must fail with `code`, and print nothing."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="unembed", input=stdin)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("unembed: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("\n")
    return result.stderr.removeprefix("unembed: ").removesuffix("\n")


def invert(model, array, *more, code=2):
    """The line that inverting an array gives; nothing may be left of its output."""
    np.save("in.npy", array)
    before = sorted(os.listdir())
    line = refused("invert", "--embeddings", "in.npy", "--model", model, "-o", "new/out.jsonl", *more, code=code)
    assert sorted(os.listdir()) == before
    return line


@pytest.mark.parametrize("text", ["", " \t\n", "\x00\x07\x1b", "\u200b\ufeff"])
def test_empty_text(model, text):
    expected = "text 2 is empty or holds nothing that the encoder reads, expected words"
    assert refused("invert", "the cat", text, "--model", model) == expected
    what = "holds nothing that the encoder reads" if text.strip() else "is empty"
    expected = f"TEXT: row 1 {what}, expected words; --skip-bad leaves it out"
    assert refused("encode", "the cat", text, "-o", "out.npy") == expected
    assert os.listdir() == []


def test_empty_text_in_a_file():
    with open("texts.txt", "w") as file:
        file.write("the cat\n\na dog\n")
    expected = "texts.txt: row 1 is empty, expected words; --skip-bad leaves it out"
    assert refused("encode", "--texts", "texts.txt", "-o", "out.npy") == expected
    open("none.txt", "w").close()
    assert refused("encode", "--texts", "none.txt", "-o", "out.npy") == "none.txt: is empty, expected texts"
    assert sorted(os.listdir()) == ["none.txt", "texts.txt"]


def test_nothing_asked_for(model):
    assert refused("encode") == "expected either TEXT or --texts FILE"
    assert refused("encode", "the cat", "--texts", "a.txt") == "expected either TEXT or --texts FILE"
    expected = "expected either TEXT or --embeddings FILE (- for standard input)"
    assert refused("invert", "--model", model) == expected
    assert refused("invert", "the cat", "--embeddings", "-") == expected


@pytest.fixture(scope="module")
def real_model(minilm, tmp_path_factory):
    """An inverter for all-MiniLM-L6-v2 itself, as small as can be and untrained."""
    shape = ModelConfig(max_tokens=8, width=32, blocks=1, heads=2, feed_forward=32, adaln_rank=2)
    folder = tmp_path_factory.mktemp("inverter") / "real"
    return save_tiny(folder, minilm.tokenizer, Config(minilm.recipe, shape))


def test_text_of_ten_thousand_words(minilm, real_model, monkeypatch):
    monkeypatch.setattr("unembed.inverter.inverter.load_encoder", lambda *_: minilm)
    result = CliRunner().invoke(main, ["invert", "--model", real_model, "--json", "word " * 10_000])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["results"][0]["text"]
    assert result.stderr == (
        "unembed: note: text 1 has 10,000 tokens, of which at most 8 come back; the encoder reads the first 254\n"
    )


def test_any_text_goes_round(minilm, real_model, monkeypatch):
    monkeypatch.setattr("unembed.inverter.inverter.load_encoder", lambda *_: minilm)
    texts = [
        "Der Fluß führt Hochwasser.",
        "图书馆九点开门",
        "نص بالعربية",
        "🦉 👨‍👩‍👧 ok",
        "a\x00b\x1b[2J\u202ec",
        "\ud83e ok",
    ]
    call = ["invert", "--model", real_model, *texts]
    shown = CliRunner().invoke(main, call)
    assert shown.exit_code == 0, shown.output
    assert not {"\x00", "\x1b", "\u202e"} & {*shown.stdout}
    assert all(f"original:  {text}\n" in shown.stdout for text in texts[:4])
    printed = CliRunner().invoke(main, [*call, "--json"])
    assert [row["original"] for row in json.loads(printed.stdout)["results"]] == texts


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (UNIT[:7, :9], f"embedding has 9 dimensions, this inverter takes 16 (fake); {ALIGNER}"),
        (UNIT[0, :9], f"embedding has 9 dimensions, this inverter takes 16 (fake); {ALIGNER}"),
        (UNIT.reshape(2, 8, 16), "array has 3 axes, expected rows of embeddings"),
        (np.float32(1), "array has 0 axes, expected rows of embeddings"),
        (UNIT[:0], "holds no embeddings, expected at least 1"),
        (
            np.where(UNIT[:1], np.nan, 0.0),
            "row 0 has NaN or infinite values, expected finite ones; --skip-bad leaves it out",
        ),
        (
            UNIT[:3] / np.array([[1], [1], [1e-300]]),
            "row 2 has NaN or infinite values, expected finite ones; --skip-bad leaves it out",
        ),
        (
            UNIT * (np.arange(16) != 5)[:, None],
            "row 5 is all zeros, expected an embedding; --skip-bad leaves it out",
        ),
        (
            UNIT[:2] * [[1], [3]],
            "row 1 has length 3, expected 1 (fake embeddings are normalised); --normalize scales to length 1",
        ),
        (
            UNIT * (np.arange(16) > 7)[:, None],
            "8 of 16 rows are no embeddings: "
            + "; ".join(f"row {row} is all zeros, expected an embedding" for row in range(5))
            + "; and 3 more; --skip-bad leaves them out",
        ),
        (
            UNIT.T[:, :5],
            "embedding has 5 dimensions, this inverter takes 16 (fake); (16, 5) looks transposed, expected a row for "
            "each embedding",
        ),
        (
            np.packbits(UNIT[:7] > 0, axis=1),
            "embedding has 2 dimensions, this inverter takes 16 (fake); they look like bits packed into bytes, which "
            "--normalize reads as +1 and -1, at a loss",
        ),
        (np.array([["a"] * 16]), "values are of type <U1, expected real numbers"),
        (UNIT.astype(bool), "values are of type bool, expected real numbers"),
        (UNIT.astype(complex), "values are of type complex128, expected real numbers"),
    ],
)
def test_embeddings_that_do_not_fit(model, array, message):
    assert invert(model, array) == f"in.npy: {message}"


def test_a_bad_row_far_down_names_its_number_before_any_work(model):
    rows = np.tile(UNIT, (500, 1))
    rows[7_654] = 0
    assert invert(model, rows) == "in.npy: row 7654 is all zeros, expected an embedding; --skip-bad leaves it out"


def test_embeddings_from_files_that_are_not_what_they_claim(model):
    np.save("pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save("whole.npy", UNIT)
    with open("whole.npy", "rb") as whole, open("cut.npy", "wb") as cut:
        cut.write(whole.read()[:-7])
    pq.write_table(pa.table({"numbers": [[0.5] * 16], "n": [1]}), "other.parquet")
    os.link("other.parquet", "mislabelled.npy")
    os.link("whole.npy", "mislabelled.jsonl")
    for name, message in {
        "pickled.npy": "holds pickled Python objects, which are never loaded, expected numbers",
        "cut.npy": "is truncated or not a whole .npy file (mmap length is greater than file size)",
        "mislabelled.npy": "is not a .npy file, holds Parquet data",
        "mislabelled.jsonl": "holds NumPy data, which its ending does not say",
        "other.parquet": "has columns numbers, n, expected one called embedding (--column names another)",
        "none.npy": "no such file or folder",
        "texts.csv": "no such file or folder",
    }.items():
        assert refused("invert", "--embeddings", name, "--model", model) == f"{name}: {message}"


def test_bad_standard_input(model):
    call = ["invert", "--model", model, "--embeddings", "-"]
    assert refused(*call, stdin="[1, 0") == (
        "standard input: line 1 is not JSON (Expecting ',' delimiter: line 1 column 6 (char 5))"
    )
    assert refused(*call, stdin="[1, 0]") == (
        f"standard input: embedding has 2 dimensions, this inverter takes 16 (fake); {ALIGNER}"
    )
    assert refused(*call, stdin="") == "standard input: holds no embeddings, expected at least 1"
    assert refused(*call, stdin=json.dumps([float("nan")] * 16)) == (
        "standard input: row 0 has NaN or infinite values, expected finite ones; --skip-bad leaves it out"
    )


def test_another_encoder(model):
    assert refused(
        "invert", "--embeddings", "-", "--model", model, "--encoder", "all-MiniLM-L6-v2", stdin="[]"
    ).startswith(
        "embeddings of another recipe: encoder is 'all-MiniLM-L6-v2', expected 'fake'; dimension is 384, expected 16"
    )
    assert invert(model, UNIT, "--encoder", "nobody-knows").startswith("encoder 'nobody-knows' is not known by name")


@pytest.mark.parametrize("steps", [0, -1, 17, 33, 10_000])
def test_impossible_steps(model, steps):
    wanted = "1 to 16 (the inverter's length)" if steps > 0 else "at least 1"
    expected = f"steps is {steps}, expected {wanted}"
    assert refused("invert", "the cat", "--model", model, "--steps", steps) == expected
    assert invert(model, UNIT, "--steps", steps) == expected
    with open("texts.txt", "w") as file:
        file.write("the cat\n")
    assert refused("evaluate", "--texts", "texts.txt", "--model", model, "--steps", steps) == expected


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--strategy", "best", "strategy is 'best', expected one of confidence, sequential, "),
        ("--candidates", 0, "candidates is 0, expected at least 1"),
        ("--seconds", 0, "seconds is 0.0, expected more than 0"),
        ("--seconds", -1, "seconds is -1.0, expected more than 0"),
        ("--seconds", "nan", "seconds is nan, expected more than 0"),
        ("--seconds", "inf", "seconds is inf, expected more than 0"),
        ("--seconds", 3, "this inverter has no surrogate, which a guided inversion needs"),
        ("--max-calls", 0, "max_calls is 0, expected at least 1"),
        ("--max-calls", -5, "max_calls is -5, expected at least 1"),
        ("--max-calls", "nan", "Invalid value for '--max-calls': 'nan' is not a valid integer."),
        ("--max-calls", 3, "this inverter has no surrogate, which a guided inversion needs"),
        ("--rounds", 3, "No such option"),
        ("--temperature", -0.1, "temperature is -0.1, expected 0 or more"),
        ("--temperature", "nan", "temperature is nan, expected 0 or more"),
        ("--guidance", "inf", "guidance is inf, expected -1 or more"),
        ("--device", "tpu", "device is 'tpu', expected one that this machine has (cpu"),
        ("--device", "cuda:99", "device is 'cuda:99', expected one that this machine has (cpu"),
        ("--steps", "many", "Invalid value for '--steps': 'many' is not a valid integer."),
        ("--batch-size", 0, "Invalid value for '--batch-size': 0 is not in the range x>=1."),
        ("--no-such", 1, "No such option"),
        ("--model", "nowhere", "nowhere: there is no such inverter"),
        ("--model", "nowhere.pt", "nowhere.pt: there is no such inverter"),
        ("--output", "out.txt", "out.txt: unknown ending '.txt' of --output, expected .jsonl"),
    ],
)  # fmt: skip
def test_impossible_options(model, option, value, message):
    for text in (["the cat"], ["--embeddings", "in.npy"]):
        np.save("in.npy", UNIT)
        assert refused("invert", *text, "--model", model, option, value).startswith(message)
    assert os.listdir() == ["in.npy"]


def test_unknown_command():
    assert refused("revert").startswith("No such command 'revert'")


def test_checkpoints_with_other_tensors(own_model):
    path = os.path.join(own_model, "model.safetensors")
    state = load_file(path)
    name = sorted(state)[3]
    for changed, message in (
        ({key: value for key, value in state.items() if key != name}, f"tensor {name} is missing"),
        (state | {"extra": torch.zeros(1)}, "tensor extra is not part of this denoiser"),
        (state | {name: torch.zeros(3, 1)}, f"tensor {name} has shape (3, 1), expected {tuple(state[name].shape)}"),
    ):
        save_file(changed, path)
        assert refused("invert", "the cat", "--model", own_model) == f"{own_model}: {message}"
    os.truncate(path, 100)
    assert refused("invert", "the cat", "--model", own_model).startswith(f"{path}: cannot be read as safetensors (")
    os.remove(path)
    assert refused("invert", "the cat", "--model", own_model).startswith(f"{path}: cannot be read as safetensors (")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json: is not JSON"),
        ("config.json", "[]", "config.json: holds list, expected keys and values"),
        ("config.json", "{}", "config.json: is not an unembed inverter, key 'config' is missing"),
        ("config.json", '{"config": {"colour": 1}}', "config.json: unknown key colour, expected one of"),
        ("tokenizer.json", "{", "tokenizer.json: tokenizer JSON cannot be read"),
        ("tokenizer_ids.json", "{}", "tokenizer_ids.json: expected the keys eos_id, mask_id, pad_id and prompt"),
    ],
)
def test_damaged_inverters(own_model, name, content, message):
    with open(os.path.join(own_model, name), "w") as file:
        file.write(content)
    assert message in refused("invert", "the cat", "--model", own_model)


def test_an_inverter_for_another_encoder(own_model):
    """Its network does not fit the recipe that its config claims."""
    path = os.path.join(own_model, "config.json")
    with open(path) as file:
        tree = json.load(file)
    tree["config"]["encoder"]["dimension"] = 384
    with open(path, "w") as file:
        json.dump(tree, file)
    line = refused("invert", "the cat", "--model", own_model)
    assert "has shape" in line
    assert "384" in line


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "pwned"),))

    torch.save({"state": Attack()}, "torch.pt")
    with open("bare.pt", "wb") as file:
        pickle.dump({"state": Attack()}, file)
    for name in ("torch.pt", "bare.pt"):
        line = refused("invert", "the cat", "--model", name)
        assert line.startswith(f"{name}: ")
        assert "run code" in line
    assert not (tmp_path / "pwned").exists()


def test_pt_files_that_are_no_inverters(model):
    torch.save({"state": {}}, "other.pt")
    torch.save([1], "list.pt")
    with open("text.pt", "w") as file:
        file.write("hello")
    config = tiny_config()
    save_pt("cut.pt", build_denoiser(config, tiny_tokenizer()).state_dict(), tiny_tokenizer(), config, {})
    os.truncate("cut.pt", 4_000)
    for name in ("other.pt", "list.pt", "text.pt", "cut.pt"):
        assert refused("invert", "the cat", "--model", name).startswith(f"{name}: ")


def test_folders_that_cannot_be_written(model):
    np.save("in.npy", UNIT)
    before = os.listdir()
    line = refused("encode", "the cat", "-o", "in.npy/out.npy", code=1)
    assert line.startswith("in.npy/out.npy: cannot be written (")
    for source in (["the cat"], ["--embeddings", "in.npy"]):
        line = refused("invert", *source, "--model", model, "-o", "in.npy/out.jsonl", code=1)
        assert line.startswith("in.npy/out.jsonl: cannot be written (")
    assert os.listdir() == before


def test_a_full_disk_leaves_nothing(model, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    reason = "cannot be written (No space left on device)"
    assert refused("encode", "the cat", "-o", "out.npy", code=1) == f"out.npy: {reason}"
    assert refused("invert", "the cat", "--model", model, "-o", "out.jsonl", code=1) == f"out.jsonl: {reason}"
    assert os.listdir() == []


def test_an_old_result_survives_a_failure(model):
    np.save("vectors.npy", UNIT)
    with open("texts.txt", "w") as file:
        file.write("the cat\n\n")
    refused("encode", "--texts", "texts.txt", "-o", "vectors.npy")
    np.testing.assert_array_equal(np.load("vectors.npy"), UNIT)
    assert refused("encode", "the cat", "-o", "vectors.txt") == (
        "vectors.txt: unknown ending '.txt' of --output, expected .npy"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "unknown key colour, expected one of data, diffusion, encoder, model, training"),
        ({"training": {"steps": 0}}, "training.steps is 0, expected greater than 0"),
        ({"training": {"rate": 1}}, "unknown key training.rate, expected one of batch_size, "),
        ({"model": {"width": 7}}, "model.width is 7, expected a multiple of model.heads (12)"),
        ({"encoder": {"encoder": "fake"}}, "encoder.dimension is missing"),
        ({"data": {"min_tokens": "four"}}, "data.min_tokens is 'four', expected a valid integer"),
        ({"data": {"min_tokens": True}}, "data.min_tokens is True, expected a valid integer"),
        ({"training": {"ema": True}}, "training.ema is 'True', expected a valid number"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate is nan, expected greater than 0"),
        ({"training": {"optimizer": "sgd"}}, "training.optimizer is 'sgd', expected 'muon' or 'adamw'"),
        ({"data": {"weights": {"a\x1b\n": -1}}}, r"data.weights.a\x1b\n is -1, expected greater than or equal to 0"),
        ({"model": [1]}, "model is [1], expected a dictionary"),
        ({"encoder": {"dimesion": 16}}, "unknown key encoder.dimesion, expected one of dimension, encoder, "),
    ],
)
def test_bad_configurations(change, message):
    tree = {"encoder": {"encoder": "fake", "dimension": 16}} | change
    with open("c.yaml", "w") as file:
        yaml.safe_dump(tree, file)
    assert refused("prepare", "c.yaml", "--texts", "t.txt", "-o", "out").startswith(f"c.yaml: {message}")
    assert refused("train", "c.yaml", "--data", "d", "-o", "out").startswith(f"c.yaml: {message}")
    assert os.listdir() == ["c.yaml"]


def test_a_section_that_is_made_in_python_is_checked_too():
    for make, message in (
        (lambda: Recipe("fake", 0), "encoder.dimension is 0, expected greater than 0"),
        (lambda: Recipe("fake", 16, colour="red"), "unknown key encoder.colour, expected one of dimension, "),
        (lambda: replace(ModelConfig(), heads=7), "model.width is 384, expected a multiple of model.heads (7)"),
        (lambda: Config(Recipe("fake", 16), 3), "model is 3, expected a dictionary"),
    ):
        with pytest.raises(ConfigError, match="^" + re.escape(message)):
            make()
    assert Config({"encoder": "fake", "dimension": 16}) == Config(Recipe("fake", 16))


def test_configurations_that_are_none():
    with open("broken.yaml", "w") as file:
        file.write("a: [1\nb: 2")
    with open("binary.yaml", "wb") as file:
        file.write(b"\xff\xfe")
    assert refused("train", "none.yaml", "--data", "d", "-o", "o") == (
        "none.yaml: cannot be read (No such file or directory)"
    )
    assert refused("train", "broken.yaml", "--data", "d", "-o", "o").startswith("broken.yaml: is not YAML (")
    assert refused("train", "binary.yaml", "--data", "d", "-o", "o").startswith("binary.yaml: cannot be read (")
    assert refused("train", "--data", "d", "-o", "o") == "Missing argument 'CONFIG'."
    assert refused("prepare", "none.yaml", "-o", "o") == "Missing option '--texts'."
    assert refused("prepare", "none.yaml", "-o", "o", "--texts") == "Option '--texts' requires an argument."


def test_bad_sources_and_shards():
    with open("c.yaml", "w") as file:
        yaml.safe_dump(config_to_dict(tiny_config()), file)
    with open("t.txt", "w") as file:
        file.write("\n".join(tiny_texts(50)))
    with open("fake.gz", "w") as file:
        file.write("no gzip")
    for name in ("none.txt", "fake.gz", "c.yaml"):
        assert refused("prepare", "c.yaml", "--texts", "t.txt", name, "-o", "out").startswith(f"{name}: ")
    assert refused("prepare", "c.yaml", "--texts", "t.txt", "-o", "t.txt/out", code=1).startswith("t.txt")
    assert refused("train", "c.yaml", "--data", "nowhere", "-o", "run").startswith("nowhere")
    assert not os.path.exists("run")
    CliRunner().invoke(main, ["prepare", "c.yaml", "--texts", "t.txt", "-o", "data"], catch_exceptions=False)
    assert "cannot be written" in refused("train", "c.yaml", "--data", "data", "-o", "t.txt/run", code=1)
    assert refused("train", "c.yaml", "--data", "data", "-o", "run", "--from", "nowhere").startswith("nowhere")
    assert refused("train", "c.yaml", "--data", "data", "-o", "run", "--minutes", 0).startswith(
        "Invalid value for '--m"
    )


def test_bad_evaluations(model):
    with open("t.txt", "w") as file:
        file.write("the cat\n")
    call = ["evaluate", "--model", model, "--texts"]
    assert refused(*call, "none.txt") == "none.txt: no such file or folder"
    assert refused(*call, "t.txt", "--tokens", "all").startswith("tokens is 'all', expected a number, a range of them")
    assert refused(*call, "t.txt", "--tokens", 0).startswith("tokens is 0, expected 'natural', or a number from 1")
    assert refused(*call, "t.txt", "--tokens", "4-17").startswith("tokens is '4-17', expected 'natural', or a number")
    assert refused(*call, "t.txt", "--tokens", 16) == (
        "no text with at least 16 content tokens among 1, expected at least 1"
    )
    assert refused(*call, "t.txt", "--limit", 0).startswith("Invalid value for '--limit'")
    assert refused(*call, "t.txt", "--tokens", 2, "--seed", -1) == "seed is -1, expected 0 or more"
