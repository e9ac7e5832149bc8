"""What the scripts of this folder share: how they end, and settings by name."""

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import click
import yaml

from unembed.decoding.options import Decoding
from unembed.errors import InputError, UnembedError
from unembed.search.options import Search


def run(main: click.Command) -> None:
    """Run a script's command: an error of ours is one line and an exit code, not a traceback."""
    try:
        main()
    except UnembedError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


def changed(decoding: Decoding, search: Search | None, settings: Sequence[str]) -> tuple[Decoding, Search | None]:
    """An inversion's plan with settings NAME=VALUE, the value as YAML.

    NAME is a field of `Decoding` or of `Search`, or a tuned constant: decoding.FIELD of `DecodingTuning`, search.FIELD
    of `SearchTuning`, search.kernel.FIELD of `Kernel`.

    Raises:
        InputError: nothing has that name, the value is not of its kind, or there is no search.
    """
    for setting in settings:
        name, equals, value = setting.partition("=")
        *sections, field = name.split(".")
        section = sections.pop(0) if sections else "search" if field in ("seconds", "max_calls") else "decoding"
        tuned = ["tuning", *sections] if "." in name else []
        try:
            if not equals or section not in ("decoding", "search"):
                raise KeyError(section)
            whole: Any = decoding if section == "decoding" else search
            if whole is None:
                raise InputError(f"--set {setting}: inversion is blind, expected --seconds or --max-calls beside it")
            whole = _with(whole, [*tuned, field], yaml.safe_load(value))
        except (KeyError, yaml.YAMLError) as error:
            raise InputError(
                f"--set {setting}: expected NAME=VALUE, NAME a field of Decoding or Search, decoding.FIELD, "
                "search.FIELD or search.kernel.FIELD"
            ) from error
        decoding, search = (whole, search) if section == "decoding" else (decoding, whole)
    return decoding, search


def _with(whole: Any, path: Sequence[str], value: Any) -> Any:
    """A frozen dataclass with one field, which may be of a part of it, changed. Raises KeyError."""
    name, *rest = path
    old = {field.name: getattr(whole, field.name) for field in fields(whole)}[name]
    if rest:
        value = _with(old, rest, value) if is_dataclass(old) else {}[name]
    elif is_dataclass(old) or isinstance(old, str) != isinstance(value, str):
        raise KeyError(name)
    return replace(whole, **{name: value})
