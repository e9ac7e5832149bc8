"""Make an `embeddings.db` with the llm tool's own library and a model of this file, and print what was given."""

import json
import sys

import llm
import sqlite_utils


class Letters(llm.EmbeddingModel):
    model_id = "letters-16"
    supports_binary = True

    def embed_batch(self, items):
        for item in items:
            data = item.encode() if isinstance(item, str) else item
            yield [((data[n % len(data)] * (n + 3)) % 97) / 7 for n in range(16)]


model = Letters()
database = sqlite_utils.Database(sys.argv[1])
texts = {f"key {n}": f"the text of row {n}" for n in range(20)}
llm.Collection("stored", database, model=model).embed_multi(texts.items(), store=True)
hidden = llm.Collection("hidden", database, model=model)
hidden.embed_multi_with_metadata(
    [(key, text, {"n": key, "token": "hf_" + "aB" * 20}) for key, text in texts.items()], store=False
)
llm.Collection("binary", database, model=model).embed("image", b"\x89PNG", store=True)
print(json.dumps({"texts": texts, "vectors": {key: list(model.embed(text)) for key, text in texts.items()}}))
