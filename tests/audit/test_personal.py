"""Personal data: what is one, and that only the very entity of the truth counts as recovered."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

from unembed.audit.personal import KINDS, LONGEST, count, entities, not_looked_for, tally

# A sentence as it is written in each country, and the kind that is in it.
EXAMPLES = {
    "us": ("Her SSN is 536-90-4399 since birth", "id"),
    "us phone": ("Call (415) 555-2671 before noon", "phone"),
    "gb": ("The NHS number 943 476 5919 is on file", "id"),
    "gb phone": ("Ring 020 7946 0958 in the evening", "phone"),
    "gb iban": ("Pay to GB82 WEST 1234 5698 7654 32 today", "iban"),
    "de": ("Steuer-ID 36 574 261 809 laut Bescheid", "id"),
    "de phone": ("Telefon +49 30 901820 im Amt", "phone"),
    "de iban": ("Konto DE89 3704 0044 0532 0130 00 BITTE", "iban"),
    "fr": ("Le NIR 2 95 10 99 126 111 93 est valable", "id"),
    "fr phone": ("Appelez le 01 42 68 53 00 demain", "phone"),
    "it": ("Codice fiscale RCCMNL83S18D969H verificato", "id"),
    "es": ("El DNI 54362315-K consta aqui", "id"),
    "nl": ("Het BSN 111222333 staat vermeld", "id"),
    "pl": ("PESEL 44051401359 w aktach", "id"),
    "se": ("Personnummer 880320-0016 finns", "id"),
    "fi": ("Tunnus 131052-308T on oikea", "id"),
    "ch": ("AHV 756.9217.0769.85 steht dort", "id"),
    "br": ("O CPF 390.533.447-05 foi anotado", "id"),
    "in": ("Her Aadhaar is 2341 2341 2346 as stated", "id"),
    "mx": ("CURP BOXW310820HNERXN09 registrada", "id"),
    "card": ("Charge 4111 1111 1111 1111 for it", "card"),
    "email": ("Write to John.Smith@example.com soon", "email"),
    "url": ("See https://example.com/patients?id=7 for it", "url"),
    "ip": ("It came from 192.168.17.4 at night", "ip"),
    "ipv6": ("It came from 2001:db8::8a2e:370:7334 at night", "ip"),
    "date": ("Born on 12 May 1984 in Lyon", "date"),
    "iso date": ("Born on 1984-05-12 in Lyon", "date"),
    "money": ("They owe $1,250.00 to us", "money"),
    "euros": ("Sie schulden 1.250,00 EUR seit Mai", "money"),
}
LOOKALIKES = (
    "ISBN 978-3-16-148410-0", "order 4005-1180-22", "4111 1111 1111 1112", "0000 0000 0000 0000", "version 1.2.3",
    "DE89 3704 0044 0532 0130 01", "10:30:45", "build 2024.05.12.3", "1234 5678 9012 3456", "999.1.1.1", "a@b",
    "SSN 000-00-0000", "page 12 of 400", "RCCMNL83S18D969X", "111222333", "::",
)  # fmt: skip


def as_recovered(text: str) -> str:
    """As an uncased encoder's tokenizer writes it: lower case, spaces around punctuation."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text.lower()))


@pytest.mark.parametrize(("truth", "kind"), EXAMPLES.values(), ids=EXAMPLES)
def test_it_is_found_and_counts_when_it_came_back(truth: str, kind: str) -> None:
    found = entities(truth)
    assert [one.kind for one in found] == [kind]
    assert count(truth, as_recovered(truth)) == {kind: 1}
    assert count(truth, f"something else and {as_recovered(found[0].text)} behind it") == {kind: 1}
    assert count(truth, "something else altogether") == {}


@pytest.mark.parametrize(("truth", "kind"), EXAMPLES.values(), ids=EXAMPLES)
def test_look_alikes_in_the_recovered_text_do_not_count(truth: str, kind: str) -> None:
    (entity,) = [one.text for one in entities(truth)]
    first = re.search(r"\w", entity)
    assert first is not None
    before, behind = entity[: first.start()], entity[first.end() :]
    changed = f"{before}{'7' if first[0] != '7' else '8'}{behind}"
    for wrong in (changed, entity[:-1], f"{before}{behind}", f"{entity}9", f"x{first[0]}{behind}"):
        assert count(truth, f"so {wrong} it says") == {}, wrong
        assert count(truth, f"so {as_recovered(wrong)} it says") == {}, as_recovered(wrong)
    assert count("no personal data here", as_recovered(truth)) == {}


