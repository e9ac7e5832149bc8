"""Reports as HTML, JSON, SARIF and in the terminal: hostile text, redaction, and that files are whole."""

import dataclasses
import io
import json
import os
import re
import stat
import unicodedata
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from audits import DEFENCES, DELETED, ENCODER, READABLE, SECRET, TEXT, audited, report, untested
from unembed.audit.baseline import reached
from unembed.audit.charts import plane
from unembed.audit.findings import Recovered, Report
from unembed.audit.html import render
from unembed.audit.json_report import from_json, read_report, to_json
from unembed.audit.sarif import location, to_sarif
from unembed.audit.summary import show_audit
from unembed.audit.writing import write_report
from unembed.errors import CONTROLS, JOINERS, DataError, OutputError
from unembed.stores.store import Trace

HOSTILE = (
    "<script>alert(1)</script>", "]]><img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "' onclick='x",
    "\u202egnp.exe\u2066", "\x1b[31m\x1b]0;title\x07", "{{ 7 * 7 }}{% raw %}", "</style><style>*{display:none}",
    "\ud800\udfff", "a\0b\r\n\x85\u2028c", "&lt;b&gt; &#x3c;", "javascript:alert(1)", "[bold red]x[/] [link=http://x]",
)  # fmt: skip


def everywhere(text: str) -> Report:
    """A report that has the text in every field that comes from a store, an encoder or a command line."""
    one = audited(
        f"c{text}", (Trace("text", f"Detail {text}.", text, 3), Trace("secret", text, text)), f"s{text}",
        kind=text, number=f"PQ{text}", encoder=text, encoder_by="named", vectors={text: text, "deep": {text: [text]}},
        personal={"email": {"truth": 3, "recovered": 2, "chance": 0}, text: {"truth": 1, "recovered": 0, "chance": 0}},
        recovered=(
            Recovered(text, "exact", text, text, 1.0, 1.0, {text: 1, "email": 2}), Recovered("1", "near", "", None),
        ),
        tried=(text,), not_tried=(text,),
    )  # fmt: skip
    rows = ({**DEFENCES[0], "name": text, "note": text}, *DEFENCES[1:])
    return Report((one, untested()), {text: text, "date": text, "options": {text: text}}, (text,), rows)


def terminal(whole: Report, baseline: Report | None = None, width: int = 200) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    show_audit(console, whole, baseline, [Path("out/report.html")], reached(whole, "any", baseline))
    return out.getvalue()


