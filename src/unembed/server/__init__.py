"""The demo server: the page, the published demo's endpoints and our own, over one continuous batcher.

run.py                      the start: options (settings.py), inverters (models.py), application (app.py)
gate.py, body_limits.py     hosts, origins, rate, headers; size and time of a request's body
published_demo.py, v1.py    the endpoints (api_docs.py, example_sentences.py)
defences.py                 /v1/defences: embeddings as a store keeps them
schemas.py, inputs.py       shapes of requests and answers; embeddings and texts, checked
http_errors.py              errors with their status
work.py, guided.py          a request as a generator that asks for passes and embeddings, or for rounds of a search
batching.py, tickets.py     one thread that owns torch and merges what requests ask for
admission.py, pace.py       who is let in; what work takes, as measured
event_streams.py            server-sent events
telemetry.py                metrics
"""
