"""The package as a whole: what it exports, what importing it costs, and that its pages tell the truth."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import unembed

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SOURCES = sorted((ROOT / "src").rglob("*.py"))
LONGEST_FILE = 450
LAYERS = (  # each imports only what stands before it
    "errors", "config", "files", "tables", "denoiser", "encoders", "stores", "corpus", "surrogate", "decoding",
    "storage", "alignment", "search", "inverter", "objective", "evaluation", "training", "audit", "server", "cli",
)  # fmt: skip


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every `unembed ...` in the page's shell blocks; a pattern becomes two names, as in a shell."""
    text = "\n".join(code_blocks(page, "bash")).replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        words = [name for word in words for name in ([word.replace("*", x) for x in "ab"] if "*" in word else [word])]
        for start, word in enumerate(words):
            if Path(word).name == "unembed" and (start == 0 or words[start - 1] in ("|", "-m")):
                rest = words[start + 1 :]
                yield rest[: rest.index("|")] if "|" in rest else rest


def check_command(words: list[str]) -> None:
    """Parse the arguments as the command line would, options with values and required ones included; run nothing."""
    from unembed.cli.main import main

    name, *rest = words
    command = main.commands.get(name)
    assert command is not None, f"no such command: {name}"
    command.make_context(name, rest, parent=click.Context(main, info_name="unembed"))


def test_all_is_sorted_and_every_name_of_it_loads():
    assert unembed.__all__ == sorted(unembed.__all__)
    for name in unembed.__all__:
        assert getattr(unembed, name) is not None
    assert set(unembed.__all__) <= set(dir(unembed))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = unembed.nothing


def imported(source: Path) -> set[str]:
    """What a file of the package imports of it, anywhere: the first name after `unembed.`."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    found = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[1] for name in found if name.startswith("unembed.")}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_package_imports_only_those_below_it(layer):
    package = ROOT / "src" / "unembed" / layer
    sources = sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]
    assert sources
    below = LAYERS[: LAYERS.index(layer) + 1]
    for source in sources:
        assert imported(source) <= set(below), page_name(source)


def test_every_module_lies_in_a_package():
    package = ROOT / "src" / "unembed"
    names = {path.stem if path.suffix == ".py" else path.name for path in package.iterdir()}
    assert names - {"__pycache__", "py.typed"} == {*LAYERS, "__init__", "__main__", "weights"}


def test_import_is_light():
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow'}"
    code = f"import sys, unembed, unembed.cli.main, unembed.config; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_python_m_unembed_is_the_command():
    done = subprocess.run([sys.executable, "-m", "unembed", "--version"], capture_output=True, text=True, check=True)
    assert unembed.__version__ in done.stdout


def test_version_stands_at_the_top_of_the_changelog():
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == unembed.__version__


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_of_the_pages_exist(page):
    for words in commands(page):
        check_command(words)


def test_pages_show_every_command():
    from unembed.cli.main import main

    shown = {words[0] for page in PAGES for words in commands(page)}
    assert shown >= {name for name, command in main.commands.items() if not command.hidden}


@pytest.mark.parametrize(
    "words", [["no-such-command"], ["invert", "--no-such-option"], ["invert", "--steps", "many"], ["train"]]
)
def test_the_check_of_commands_notices_mistakes(words):
    with pytest.raises((AssertionError, click.UsageError)):
        check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_of_the_pages_compiles_and_imports_what_exists(page):
    for block in code_blocks(page, "python"):
        compile(block, page.name, "exec")
        for names in re.findall(r"^from unembed import (.+)$", block, re.MULTILINE):
            assert {name.strip() for name in names.split(",")} <= set(unembed.__all__)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_of_the_pages_resolve(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if not re.match(r"(https?:|mailto:|#)", target):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


def test_make_targets_of_the_pages_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"^make ([a-z]+)", "\n".join(code_blocks(page, "bash")), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


@pytest.mark.parametrize("source", SOURCES, ids=page_name)
def test_sources_are_short_and_say_what_they_are(source):
    text = source.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    assert text.startswith('"""')


def test_every_dependency_is_pinned_and_every_pin_satisfies_its_bound():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    assert "+" not in pins["torch"]  # which build it is, pip's configuration decides
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    groups = [project["project"]["dependencies"], project["build-system"]["requires"], *extras]
    for requirement in (Requirement(line) for group in groups for line in group):
        if requirement.name != "unembed":
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier
