"""Servers of stores for tests, made after the published interfaces: no real one of these can be installed from PyPI.

Each answers what its documentation says, for the requests that are in it, and refuses all others. The pages:

    Qdrant          docs/redoc/master/openapi.json of github.com/qdrant/qdrant: /collections, /collections/{name},
                    /collections/{name}/points/scroll, /collections/{name}/snapshots, /telemetry, ErrorResponse
    Elasticsearch   specification/_global/{search,scroll,clear_scroll,count}, specification/indices/{get_mapping,stats}
                    of github.com/elastic/elasticsearch-specification; the dense_vector page of elastic.co/docs, of
                    which: from 9.2 on `_source` has no vectors unless `exclude_vectors` is false
    OpenSearch      docs.opensearch.org/latest/api-reference/search-apis/scroll: as Elasticsearch, without that word
    Weaviate        openapi-specs/schema.json of github.com/weaviate/weaviate: /schema, /schema/{class}/tenants,
                    /objects with `after`, /graphql; docs.weaviate.io/weaviate/manage-objects/read-all-objects
    Pinecone        2026-04/db_control_2026-04.oas.yaml and db_data_2026-04.oas.yaml of github.com/pinecone-io/
                    pinecone-api: /indexes, /describe_index_stats, /vectors/list, /vectors/fetch
"""

import base64
import contextlib
import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Query = dict[str, list[str]]
Answer = tuple[int, Any]
Headers = Mapping[str, str]


class StoreServer(ABC):
    """What a server has been asked, and how it answers. `change` may replace any answer before it is sent."""

    key = ""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.url = ""
        self.change: Callable[[str, Answer], Any] = lambda path, answer: answer

    @abstractmethod
    def answer(self, method: str, path: list[str], query: Query, body: Any, headers: Headers) -> Answer:
        """Status and body of the answer to a request."""

    @abstractmethod
    def refusal(self, status: int, message: str) -> Answer:
        """An error as this server tells it."""


