"""Guided inversion: a search for the text whose embedding is the one given, with the encoder in the loop.

    loop.py             the search itself: propose, screen, ask, compose, judge
    state.py            what it knows: hypotheses, answers, how far it has come
    options.py          what may be spent, the constants that were tuned, and the plan of an inversion
    beginnings.py       where it starts from: blind candidates, later texts of the words found so far
    changes.py          proposals: exchanges, insertions, deletions, other orders of one text
    likelihoods.py      the denoiser's judgement: of a text, of other tokens in it, of tokens more
    screening.py        which of a thousand proposals, and of their combinations, are worth an encoder call
    gaussian_process.py a forecast of the embedding of each of them
    composition.py      several changes at once, chosen by what each does alone
    correction.py       correction by steps, Vec2Text's way to spend calls, to compare with
    encoder_calls.py    the encoder as the search sees it: token ids in, embeddings out, calls and seconds counted
    inversions.py       what a search has reached, as inversions
    journal.py          a search on disk, so that a killed one goes on

Everything is per embedding. `Inverter.search` and `Inverter.invert` are the ways in.
"""
