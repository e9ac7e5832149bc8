"""The demo server: the page, the published demo's endpoints and our own, over one continuous batcher.

A request's way through the files:

    run.py -> settings.py, models.py        what `cli/serve.py` starts: options, inverters loaded and warm
    intake.py, gate.py                      hosts, origins, rate, body size, time limit, headers
    published.py, v1.py                     the endpoints; wire.py has the shapes, faults.py the errors
    work.py, guided.py                      a request as a generator that asks for passes and embeddings, or for rounds
    batching.py                             one thread that owns torch and merges what all requests ask for
"""
