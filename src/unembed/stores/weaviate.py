"""A Weaviate server, over its REST interface. A collection of it is one here: `NAME`, with more than its default vector
`NAME/VECTOR`, with tenants `NAME/VECTOR@TENANT` (the vector may be empty).

Objects come by the cursor `after`, in the order of their ids. Only active tenants are read: activating one would change
the server. The key is read from WEAVIATE_API_KEY.

Source: Weaviate's OpenAPI definition, `openapi-specs/schema.json` of github.com/weaviate/weaviate, and
docs.weaviate.io/weaviate/manage-objects/read-all-objects.
"""

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from unembed.encoders.http_client import RefusedError
from unembed.errors import printable
from unembed.stores.records import Record, dimension_of
from unembed.stores.server import (
    SAMPLE,
    HttpStore,
    Server,
    Transport,
    counted,
    entries,
    mapping,
    objects,
    page_size,
    paged,
    word,
)
from unembed.stores.store import Collection, Trace
from unembed.stores.traces import encoder_traces
from unembed.tables.values import plain

KEY = "WEAVIATE_API_KEY"
ACTIVE = ("ACTIVE", "HOT")
CLASS = re.compile(r"[A-Z][_0-9A-Za-z]*")  # names that Weaviate allows, which GraphQL can take as they are
QUANTISERS = ("pq", "bq", "sq", "rq")
ADDRESSES = ("baseURL", "apiEndpoint", "inferenceUrl", "passageInferenceUrl", "endpoint", "endpointURL")


def open(location: str) -> "Weaviate":  # noqa: A001
    """A server at http(s)://HOST[:PORT]. Raises InputError: `location` is no address."""
    return Weaviate(location)


class Weaviate(HttpStore):
    """A server, each vector of each of its collections and tenants a collection. A `Store`."""

    kind = "weaviate"

    def __init__(self, location: str, transport: Transport = None, sleep: Callable[[float], None] = time.sleep) -> None:
        headers = lambda key: {"Authorization": f"Bearer {key}"} if key else {}  # noqa: E731
        super().__init__(Server(location, KEY, headers, transport, sleep))
        self._known: dict[str, tuple[str, str, str, int | None]] = {}  # class, vector, tenant and dimension

    def collections(self) -> list[Collection]:
        """All vectors of all collections and active tenants. Raises DataError, UnembedError."""
        schema = self._server.get("v1", "schema")
        if not isinstance(entries(schema, "classes"), list):
            raise self.wrong("classes")
        found = []
        for held in objects(schema, "classes"):
            name = word(held, "class")
            if not CLASS.fullmatch(name):
                self.note(f"{printable(name)!r} is no name of a collection, and is not read")
                continue
            try:
                for tenant in self._tenants(name) if entries(held, "multiTenancyConfig", "enabled") else [""]:
                    found += self._collection(name, held, tenant)
            except RefusedError as error:  # a key may be for some collections only
                self.note(f"{name}: {error}")
        return found

    def records(self, name: str, size: int) -> tuple[int | None, Iterator[list[Record]]]:
        """Objects of a collection by their ids. Raises DataError: there is no such collection."""
        if not self._known:
            self.collections()
        if name not in self._known:
            raise self.unknown(name, [*self._known])
        class_, vector, tenant, dimension = self._known[name]
        return dimension, paged(
            partial(self._page, class_, vector, tenant), page_size(size, dimension), self.named(name)
        )

    def _tenants(self, name: str) -> list[str]:
        found = objects({"": self._server.get("v1", "schema", name, "tenants")}, "")
        idle = sum(word(one, "activityStatus") not in ACTIVE for one in found)
        if idle:
            self.note(f"{name}: {idle:,} tenants are not active and are not read")
        return [word(one, "name") for one in found if word(one, "activityStatus") in ACTIVE]

    def _collection(self, name: str, held: dict[str, Any], tenant: str) -> list[Collection]:
        configs = mapping(held, "vectorConfig")
        if not configs or word(held, "vectorIndexType"):  # both, where named vectors were added later
            configs = {"": held, **configs}
        rows = self._count(name, tenant)
        sample = self._objects(name, tenant, SAMPLE, None)
        where = f"{name}@{tenant}" if tenant else name
        texts, _, traces = self.sampled([one.get("properties") for one in sample], rows, where)
        found = []
        for vector, config in configs.items():
            shown = f"{name}/{vector}@{tenant}" if tenant else f"{name}/{vector}" if vector else name
            vectorizer, settings = _vectorizer(config)
            encoder = word(settings, "model") or word(settings, "modelId") or word(settings, "modelName")
            own = [*traces]
            if encoder or vectorizer not in ("", "none"):
                own += encoder_traces(" ".join(one for one in (vectorizer, encoder) if one), shown)
            own += [
                Trace("endpoint", f"The encoder's address is named, as {key}.", shown)
                for key in ADDRESSES
                if word(settings, key)
            ]
            dimension = next((d for one in sample if (d := dimension_of(vector_of(one, vector)))), None)
            index = mapping(config, "vectorIndexConfig")
            about = {
                "vectorizer": vectorizer,
                "vectorizer_settings": plain({key: settings[key] for key in settings if key not in ADDRESSES}),
                "quantizers": [one for one in QUANTISERS if entries(index, one, "enabled") is True],
                "tenant": tenant,
            }
            self._known[shown] = name, vector, tenant, dimension
            metric = word(index, "distance")
            found.append(
                Collection(shown, rows, dimension, "float32", metric, encoder, texts, traces=tuple(own), about=about)
            )
        return found

    def _count(self, name: str, tenant: str) -> int | None:
        """How many objects, None where the server does not tell."""
        given = f'(tenant: "{tenant}")' if re.fullmatch(r"[\w-]+", tenant, re.ASCII) else ""
        if tenant and not given:
            return None
        query = f"{{ Aggregate {{ {name}{given} {{ meta {{ count }} }} }} }}"
        try:
            tree = self._server.post("v1", "graphql", body={"query": query})
        except RefusedError:
            return None
        return next((counted(one, "meta", "count") for one in objects(tree, "data", "Aggregate", name)), None)

    def _objects(self, name: str, tenant: str, size: int, after: str | None) -> list[dict[str, Any]]:
        query: dict[str, str | int] = {"class": name, "limit": size, "include": "vector", "after": after or ""}
        tree = self._server.get("v1", "objects", query=query | ({"tenant": tenant} if tenant else {}))
        if not isinstance(entries(tree, "objects"), list):
            raise self.wrong(f"objects of {name}")
        return objects(tree, "objects")

    def _page(self, name: str, vector: str, tenant: str, size: int, place: Any) -> tuple[list[Record], Any]:
        found = self._objects(name, tenant, size, place)
        page = [Record(word(one, "id"), vector_of(one, vector), entries(one, "properties")) for one in found]
        if found and not word(found[-1], "id"):
            raise self.wrong(f"id of an object of {name}")
        return page, word(found[-1], "id") if found else None


def vector_of(held: dict[str, Any], name: str) -> Any:
    """The vector of a name, or the default one."""
    return entries(held, "vectors", name) if name else held.get("vector") or entries(held, "vectors", "default")


def _vectorizer(config: Any) -> tuple[str, dict[str, Any]]:
    """The module that makes the vectors, and its settings: of a collection, or of a named vector."""
    named = entries(config, "vectorizer")
    if isinstance(named, dict):
        name = next(iter(named), "")
        return name, mapping(named, name)
    return word(config, "vectorizer"), mapping(config, "moduleConfig", word(config, "vectorizer"))
