"""What any store gives away: files that all may read, copies, secrets, endpoints."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from unembed.stores.names import text_field
from unembed.stores.rows import metadata
from unembed.stores.traces import assignments, copies, endpoints, of_files, of_settings, secrets

SECRETS = {
    "OpenAI": "sk-proj-abcdefghijklmnopqrstuvwx1234",
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "GitHub": "ghp_" + "a1" * 18,
    "Hugging Face": "hf_" + "Ab" * 17,
    "Google": "AIza" + "Sy" * 17 + "x",
    "Slack": "xoxb-1234567890-abcdef",
    "private key": "-----BEGIN RSA PRIVATE KEY-----",
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc",
    "in an address": "postgresql://user:hunter22@db.internal:5432/x",
    "by its name": "openai_api_key='0123456789abcdef'",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_found_and_not_shown(kind: str) -> None:
    found = secrets([("here", f"before {SECRETS[kind]} after"), ("here", SECRETS[kind])])
    assert [(one.kind, one.where, one.count) for one in found] == [("secret", "here", 2)]
    assert kind in found[0].detail
    assert SECRETS[kind] not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "api_key_env_var=CHROMA_OPENAI_API_KEY", "the password was long", "task-force-and-disk-usage-of-a-machine",
        "https://example.org/a:b@c", "secret santa", "AKIA is short", "monkey=0123456789abcdef",
    ],
)  # fmt: skip
def test_what_is_no_secret(text: str) -> None:
    assert secrets([("here", text)]) == []


def test_long_texts_take_no_time() -> None:
    start = time.monotonic()
    for text in ("a" * 10**6, "eyJ" * 10**5, "api_key=" * 10**5, "x://" * 10**5, "-----BEGIN " * 10**5, "a_" * 10**5):
        secrets([("here", text)])
        endpoints([("here", text)])
    assert time.monotonic() - start < 5


def test_endpoints_come_without_what_is_private() -> None:
    settings = {
        "base": {"url": ["https://user:secret@llm.internal:8443/v1?key=private"]},
        "other": "http://[::1]:11434/api",
    }
    found = endpoints(assignments(settings, "config.json"))
    assert [(one.detail, one.where) for one in found] == [
        ("The configuration names the endpoint http://[::1]:11434.", "config.json"),
        ("The configuration names the endpoint https://llm.internal:8443.", "config.json"),
    ]


def test_settings_that_nest_without_end() -> None:
    deep: dict[str, object] = {"text": "x"}
    for _ in range(10_000):
        deep = {"deep": deep, "text": "x"}
    assert len(list(assignments(deep, "here"))) < 20


@pytest.mark.skipif(os.name == "nt", reason="permissions are Unix'")
def test_files_that_every_user_may_read() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        look_at_files(Path(folder))


def look_at_files(folder: Path) -> None:
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
        (folder / name).chmod(0o600)
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:
            pytest.skip(f"{parent} is closed to other users")
    folder.chmod(0o755)
    assert of_files([folder]) == []
    (folder / "b").chmod(0o644)
    assert [(one.kind, one.detail, one.where) for one in of_files([folder])] == [
        ("readable", "One file can be read by every user of this machine.", "b")
    ]
    (folder / "c").chmod(0o604)
    assert of_files([folder])[0].detail.startswith("2 files")
    assert len(of_files([folder / "b"])) == 1
    folder.chmod(0o700)
    assert of_files([folder]) == of_files([folder / "b"]) == []


def test_copies_beside_a_store(tmp_path: Path) -> None:
    names = ["store.db", "store.db.bak", "store.db~", "store.db-journal", "store (copy).db", "store.backup2"]
    names.append("store.tar.gz")
    others = ["other.bak", "store.db-wal", "store.db-shm", "storefront.txt", "notes.old"]
    for name in [*names, *others]:
        (tmp_path / name).write_text("x")
    assert sorted(one.where for one in copies(tmp_path / "store.db")) == sorted(names[1:])
    inside = {one.where for one in copies(tmp_path)}
    assert {"other.bak", "notes.old"} <= inside
    assert {one.kind for one in copies(tmp_path)} == {"copy"}


def test_snapshots_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "store" / "snapshots").mkdir(parents=True)
    (tmp_path / "store-backup").mkdir()
    (tmp_path / "store" / "data").mkdir()
    assert sorted(one.where for one in copies(tmp_path / "store")) == ["snapshots", "store-backup"]
    assert copies(tmp_path / "missing") == []


def test_the_field_that_is_the_text() -> None:
    prose = {"summary": "a b", "note": "some words that are longer", "url": "https://example.org/" + "x" * 100, "n": 7}
    assert text_field([prose] * 3) == "note"
    assert text_field([prose, {**prose, "content": "x"}]) == "content"
    assert text_field([{"url": "x" * 100, "n": 7}]) == ""
    assert text_field([]) == ""


def test_settings_tell_of_keys_without_showing_them() -> None:
    settings = {
        "model": {"api_key": "short", "token": "$var:KEY", "password": "${PASSWORD}"},
        "host": "user:pw@emb.example:8443/v1",
    }
    found = of_settings(settings, "config.json")
    assert [(one.kind, one.where) for one in found] == [("endpoint", "config.json"), ("secret", "config.json")]
    assert found[0].detail == "The configuration names the endpoint emb.example:8443."
    assert "api_key" in found[1].detail
    assert not any(word in str(found) for word in ("short", "pw", "PASSWORD"))


def test_objects_that_are_in_each_other_many_times_take_no_time() -> None:
    many: list[object] = []
    for _ in range(7):
        many = [many] * 1000
    start = time.monotonic()
    assert list(assignments({"a": many}, "here")) == []
    assert str(metadata({"a": many})["a"]).startswith("... (list")
    assert time.monotonic() - start < 5