@pytest.mark.parametrize("text", LOOKALIKES)
def test_a_truth_has_no_personal_data_that_fails_its_check(text: str) -> None:
    assert entities(f"There is {text} in it") == []


@pytest.mark.parametrize(
    ("truth", "recovered"),
    [
        ("from 1.2.3.4 on", "from 12.34 on"),
        ("from 1.2.3.4 on", "from 1. 2. 3. 4. 5 on"),
        ("on 1/12/2024", "on 11/2/2024"),
        ("it costs $1,000", "it costs $ 1, 000, 000"),
        ("write john.smith@example.com", "write mary.john.smith@example.com"),
        ("write john@example.com", "write john@example.com.au"),
        ("write john@example.com", "write john@example.community"),
        ("call +49 30 901820", "call + 49 30 901820 55"),
        ("see https://example.com", "see https : / / example. com / path"),
    ],
)
def test_an_entity_that_goes_on_is_another_one(truth: str, recovered: str) -> None:
    assert count(truth, recovered) == {}


def test_case_accents_and_spaces_are_no_difference() -> None:
    assert count("An jörg.müller@example.com schreiben", "an jorg. muller @ example. com") == {"email": 1}


def test_an_exact_text_has_all_its_entities_whatever_follows_them() -> None:
    truth = "Call 030 901820, 7 days; 1.2.3.4, 5"
    assert count(truth, as_recovered(truth)) == {"phone": 1, "ip": 1}


def test_the_same_entity_twice_is_one() -> None:
    assert count("a@example.com or A@example.com or b@example.com", "a @ example. com") == {"email": 1}


def test_tally_counts_texts_beside_chance() -> None:
    truths = ["mail a@example.com", "mail b@example.com", None, "no data", "mail a@example.com"]
    recovered = ["mail a @ example. com", "mail c @ example. com", "x @ example. com", "no data", "mail a@example.com"]
    found = tally(truths, recovered, seed=1)
    assert found["email"]["truth"] == 3
    assert found["email"]["recovered"] == 2
    assert found.keys() == {"email"}
    same = tally(["mail a@example.com"] * 5, ["mail a@example.com"] * 5)
    assert same["email"] == {"truth": 5, "recovered": 5, "chance": 5}, (
        "texts that are all alike are recovered by chance"
    )
    assert tally(["mail a@example.com"], ["mail a@example.com"])["email"]["chance"] == 0, "there is no other row"
    assert tally([None, ""], ["a@example.com", "b@example.com"]) == {}


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_is_looked_at(truth: str, recovered: str) -> None:
    found = count(truth, recovered)
    assert found.keys() <= KINDS.keys()
    assert all(n <= len(entities(truth)) for n in found.values())


@pytest.mark.parametrize("text", ["1 2 " * 500_000, "a@" * 500_000, "DE89 " * 200_000, "$1,234" * 200_000])
def test_a_long_text_costs_no_more_than_its_beginning(text: str) -> None:
    assert entities(text) == entities(text[:LONGEST])
    assert count(text, text[1:]).keys() <= KINDS.keys()


def test_what_cannot_be_told_is_said() -> None:
    said = " ".join(not_looked_for())
    assert "Phone" not in said
    assert "identity" not in said


def test_names_are_found_where_presidio_has_a_model() -> None:
    pytest.importorskip("presidio_analyzer")
    if any(line.startswith("Names") for line in not_looked_for()):
        pytest.skip("spaCy has no English model here")
    truth = "Dr. Maria Okafor flew to Geneva and called her mother."
    assert {one.kind for one in entities(truth)} >= {"name", "place"}
    assert count(truth, "dr. maria okafor flew to london") == {"name": 1}
    assert count(truth, "dr. mario okafor flew to geneva") == {"place": 1}