@contextlib.contextmanager
def serving(store: StoreServer) -> Iterator[str]:
    """The address of a real server on this machine that answers for a store."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            where = urlsplit(self.path)
            store.asked.append((self.command, where.path))
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = [unquote(part) for part in where.path.strip("/").split("/")]
            query = parse_qs(where.query, keep_blank_values=True)
            answer = store.answer(self.command, path, query, json.loads(sent) if sent else None, self.headers)
            found = store.change(where.path, answer)
            if callable(found):  # writes the answer itself
                found(self)
                return
            status, tree = found
            content = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PUT = do_HEAD = _any  # noqa: N815

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client has left
                super().handle()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        store.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield store.url
        finally:
            server.shutdown()


class Qdrant(StoreServer):
    """Collections: name -> {"config": CollectionParams, "points": [Record], "deleted": {vector: count}}."""

    def __init__(self, collections: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self.collections = collections
        self.snapshots = 0

    def refusal(self, status: int, message: str) -> Answer:
        return status, {"status": {"error": message}, "time": 0.0, "result": None}

    def answer(self, method: str, path: list[str], query: Query, body: Any, headers: Headers) -> Answer:
        if self.key and headers.get("api-key") != self.key:
            return 401, b"Must provide an API key or an Authorization bearer token"  # as text, which JSON is not
        if len(path) > 1 and path[1] not in self.collections:
            return self.refusal(404, f"Not found: Collection `{path[1]}` doesn't exist!")
        match [method, *path]:
            case ["GET", "collections"]:
                result: Any = {"collections": [{"name": name} for name in self.collections]}
            case ["GET", "collections", name]:
                held = self.collections[name]
                result = {
                    "status": "green", "optimizer_status": "ok", "segments_count": 1, "payload_schema": {},
                    "points_count": len(held["points"]), "indexed_vectors_count": 0,
                    "config": {"params": held["config"], "hnsw_config": HNSW, "optimizer_config": OPTIMIZER,
                               "quantization_config": None, "metadata": held.get("metadata")},
                }  # fmt: skip
            case ["GET", "collections", _, "snapshots"]:
                result = [{"name": f"{i}.snapshot", "size": 1} for i in range(self.snapshots)]
            case ["GET", "telemetry"] if query["details_level"] == ["4"]:
                segments = lambda held: [{"info": {"vector_data": {  # noqa: E731
                    vector: {"num_deleted_vectors": count, "num_vectors": 0, "num_indexed_vectors": 0}
                    for vector, count in held.get("deleted", {}).items()}}}]  # fmt: skip
                shards = lambda held: [{"id": 0, "local": {"segments": segments(held)}}]  # noqa: E731
                listed = [{"id": name, "shards": shards(held)} for name, held in self.collections.items()]
                result = {"id": "x", "collections": {"number_of_collections": len(listed), "collections": listed}}
            case ["POST", "collections", name, "points", "scroll"]:
                result = self._scroll(self.collections[name]["points"], body)
            case _:
                return self.refusal(404, "")
        return 200, {"result": result, "status": "ok", "time": 0.001}

    def _scroll(self, points: list[dict[str, Any]], body: dict[str, Any]) -> Any:
        assert {*body} <= {"limit", "offset", "with_payload", "with_vector", "filter", "order_by"}
        points = sorted(points, key=lambda point: (isinstance(point["id"], str), point["id"]))
        start = next((i for i, point in enumerate(points) if point["id"] == body.get("offset")), 0)
        page = copy.deepcopy(points[start : start + body.get("limit", 10)])
        for point in page:
            wanted = body.get("with_vector", False)
            if wanted is False:
                point.pop("vector", None)
            elif isinstance(wanted, list):
                point["vector"] = {name: point["vector"][name] for name in wanted if name in point["vector"]}
        rest = points[start + len(page) :]
        return {"points": page, "next_page_offset": rest[0]["id"] if rest else None}


HNSW = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
OPTIMIZER = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "flush_interval_sec": 5,
}


class Elastic(StoreServer):
    """Indices: name -> {"properties": mapping, "docs": {id: source}, "deleted": count}. `words`: whether it knows
    `exclude_vectors`, which then is the default."""

    def __init__(self, indices: dict[str, dict[str, Any]], words: bool = True) -> None:
        super().__init__()
        self.indices = indices
        self.words = words
        self.open: dict[str, tuple[str, Any, int, int]] = {}

    def refusal(self, status: int, message: str) -> Answer:
        cause = {"type": "exception", "reason": message}
        return status, {"error": {"root_cause": [cause], **cause}, "status": status}

    def answer(self, method: str, path: list[str], query: Query, body: Any, headers: Headers) -> Answer:
        if self.key and headers.get("Authorization") != f"ApiKey {self.key}":
            return self.refusal(401, "missing authentication credentials for REST request")
        match [method, *path]:
            case ["GET", "_mapping"]:
                return 200, {
                    name: {"mappings": {"properties": one["properties"]}} for name, one in self.indices.items()
                }
            case ["POST", "_search", "scroll"]:
                if body["scroll_id"] not in self.open:
                    return self.refusal(404, "No search context found for id [1]")
                return self._next(body["scroll_id"])
            case ["DELETE", "_search", "scroll"]:
                for one in [body["scroll_id"]] if isinstance(body["scroll_id"], str) else body["scroll_id"]:
                    self.open.pop(one, None)
                return 200, {"succeeded": True, "num_freed": 1}
        if path[0] not in self.indices:
            return self.refusal(404, f"no such index [{path[0]}]")
        index = self.indices[path[0]]
        match [method, *path[1:]]:
            case ["POST", "_count"]:
                field = body["query"]["exists"]["field"]
                count = sum(field_of(source, field) is not None for source in index["docs"].values())
                return 200, {"count": count, "_shards": SHARDS}
            case ["GET", "_stats", "docs"]:
                docs = {"count": len(index["docs"]), "deleted": index.get("deleted", 0)}
                one = {"primaries": {"docs": docs}, "total": {"docs": docs}}
                return 200, {"_shards": SHARDS, "_all": one, "indices": {path[0]: one}}
            case ["POST", "_search"]:
                if not self.words and isinstance(body["_source"], dict) and "exclude_vectors" in body["_source"]:
                    return self.refusal(400, "Unknown key for a VALUE_BOOLEAN in [exclude_vectors].")
                if body["size"] > 10_000:
                    return self.refusal(400, "Result window is too large")
                name = str(len(self.asked))
                self.open[name] = path[0], body, 0, body["size"]
                status, tree = self._next(name)
                if "scroll" not in query:
                    self.open.pop(name)
                    tree.pop("_scroll_id")
                return status, tree
        return self.refusal(405, "Incorrect HTTP method for uri")

    def _next(self, name: str) -> Answer:
        index, body, done, size = self.open[name]
        docs = self.indices[index]["docs"].items()
        wanted = body["query"]
        field = wanted["exists"]["field"] if "exists" in wanted else None
        hits = [(key, source) for key, source in docs if field is None or field_of(source, field) is not None]
        page = hits[done : done + size]
        self.open[name] = index, body, done + len(page), size
        shown = self.words and body["_source"] != {"exclude_vectors": False}
        made = [
            {"_index": index, "_id": key, "_score": None, "sort": [i],
             "_source": without(source, self.indices[index]["properties"]) if shown else source}
            for i, (key, source) in enumerate(copy.deepcopy(page))
        ]  # fmt: skip
        return 200, {"_scroll_id": name, "took": 1, "timed_out": False, "_shards": SHARDS,
                     "hits": {"max_score": None, "hits": made}}  # fmt: skip


SHARDS = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}


def field_of(source: Any, path: str) -> Any:
    for part in path.split("."):
        source = source.get(part) if isinstance(source, dict) else None
    return source


def without(source: Any, properties: dict[str, Any]) -> Any:
    """A document without its vectors."""
    if isinstance(source, list):
        return [without(one, properties) for one in source]
    kept = {}
    for name, value in source.items():
        held = properties.get(name, {})
        if held.get("type") not in ("dense_vector", "rank_vectors", "sparse_vector"):
            kept[name] = without(value, held["properties"]) if "properties" in held else value
    return kept


def packed(vector: Any) -> str:
    """A vector as Elasticsearch takes it since 9.3: base64 of big-endian float32."""
    return base64.b64encode(vector.astype(">f4").tobytes()).decode()


class Weaviate(StoreServer):
    """Classes: name -> {"schema": Class, "tenants": {name: status}, "objects": {tenant: [Object]}}; no tenant is ""."""

    def __init__(self, classes: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self.classes = classes

    def refusal(self, status: int, message: str) -> Answer:
        return status, {"error": [{"message": message}]}

    def answer(self, method: str, path: list[str], query: Query, body: Any, headers: Headers) -> Answer:
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            return self.refusal(401, "anonymous access not enabled, please provide an auth scheme")
        match [method, *path]:
            case ["GET", "v1", "schema"]:
                return 200, {"classes": [{"class": name, **one["schema"]} for name, one in self.classes.items()]}
            case ["GET", "v1", "schema", name, "tenants"]:
                tenants = self.classes[name]["tenants"].items()
                return 200, [{"name": one, "activityStatus": status} for one, status in tenants]
            case ["GET", "v1", "objects"]:
                return self._objects({name: values[0] for name, values in query.items()})
            case ["POST", "v1", "graphql"]:
                name, _, rest = body["query"].removeprefix("{ Aggregate { ").partition(" { meta { count } } } }")
                assert not rest
                name, _, tenant = name.removesuffix('")').partition('(tenant: "')
                count = len(self.classes[name]["objects"].get(tenant, []))
                return 200, {"data": {"Aggregate": {name: [{"meta": {"count": count}}]}}}
        return self.refusal(404, "")

    def _objects(self, query: dict[str, str]) -> Answer:
        assert {*query} <= {"class", "limit", "include", "after", "tenant"}
        held = self.classes[query["class"]]
        if bool(held["schema"].get("multiTenancyConfig")) != ("tenant" in query):
            return self.refusal(422, "has multi-tenancy enabled, but request was without tenant, or the other way")
        objects = sorted(held["objects"].get(query.get("tenant", ""), []), key=lambda one: one["id"])
        page = [one for one in objects if one["id"] > query["after"]][: int(query["limit"])]
        if query.get("include") != "vector":
            page = [{key: one[key] for key in one if key not in ("vector", "vectors")} for one in page]
        return 200, {"objects": page, "totalResults": len(page)}


VERSIONS = ("2026-04", "2026-07")  # the second is what Pinecone's own client asks for; these answers are the same in it


class Pinecone(StoreServer):
    """Indexes of a project: name -> {"model": IndexModel, "namespaces": {namespace: {id: Vector}}}, all at one host.

    With `host_of`, only an index' host, as the data plane is.
    """

    def __init__(self, indexes: dict[str, dict[str, Any]], host_of: str = "") -> None:
        super().__init__()
        self.indexes = indexes
        self.host_of = host_of

    def refusal(self, status: int, message: str) -> Answer:
        return status, {"error": {"code": "UNKNOWN", "message": message}, "status": status}

    def answer(self, method: str, path: list[str], query: Query, body: Any, headers: Headers) -> Answer:
        if headers.get("X-Pinecone-Api-Version") not in VERSIONS:
            return self.refusal(400, "no version")
        if self.key and headers.get("Api-Key") != self.key:
            return self.refusal(401, "Invalid API Key.")
        if [method, *path] == ["GET", "indexes"] and not self.host_of:
            return 200, {"indexes": [{"name": name, **one["model"]} for name, one in self.indexes.items()]}
        held = self.indexes.get(self.host_of)
        if held is None:
            return self.refusal(404, "Not found")
        spaces = held["namespaces"]
        records = spaces.get(query.get("namespace", [""])[0], {})
        match [method, *path]:
            case ["POST", "describe_index_stats"]:
                counts = {name: {"vectorCount": len(one)} for name, one in spaces.items()}
                return 200, {"namespaces": counts, "dimension": held["model"]["dimension"], "indexFullness": 0,
                             "totalVectorCount": sum(map(len, spaces.values()))}  # fmt: skip
            case ["GET", "vectors", "list"]:
                start = int(query.get("paginationToken", ["0"])[0])
                limit = int(query.get("limit", ["100"])[0])
                assert limit <= 100
                ids = sorted(records)[start : start + limit]
                more = {"pagination": {"next": str(start + limit)}} if start + limit < len(records) else {}
                return 200, {
                    "vectors": [{"id": one} for one in ids],
                    "namespace": "",
                    "usage": {"readUnits": 1},
                    **more,
                }
            case ["GET", "vectors", "fetch"]:
                assert all(" " not in one for one in query["ids"])
                return 200, {"vectors": {one: records[one] for one in query["ids"] if one in records}, "namespace": ""}
        return self.refusal(404, "")
