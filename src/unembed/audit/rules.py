"""Kinds of findings: what each means, what to do about it, how severe it is, and who asks for the test.

`MEANINGS` is the one table of severities. A status whose interval reaches down to a baseline (texts of random vectors,
texts of other rows) is no finding.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from unembed.audit.findings import STATUSES, Audited, Finding, share
from unembed.audit.personal import KINDS
from unembed.audit.wording import interval, listed, percent
from unembed.errors import DataError, printable
from unembed.stores.store import Collection, Trace

MANY = 0.1  # of the rows: from there on a status is a grade more severe; the interval's lower end decides
# What someone with a copy of the store gains, and with how much effort.
MEANINGS = {
    "critical": "whole texts of a tenth of the rows or more; a secret that may work; identifying personal data",
    "high": "whole texts of fewer rows; most words of a tenth or more; what the owner believes deleted; names",
    "medium": "most words of fewer rows; topics of a tenth or more; what makes recovery easier, or more people able to",
    "low": "topics of fewer rows; which encoder to use; what was written before a change",
    "note": "nothing; a limit of the audit",
}


@dataclass(frozen=True)
class Reference:
    """Who asks for it, or where it is defined. short: its number alone."""

    short: str
    name: str
    url: str


AITG = Reference(
    "AITG-APP-08",
    "OWASP AI Testing Guide, AITG-APP-08, Testing for Embedding Manipulation (embedding inversion)",
    "https://github.com/OWASP/www-project-ai-testing-guide/blob/main/Document/content/tests/"
    "AITG-APP-08_Testing_for_Embedding_Manipulation.md",
)
LLM09 = Reference(
    "LLM09:2026",
    "OWASP LLM09:2026, Vector and Embedding Weaknesses",
    "https://github.com/GenAI-Security-Project/GenAI-LLM-Top10/blob/main/2026/final/"
    "LLM09_VectorAndEmbeddingWeaknesses.md",
)
LLM02 = Reference(
    "LLM02:2026",
    "OWASP LLM02:2026, Sensitive Information Disclosure",
    "https://github.com/GenAI-Security-Project/GenAI-LLM-Top10/blob/main/2026/final/"
    "LLM02_SensitiveInformationDisclosure.md",
)
AISVS = "https://github.com/OWASP/AISVS/blob/main/1.0/en/0x10-C08-Memory-Embeddings-and-Vector-Database.md"
AISVS_FIELDS = Reference(
    "AISVS 8.2.1", "OWASP AISVS 1.0, 8.2.1: sensitive fields are masked or dropped before embedding", AISVS
)
AISVS_EXPIRY = Reference("AISVS 8.3.1", "OWASP AISVS 1.0, 8.3.1: expired vectors are excluded from retrieval", AISVS)
ATLAS = Reference(
    "ATLAS AML.T0024.001",
    "MITRE ATLAS AML.T0024.001, Invert AI Model",
    "https://atlas.mitre.org/techniques/AML.T0024.001",
)
CWE_200 = Reference(
    "CWE-200",
    "CWE-200, Exposure of Sensitive Information to an Unauthorized Actor",
    "https://cwe.mitre.org/data/definitions/200.html",
)
CWE_312 = Reference(
    "CWE-312", "CWE-312, Cleartext Storage of Sensitive Information", "https://cwe.mitre.org/data/definitions/312.html"
)
CWE_732 = Reference(
    "CWE-732",
    "CWE-732, Incorrect Permission Assignment for Critical Resource",
    "https://cwe.mitre.org/data/definitions/732.html",
)
CWE_759 = Reference(
    "CWE-759", "CWE-759, Use of a One-Way Hash without a Salt", "https://cwe.mitre.org/data/definitions/759.html"
)
GDPR = "https://eur-lex.europa.eu/eli/reg/2016/679/oj"
GDPR_4 = Reference("GDPR Art. 4(1)", "GDPR Art. 4(1), definition of personal data", GDPR)
GDPR_26 = Reference(
    "GDPR Recital 26", "GDPR Recital 26: this is evidence for an assessment of whether persons are identifiable", GDPR
)
GDPR_33 = Reference("GDPR Art. 33", "GDPR Art. 33, notification of a breach of personal data", GDPR)
INVERSION = (AITG, LLM09, LLM02, ATLAS, CWE_200)


@dataclass(frozen=True)
class Rule:
    """A kind of finding.

    severities: those that it can have, worst first. meaning: one sentence. advice: what to do about it.
    """

    id: str
    title: str
    meaning: str
    advice: str
    severities: tuple[str, ...]
    references: tuple[Reference, ...]


PROTECT = (
    "Give the vectors the protection of the texts: the same access control, encryption at rest with keys kept "
    "elsewhere, the same care for backups and exports."
)
RULES = {
    rule.id: rule
    for rule in (
        Rule(
            "text-in-clear",
            "Texts lie beside the vectors in clear",
            "Whoever reads the store reads its texts, without inverting anything.",
            "Keep the texts in a store of their own and only ids beside the vectors, or protect this store as the "
            "documents themselves. Where that is the case already, accept the finding with a baseline.",
            ("critical",),
            (LLM09, LLM02, CWE_312),
        ),
        Rule(
            "secret-in-store",
            "The store holds a secret",
            "A key or password lies in the store's files or columns.",
            "Revoke the secret, issue a new one and keep it outside of the store. A leaked key of an embedding service "
            "gives an attacker the very encoder.",
            ("critical",),
            (LLM09, CWE_312),
        ),
        Rule(
            "invertible-proved",
            "Whole texts come back, proved by the store",
            "Recovered texts equal those in the store, or the hashes that it keeps of them.",
            f"{PROTECT} Leave out of what is embedded whatever must not leak.",
            ("critical", "high"),
            (*INVERSION, GDPR_33),
        ),
        Rule(
            "invertible-exact",
            "Whole texts come back, confirmed by the encoder",
            "The encoder gives the recovered texts the stored vectors; the store has no text that would prove more.",
            f"{PROTECT} Leave out of what is embedded whatever must not leak.",
            ("critical", "high"),
            (*INVERSION, GDPR_33),
        ),
        Rule(
            "invertible-near",
            "Most words of texts come back",
            "Recovered texts have most words right, more often than chance has.",
            f"{PROTECT} An attacker with more time or a better inverter recovers more.",
            ("high", "medium"),
            INVERSION,
        ),
        Rule(
            "invertible-topic",
            "What texts are about comes back",
            "Recovered texts tell the topic of texts and no more, more often than chance does.",
            f"{PROTECT} A topic alone can be sensitive: a diagnosis, a merger, a complaint.",
            ("medium", "low"),
            INVERSION,
        ),
        Rule(
            "personal-data-recovered",
            "Personal data come back",
            "Entities of the store's texts, such as e-mail addresses, are in the texts recovered from their vectors.",
            "Detect such data and mask or drop them before embedding. Treat a leak of the vectors as one of personal "
            "data until it has been assessed. The figures are evidence for a Recital 26 assessment.",
            ("critical", "high", "medium"),
            (*INVERSION, AISVS_FIELDS, GDPR_4, GDPR_26, GDPR_33),
        ),
        Rule(
            "deleted-still-there",
            "Deleted rows are still there",
            "Vectors or texts that were deleted can still be read from the store's files.",
            "Compact or rebuild the store after deletions, and check its files rather than its interface.",
            ("high", "low"),
            (LLM09, AISVS_EXPIRY),
        ),
        Rule(
            "text-hashes",
            "The store keeps hashes of its texts",
            "A hash without a salt tells whether a guessed or recovered text is the very one; a dictionary finds short "
            "texts without any vector.",
            "Use a keyed hash (HMAC) whose key is kept elsewhere, or drop the hashes.",
            ("medium",),
            (CWE_759, CWE_200),
        ),
        Rule(
            "earlier-versions",
            "Earlier versions can be read",
            "The store keeps earlier states, with rows that were changed or deleted since.",
            "Shorten how long versions are kept, clean them up, and look for tags that keep old files.",
            ("medium",),
            (LLM09, AISVS_EXPIRY),
        ),
        Rule(
            "copies-beside",
            "Copies lie beside the store",
            "Snapshots or backups hold the same data, often with less protection.",
            "Move copies to where access is controlled, encrypt them, and delete those that are not needed.",
            ("medium",),
            (LLM09, LLM02, CWE_200),
        ),
        Rule(
            "queued-changes",
            "Changes are kept in a queue",
            "The queue holds vectors and texts as they were written, in the same file as the rows. Of rows that were "
            "changed since it has what they were before.",
            "Nothing, if the store is protected as texts are. After texts were changed or deleted, clean the queue "
            "(Chroma: `chroma vacuum`).",
            ("low",),
            (LLM09, AISVS_EXPIRY),
        ),
        Rule(
            "world-readable",
            "Every user of the machine can read the store",
            "The permissions of its files let any account of the machine copy it.",
            "Take the permissions of others away: chmod -R o-rwx.",
            ("medium",),
            (CWE_732,),
        ),
        Rule(
            "encoder-named",
            "The store names its encoder",
            "An attacker need not find out which encoder made the vectors.",
            "Nothing, if the vectors are protected as texts are. Hiding the name is weak: an encoder can often be told "
            "by its vectors.",
            ("low",),
            (LLM09,),
        ),
        Rule(
            "endpoint-named",
            "The store names where texts are embedded",
            "An attacker who reaches the endpoint can embed guesses and compare.",
            "Authenticate the endpoint and limit how many texts a caller may embed.",
            ("low",),
            (LLM09,),
        ),
        Rule(
            "lossy-index",
            "The index keeps approximations",
            "What was read, and inverted, is less than the vectors that were put in.",
            "Look for where the full vectors are kept, such as a file for re-ranking, and audit that as well.",
            ("note",),
            (),
        ),
        Rule(
            "encoder-unknown",
            "The encoder is not known",
            "Without the encoder, or pairs for an aligner, nothing was inverted. An attacker may know it.",
            "Name the encoder, or give pairs of texts and vectors, and audit again.",
            ("note",),
            (LLM09,),
        ),
        Rule(
            "nothing-above-chance",
            "Nothing came back above chance",
            "The attacks that were tried recovered no more than they do of random vectors or of other rows.",
            "Keep the protection: other attacks and more time are not covered by this result.",
            ("note",),
            (AITG,),
        ),
    )
}

# What is listed twice is one finding a collection: the kinds of `Trace` and their rules.
OF_TRACES = {
    "text": "text-in-clear", "encoder": "encoder-named", "endpoint": "endpoint-named", "secret": "secret-in-store",
    "hash": "text-hashes", "deleted": "deleted-still-there", "version": "earlier-versions", "copy": "copies-beside",
    "queue": "queued-changes", "readable": "world-readable",
}  # fmt: skip
STATUS_SAYS = {
    "proved": "came back word for word, as the store's own texts or hashes prove",
    "exact": "came back as a text to which the encoder gives the stored vector",
    "near": "came back with most words right",
    "topic": "came back with only the topic right",
}

BASELINES = {"random": "of random vectors", "shuffled": "against other rows' texts"}


def from_traces(store: str, collection: Collection, traces: Iterable[Trace]) -> list[Finding]:
    """What a store gives away without any inversion: one finding a kind, with all its traces.

    Args:
        store: its location, without passwords.
        traces: of the collection, and of the store as a whole.

    Raises:
        DataError: a reader gives a kind of trace that there is no rule for.
    """
    by_rule: dict[str, list[Trace]] = defaultdict(list)
    for trace in traces:
        if trace.kind not in OF_TRACES:
            raise DataError(
                f"{printable(store)}: its reader tells of {printable(trace.kind)!r}, expected one of "
                f"{', '.join(OF_TRACES)}"
            )
        by_rule[OF_TRACES[trace.kind]].append(trace)
    found = []
    for rule, same in by_rule.items():
        details = list(dict.fromkeys(trace.detail.strip() for trace in same))
        more = f" (and {len(details) - 3} more)" if len(details) > 3 else ""
        evidence = [{"detail": one.detail, "where": one.where, "count": one.count} for one in same]
        message = " ".join(details[:3]) + more
        # What was counted is there; what was not, such as a file's unused pages, may hold something.
        certain = rule != "deleted-still-there" or any(one.count for one in same)
        severity = RULES[rule].severities[0 if certain else -1]
        found.append(_finding(rule, store, collection.name, severity, message, {"traces": evidence}))
    if collection.lossy:
        message = f"Numbers are kept as {collection.number}; the vectors that were read approximate those put in."
        found.append(_finding("lossy-index", store, collection.name, "note", message, {"number": collection.number}))
    return found


def from_statuses(audited: Audited) -> list[Finding]:
    """What the figures of a collection say; those of `audited.findings` are not repeated."""
    found = [_status(audited, one) for one in STATUSES[:-1] if audited.above_chance(one)]
    found += _personal(audited)
    where = audited.store, audited.collection
    if audited.encoder_by == "unknown":
        found.append(_finding("encoder-unknown", *where, "note", "No encoder is named, and the vectors tell none.", {}))
    if audited.attack and audited.status_counts and audited.level == "nothing":
        n = sum(audited.status_counts.values())
        message = f"Of {n:,} sampled rows none came back better than chance, with the {audited.attack} attack."
        found.append(_finding("nothing-above-chance", *where, "note", message, {"sampled": n}))
    return found


def _status(audited: Audited, status: str) -> Finding:
    rate = audited.rate(status)
    rule = f"invertible-{status}"
    count, baselines = audited.status_counts[status], audited.baselines(status)
    beside = listed([f"{percent(value)} {BASELINES[name]}" for name, value in baselines.items()])
    message = f"{count:,} of {rate.n:,} sampled texts ({interval(rate)}) {STATUS_SAYS[status]}" + (
        f"; by chance {beside}." if beside else "."
    )
    evidence = {
        "share": {"value": rate.value, "low": rate.low, "high": rate.high, "n": rate.n},
        "baselines": baselines, "attack": audited.attack, "encoder": audited.encoder,
    }  # fmt: skip
    severity = RULES[rule].severities[0 if rate.low >= MANY else 1]
    return _finding(rule, audited.store, audited.collection, severity, message, evidence)


def _personal(audited: Audited) -> list[Finding]:
    """One finding for all kinds that came back more often than by chance; the worst kind decides."""
    above = {
        kind: n
        for kind, n in audited.personal.items()
        if share(n["recovered"], n["truth"]).low > share(n.get("chance", 0), n["truth"]).value
    }
    if not above:
        return []
    grades = RULES["personal-data-recovered"].severities
    severity = min((KINDS[kind].severity for kind in above), key=grades.index)
    parts = [f"{KINDS[kind].title} in {n['recovered']:,} of {n['truth']:,}" for kind, n in above.items()]
    message = f"Sampled texts with personal data came back with the very same: {listed(parts)} texts."
    evidence = {"kinds": {kind: dict(n) for kind, n in above.items()}}
    return [_finding("personal-data-recovered", audited.store, audited.collection, severity, message, evidence)]


def _finding(
    rule: str, store: str, collection: str, severity: str, message: str, evidence: Mapping[str, object]
) -> Finding:
    assert severity in RULES[rule].severities
    return Finding(rule, store, collection, severity, message, evidence)
