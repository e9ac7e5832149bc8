"""Encoders: what turns text into embeddings, exactly as a recipe says.

recipes.py          known recipes, and those that a folder or the Hub declares
named.py            encoders that the user has named, so that a checkpoint may name them
encoder.py          local encoders, and the checks of embeddings
fast_batches.py     a local encoder on token ids in full batches, in bfloat16 where that is faster
remote.py           an encoder behind an address: batches, and what is known already
http_client.py      requests to a host: bounded, repeated where that helps, no secret shown
endpoint.py         an address that is asked for embeddings: its key, what its refusals mean
endpoint_answers.py embeddings out of the answers of OpenAI, ollama, text-embeddings-inference and others
tokenizer.py        an encoder's tokenizer, with the tokens that the denoiser adds
texts.py            texts, checked before anything is embedded
hostile_tokenizers.py  what a stranger's tokenizer may not do
embedding_files.py  embeddings out of a table's column, checked, and into `.npy` files
"""
