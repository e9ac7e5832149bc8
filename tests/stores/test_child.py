"""The process in which native readers run: it cannot write, and it has only so much memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from unembed.errors import MissingPackageError
from unembed.stores import child

pytestmark = pytest.mark.slow


def confined(code: str) -> subprocess.CompletedProcess[str]:
    before = "from unembed.stores import child; child._confine(1 << 30)\n"
    command = [sys.executable, "-c", before + code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limits")
def test_it_cannot_write_nor_take_memory_nor_leave_a_core(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    done = confined(f"with open({str(tmp_path / 'kept')!r}, 'r+') as file: file.write('other')")
    assert "File too large" in done.stderr
    assert (tmp_path / "kept").read_text() == "kept"
    assert "MemoryError" in confined("bytes(1 << 30)").stderr
    done = confined("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert done.stdout.strip() == "(0, 0)"


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(
        MissingPackageError, match=r"x\.y: reading Z needs no_such_package: pip install 'unembed\[stores\]'"
    ):
        child.need("no_such_package", "Z", "x.y")
