"""Audits: what a store of vectors gives away, measured and said.

What an audit does:

    options.py         what a user chooses
    audit.py           the call: what may be wrong with it, before anything is loaded
    running.py         all collections of some stores, one after the other
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
    rules.py           kinds of findings, how severe they are, what to do, who asks for the test
    verdict.py         what the whole comes to; wording.py, charts.py, redaction.py: how figures and texts are shown
    inversion_test.py  the test of OWASP's AI Testing Guide, filled in
    personal.py        personal data of a text that came back; identifiers.py: numbers with check digits
    defence_choice.py  which defence is worth its price
    baseline.py        what was known before, and the gate
    html.py, json_report.py, sarif.py, summary.py, writing.py: a report on a page, in files, in a terminal
    values.py: numbers and evidence in words
"""