class Structure(HTMLParser):
    """Tags with their attributes' names, and all text and values."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[str] = []
        self.links: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.values += [value or "" for _, value in attrs]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.values.append(data)


def deceptive(text: str) -> set[str]:
    """Control characters in it but line ends."""
    return {c for c in text if unicodedata.category(c) in CONTROLS and c not in JOINERS and c != "\n"}


@pytest.mark.parametrize("show_text", [False, True])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_markup_to_the_page(text: str, show_text: bool) -> None:
    page, plain = (Structure(render(everywhere(one), show_text)) for one in (text, "harmless"))
    assert page.tags == plain.tags
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "img", "base", "form"}
    assert not {name for _, names in page.tags for name in names if name.startswith("on") or name in ("style", "src")}
    assert all(link.startswith(("https://", "#")) for link in page.links)
    assert not deceptive(render(everywhere(text), show_text))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_reaches_no_terminal_and_no_json_raw(text: str) -> None:
    whole = everywhere(text)
    assert not deceptive(terminal(whole))
    assert not deceptive(terminal(whole, report()))
    for data in (to_json(whole, show_text=True), to_sarif(whole, report())):
        assert json.dumps(data, allow_nan=False).isascii()
    assert (
        from_json(json.loads(json.dumps(to_json(whole, show_text=True)))).collections[0].recovered[0].status == "exact"
    )


def test_brackets_are_no_markup_of_the_terminal() -> None:
    assert "c[bold red]x[/]" in terminal(everywhere("[bold red]x[/]"))


def outputs(whole: Report, show_text: bool) -> dict[str, str]:
    return {
        "html": render(whole, show_text, whole),
        "json": json.dumps(to_json(whole, show_text), ensure_ascii=False),
        "sarif": json.dumps(to_sarif(whole, whole), ensure_ascii=False),
        "terminal": terminal(whole),
    }


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=40)
@given(
    st.text(max_size=60), st.text(max_size=60), st.sampled_from(["exact", "near", "topic", "nothing"]),
    st.dictionaries(st.sampled_from(["email", "date", "card"]), st.integers(0, 3)),
)  # fmt: skip
def test_no_text_is_in_a_report_that_was_not_asked_to_show_it(
    before: str, behind: str, status: str, kinds: dict[str, int]
) -> None:
    mine, theirs = "Qvorxlimtarak", "Zweflundrobisk"
    row = Recovered("7", status, f"{before}{mine}{behind}", f"{behind}{theirs}{before}", 0.9, 0.5, kinds)
    whole = report(audited(traces=(TEXT, ENCODER), recovered=(row,)), untested(), defences=DEFENCES)
    for name, content in outputs(whole, show_text=False).items():
        assert mine not in content, name
        assert theirs not in content, name
    shown = outputs(whole, show_text=True)
    assert all(word in shown[name] for name in ("html", "json") for word in (mine, theirs))
    assert not any(word in shown[name] for name in ("sarif", "terminal") for word in (mine, theirs))


def test_a_redacted_text_is_known_again_in_its_report_only() -> None:
    rows = (Recovered("1", "exact", "yes", "yes", 1.0, 1.0), Recovered("2", "near", "no", "yes", 0.9, 0.1))
    whole = report(audited(recovered=rows))
    marks = [
        [row[name]["sha256"] for row in to_json(whole)["collections"][0]["recovered"] for name in ("text", "truth")]
        for _ in range(2)
    ]
    for a, b, c, d in marks:
        assert a == b == d != c
    assert not {*marks[0]} & {*marks[1]}, "a dictionary must not find short texts"


def test_a_text_of_a_megabyte_is_cut() -> None:
    long = "word " * 200_000
    whole = report(audited(recovered=(Recovered(long, "near", long, long, 0.9, 0.5),) * 20, tried=(long,)))
    for name, content in outputs(whole, show_text=True).items():
        assert len(content) < 2_000_000, name
    assert "1,000,000 characters" in render(whole, show_text=True)


def test_the_page_needs_nothing_else() -> None:
    whole = report(audited(), defences=DEFENCES)
    page = Structure(render(whole))
    policy = next(value for value in page.values if value.startswith("default-src 'none'"))
    assert "script-src" not in policy
    assert "unsafe" not in policy
    headings = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_what_the_page_says() -> None:
    before = report(audited(counts={"exact": 2, "nothing": 198}, traces=(ENCODER,)))
    whole = report(audited(traces=(TEXT, ENCODER)), untested(), unread=("old.bin is truncated",), defences=DEFENCES)
    page = " ".join(" ".join(Structure(render(whole, baseline=before)).values).split())
    for said in (
        "Whoever gets a copy reads the texts", "61 of 200 sampled texts", "old.bin is truncated", "AITG-APP-08",
        "Recommended: noise 0.01.", "e-mail addresses", "Recital 26", "2,412,000", "AMD EPYC", "unchanged", "worse",
        "new", "whole texts, confirmed by the encoder", "100 characters",
    ):  # fmt: skip
        assert said in page, said
    assert "wrote" not in page


def test_values_are_said_in_words() -> None:
    vectors = {"rows": 1000, "unit": True, "duplicates": 0.037, "constant": 0.1624, "distinct": 963, "of": 1000}
    whole = report(audited(vectors=vectors), dataclasses.replace(untested(), seconds=0.4))
    missing = ("Names of persons were not looked for.",)
    about = {"not_looked_for": missing, "failed": 0, "interrupted": False, "options": {"deadline": None, "seed": 3}}
    page = " ".join(" ".join(Structure(render(dataclasses.replace(whole, about=about))).values).split())
    for said in (
        "all of length 1 yes", "rows that copy another 3.7 %", "values of a dimension 963 in the median, among 1,000",
        "by chance 2 % of random vectors and 3 % against other rows' texts", "share 30.5 % of 200 texts, 95 % interval",
        "e-mail addresses in 31 texts; 12 came back with it; by chance 0", "options seed 3",
        "not looked for Names of persons were not looked for.", "ended by an interruption no",
    ):  # fmt: skip
        assert said in page, said
    assert not [raw for raw in ('["', "None", "token_f1", "not_looked_for") if raw in page]


def test_a_percent_sign_stays_with_its_number() -> None:
    whole = report(audited(traces=(TEXT,)), defences=DEFENCES)
    assert not re.findall(r"\d %", re.sub(r"<[^>]*>", "", render(whole)))
    for width in range(30, 90, 7):
        lines = terminal(whole, width=width).splitlines()
        assert not [line for line in lines if line.lstrip().startswith("%")]
        assert not [line for line in lines if line != line.rstrip() or cell_len(line) > width]


def test_the_cost_of_a_blind_attack_is_no_encoder_call_of_it() -> None:
    blind, guided = (render(report(audited(attack=kind, encoder_calls=60))) for kind in ("blind", "guided"))
    assert blind.count("60 texts embedded to judge what came back") == 2
    assert "60 encoder calls" not in blind
    assert guided.count("60 encoder calls") == 2


def test_what_is_near_is_not_said_to_lack_its_topic() -> None:
    whole = report(audited(counts={"near": 4, "topic": 16}, traces=()))
    for name, content in outputs(whole, show_text=False).items():
        assert "16 of 20 sampled texts" in content, name
        assert "with only the topic right" in " ".join(content.split()), name
    assert "a topic, no more" in render(whole)
    assert "16 only the topic (80" in render(whole)


def test_stores_are_named_where_collections_share_a_name() -> None:
    one, two = "/srv/rag/chroma", "/srv/archive/2024/of/the/whole/company/index.lance"
    alone = terminal(report(audited(store=one), untested(store=two)))
    assert one not in alone
    both = terminal(report(audited(store=one), audited(store=two)))
    assert f"tickets ({one}): " in both
    assert "tickets (/srv/archive…" in both
    assert "index.lance): " in both
    similar = [f"/srv/rag/{name}/of/the/whole/company/index.lance" for name in ("first", "second")]
    pair = terminal(report(*(audited(store=store) for store in similar)))
    assert all("tickets (" + store[:12] in pair for store in similar)
    assert len({line for line in pair.splitlines() if "What texts are about" in line}) == 2


def test_a_message_that_says_its_title_is_said_once() -> None:
    clear = Trace("text", "Texts lie beside the vectors in clear.")
    said = terminal(report(audited(traces=(clear, Trace("encoder", "The store names its encoder: x.")))))
    assert "tickets: Texts lie beside the vectors in clear.\n" in said
    assert "tickets: The store names its encoder: x.\n" in said
    assert render(report(audited(traces=(clear,)))).count("<bdi>Texts lie beside the vectors in clear.") == 1


def test_counts_are_in_grammar() -> None:
    quiet = report(audited("a", (), counts={"nothing": 20}, personal={}), untested("b"))
    assert "Findings: 2 notes; " in terminal(quiet)
    assert "3 collections" in terminal(report(*(untested(name) for name in "abc")))


def test_the_terminal_shows_defences_before_paths() -> None:
    said = terminal(report(defences=(*DEFENCES[1:], DEFENCES[0])))
    lines = [line.split() for line in said.splitlines()]
    start = next(number for number, line in enumerate(lines) if line[:2] == ["form", "bytes"])
    assert lines[start + 2] == ["none", "1,536", "0.62", "1.00"]
    assert [line[-3:] for line in lines if line[:1] == ["binary"]] == [["48", "0.33", "0.80"]]
    assert said.index("defences   noise 0.01: The leak falls from 0.62 to 0.41") < said.index("report     out")
    assert "form" not in terminal(report())


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=14))
@settings(deadline=None, max_examples=60)
def test_a_chart_holds_all_its_points(points: list[tuple[float, float]]) -> None:
    rows = [{"leak": {"value": leak}, "recall": {"value": recall}} for leak, recall in points]
    svg = str(plane(rows, None))
    numbers = re.findall(r'class="number"[^>]*>([^<]*)<', svg)
    assert sorted(int(one) for label in numbers for one in label.split(", ")) == [*range(1, len(rows) + 1)]
    view = [float(one) for one in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]]
    for x, y in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', svg):
        assert 0 <= float(x) <= view[0]
        assert 0 <= float(y) <= view[1]


def test_labels_of_a_chart_do_not_collide() -> None:
    svg = str(plane(DEFENCES, 3))
    found = re.findall(r'class="number" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', svg)
    boxes = [(float(x), float(y), 4.5 * len(said)) for x, y, said in found]
    for number, (x, y, half) in enumerate(boxes):
        assert all(abs(x - a) >= half + b or abs(y - c) >= 12 for a, c, b in boxes[:number])
    spread = [float(x) for x in re.findall(r'cx="([\d.]+)"', svg)]
    assert max(spread) - min(spread) > 400, "the width is used"


def test_an_empty_audit_is_said_too() -> None:
    assert "No collection with vectors was found" in render(Report((), {}))
    assert "not known" in terminal(Report((), {}))
    assert to_sarif(Report((), {}))["runs"][0]["results"] == []
    assert from_json(to_json(Report((), {}))) == Report((), {})


def test_json_is_read_again() -> None:
    whole = report(audited(traces=(TEXT, SECRET, DELETED)), untested(), defences=DEFENCES, unread=("x",))
    again = from_json(json.loads(json.dumps(to_json(whole, show_text=True))))
    assert again == whole
    redacted = from_json(json.loads(json.dumps(to_json(whole))))
    assert redacted.findings == whole.findings
    assert {row.text for one in redacted.collections for row in one.recovered} == {""}


def test_numbers_that_json_has_not_are_null() -> None:
    one = audited(vectors={"norm": float("nan")}, seconds=float("inf"))
    data = to_json(report(one))
    assert data["collections"][0]["vectors"] == {"norm": None}
    assert data["collections"][0]["seconds"] is None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"format": "other"}, "base.json: is no JSON report of an audit in format version 1"),
        ({"format_version": 2}, "base.json: is no JSON report of an audit in format version 1"),
        ({"collections": 3}, "base.json: collections: Input should be a valid tuple"),
        ({"unread": None}, "base.json: unread: "),
    ],
)
def test_what_is_no_report_is_named(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    path = tmp_path / "base.json"
    path.write_text(json.dumps(to_json(report()) | change))
    with pytest.raises(DataError) as error:
        read_report(path)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("severity", ["enormous", "low"])
def test_a_finding_that_no_rule_has_is_named(severity: str) -> None:
    data = to_json(report())
    data["collections"][0]["findings"][0]["severity"] = severity
    data["collections"][0]["findings"][0]["rule"] = "invertible-exact"
    with pytest.raises(DataError, match="no such finding: invertible-exact"):
        from_json(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_report_is_read_or_refused(data: st.DataObject) -> None:
    whole = to_json(report(audited(traces=(TEXT,)), defences=DEFENCES[:1]))
    node: Any = whole
    for _ in range(data.draw(st.integers(1, 6))):
        keys = [*node] if isinstance(node, dict) else [*range(len(node))]
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key]:
            break
        parent, node = node, node[key]
        if not data.draw(st.booleans()):
            node, key = parent, key
            break
    else:
        key = data.draw(st.sampled_from([*node] if isinstance(node, dict) else [*range(len(node))]))
    node[key] = data.draw(JSON)
    try:
        read = from_json(whole)
    except DataError:
        return
    assert isinstance(reached(report(), "any", read), list)


def checked(data: dict[str, Any]) -> dict[str, Any]:
    """A SARIF log that keeps what the standard and GitHub ask of it; against the standard's schema where it is."""
    (run,) = data["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    for rule in rules:
        assert all(rule[key]["text"] for key in ("shortDescription", "fullDescription", "help"))
        severity = rule["properties"].get("security-severity")
        assert severity is None or 0 < float(severity) <= 10
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note") or result["kind"] == "informational"
        assert len(result["partialFingerprints"]["unembed/v1"]) == 32
        (place,) = result["locations"]
        assert place["physicalLocation"]["region"]["startLine"] == 1
    if schema := os.environ.get("SARIF_SCHEMA"):
        validators = pytest.importorskip("jsonschema_rs")
        validators.Draft4Validator(json.loads(Path(schema).read_text()), validate_formats=True).validate(data)
    return run


@pytest.mark.parametrize("text", ["plain", *HOSTILE])
def test_sarif_is_valid(text: str) -> None:
    checked(json.loads(json.dumps(to_sarif(everywhere(text), everywhere("plain")))))


def test_sarif_says_what_is_new_and_what_was_not_read() -> None:
    before = report(audited(counts={"exact": 2, "nothing": 198}, traces=(ENCODER,)))
    whole = report(audited(traces=(ENCODER, READABLE)), unread=("old.bin is truncated",))
    run = checked(to_sarif(whole, before))
    states = {one["ruleId"]: one["baselineState"] for one in run["results"]}
    assert states["encoder-named"] == "unchanged"
    assert states["world-readable"] == "new"
    assert states["invertible-exact/critical"] == "updated"
    assert run["tool"]["driver"]["rules"][0]["properties"]["security-severity"] == "9.5"
    notes = [note["message"]["text"] for note in run["invocations"][0]["toolExecutionNotifications"]]
    assert notes[0] == "old.bin is truncated"
    assert "baselineState" not in checked(to_sarif(whole))["results"][0]


@pytest.mark.parametrize(
    ("store", "uri"),
    [
        ("data/my store", "data/my%20store"),
        ("/srv/a#b?c", "file:///srv/a%23b%3Fc"),
        ("postgresql://db:5432/app", "postgresql://db:5432/app"),
        ("/srv/\udcff\0", "file:///srv/%3F%EF%BF%BD"),
    ],
)
def test_locations_are_uris(store: str, uri: str) -> None:
    assert location(store) == uri


def test_files_are_written_whole_and_texts_for_the_user_alone(tmp_path: Path) -> None:
    paths = write_report(report(), tmp_path / "out")
    assert [path.name for path in paths] == ["report.html", "report.json", "report.sarif"]
    assert read_report(paths[1]).findings == report().findings
    assert paths[0].read_text(encoding="utf-8").endswith("</html>")
    shown = write_report(report(), tmp_path / "out", show_text=True)
    assert [stat.S_IMODE(path.stat().st_mode) for path in shown] == [0o600] * 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    html, data = shown[0].read_text(encoding="utf-8"), json.loads(shown[1].read_text(encoding="utf-8"))
    assert data["collections"][0]["recovered"][2]["text"] in html


def test_a_mark_is_the_same_in_both_files(tmp_path: Path) -> None:
    page, data, _ = (path.read_text(encoding="utf-8") for path in write_report(report(), tmp_path))
    for row in json.loads(data)["collections"][0]["recovered"]:
        assert row["text"]["sha256"] in page


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match="report.html: cannot be written"):
        write_report(report(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_report_does_not_change_while_it_is_said() -> None:
    whole = report(audited(), defences=DEFENCES)
    before = json.dumps(to_json(whole, show_text=True))
    outputs(whole, show_text=True)
    assert json.dumps(to_json(dataclasses.replace(whole), show_text=True)) == before
