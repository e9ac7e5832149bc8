"""`/docs`: the OpenAPI document as a plain page, written by the server.

Unusual here: it needs no script and no other file, so it works under a policy that allows neither.
"""

import base64
import hashlib
import json
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.5rem; border-bottom: 1px solid; padding-bottom: .25rem }
code, pre { font: .875rem/1.5 ui-monospace, monospace }
pre { overflow-x: auto; padding: .75rem; border: 1px solid; border-radius: .25rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid }
"""
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()


def render(document: dict[str, Any], address: str) -> str:
    """The page of an OpenAPI document, of a server at this address."""
    info = document["info"]
    schemas = document.get("components", {}).get("schemas", {})
    operations = [
        _operation(address + path, method, path, operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(info['title'])}: interface</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            f"<p>{escape(info.get('description', ''))}</p>",
            '<p>For programs: <a href="/openapi.json">/openapi.json</a></p>',
            *operations,
            "</main></body></html>",
        ]
    )


def _operation(url: str, method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    parts = [
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>",
        f"<p>{escape(operation.get('description', ''))}</p>",
    ]
    rows = [
        _row(parameter["name"], parameter["schema"], parameter.get("required", False), schemas)
        for parameter in operation.get("parameters", [])
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if body:
        schema = _resolved(body["schema"], schemas)
        required = schema.get("required", [])
        rows += [_row(name, value, name in required, schemas) for name, value in schema["properties"].items()]
    if rows:
        parts.append("<table><thead><tr><th>name<th>type<th>default<th>meaning</thead><tbody>")
        parts += [*rows, "</tbody></table>"]
    if "example" in body:
        sent = json.dumps(body["example"])
        parts.append(
            f"<pre>curl {escape(url)} -H 'Content-Type: application/json' \\\n  -d '{escape(sent, quote=False)}'</pre>"
        )
    answers = ", ".join(
        f"{status} {escape(answer.get('description', ''))}" for status, answer in sorted(operation["responses"].items())
    )
    return "\n".join([*parts, f"<p>Answers: {answers}</p>"])


def _row(name: str, schema: dict[str, Any], required: bool, schemas: dict[str, Any]) -> str:
    default = "required" if required else json.dumps(schema["default"]) if "default" in schema else ""
    cells = (f"<code>{escape(name)}</code>", escape(_type(schema, schemas)), escape(default))
    return "<tr>" + "".join(f"<td>{cell}" for cell in (*cells, escape(schema.get("description", ""))))


def _type(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    schema = _resolved(schema, schemas)
    if "anyOf" in schema:
        return " or ".join(_type(one, schemas) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    kind = str(schema.get("type", "value"))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}), schemas)}"
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = [f"from {low}"] * (low is not None) + [f"to {high}"] * (high is not None)
    if (above := schema.get("exclusiveMinimum")) is not None:
        bounds.insert(0, f"above {above}")
    return " ".join([kind, *bounds])


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return dict(schemas[name]) if name else schema
