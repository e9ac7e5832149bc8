"""Audits: what a store of vectors gives away, measured and said.

What an audit does:

    options.py         what a user chooses
    audit.py           all collections of some stores, one after the other
    collections.py     which collections a URI means
    one_collection.py  one collection: drawn, attacked, judged
    sample.py          a uniform sample in one pass
    vectors.py         what vectors say of themselves
    which_encoder.py   which encoder made them
    attack.py          blind, guided or aligned inversion, and of random vectors
    statuses.py        how much of each text came back, beside what chance gives
    text_hashes.py     recovered texts that a store's hashes prove
    defences.py        what protects vectors, and at what price
    stored_forms.py    the forms in which vectors may be kept
    journal.py         how an interrupted audit goes on

What it says:

    findings.py        statuses, findings, reports
"""
