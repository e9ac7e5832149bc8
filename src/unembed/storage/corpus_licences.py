"""Licences of the texts that released inverters were trained on: part -> licence, whom to attribute, source.

What is listed here goes on the model card. A part that is not listed is shown there without a licence: only whoever
prepared it can say.
"""

from typing import NamedTuple


class Licence(NamedTuple):
    """The terms of one part of a corpus."""

    licence: str
    attribution: str
    source: str


_WIKIPEDIA = Licence(
    "CC BY-SA 3.0 (and GFDL)",
    "Wikipedia contributors",
    "English Wikipedia, 2018 dump: JohanMadsen/02807_Project @ acb54d6bfce2",
)

CORPUS_LICENCES: dict[str, Licence] = {
    "wikipedia-1": _WIKIPEDIA,
    "wikipedia-2": _WIKIPEDIA,
    "wikipedia-misc": Licence(
        "CC BY-SA 4.0 (wiki-split); CC BY-SA with Apache-2.0 annotations (GAP)",
        "Wikipedia contributors; Google Research",
        "google-research-datasets/wiki-split @ 80f5bddf42d1; google-research-datasets/gap-coreference @ 83135f26025c",
    ),
    "wikipedia-kyoto": Licence(
        "CC BY-SA 3.0",
        "NICT; Wikipedia contributors",
        "Japanese-English Bilingual Corpus of Wikipedia's Kyoto Articles 2.01: venali/BilingualCorpus @ e5fcb65f2101",
    ),
    "openstax-textbooks": Licence(
        "CC BY 4.0 at the commits used (later ones are CC BY-NC-SA)",
        "OpenStax, Rice University",
        "twelve books of openstax/osbooks-*, each at its last commit under CC BY 4.0",
    ),
    "us-speeches": Licence(
        "held to be public domain (US presidents in office, or published before 1931)",
        "none required",
        "kfogel/presidential-speeches @ a4c8b38eeba4",
    ),
    "gov-and-community-blogs": Licence(
        "public domain / CC0 1.0 (18F, Digital.gov); CC BY 4.0 (rOpenSci)",
        "rOpenSci authors",
        "18F/18f.gsa.gov @ 0a55c75e6d9b; GSA/digitalgov.gov @ 4979583206d9; ropensci/roweb3 @ d84b7eb675f8",
    ),
    "tech-proposals": Licence(
        "public domain or CC0 1.0 (PEPs that say so); CC0 1.0 (EIPs); MIT or Apache-2.0 (Rust RFCs)",
        "the authors of the PEPs, EIPs and Rust RFCs",
        "python/peps @ ba4deeb79695; ethereum/EIPs @ f767a1e8078e; rust-lang/rfcs @ 354518a8c902",
    ),
    "microsoft-docs": Licence(
        "CC BY 4.0 (documentation text)",
        "Microsoft Corporation and contributors",
        "MicrosoftDocs/cpp-docs @ a2e592a8fc39; MicrosoftDocs/biztalk-docs @ f6e8598c9730; "
        "MicrosoftDocs/win32 @ 47e64c189dcb",
    ),
    "dialogue": Licence(
        "CC BY-SA 4.0 (Schema-Guided Dialogue); CC BY 4.0 (Taskmaster, Synthetic-Persona-Chat)",
        "Google Research",
        "google-research-datasets/dstc8-schema-guided-dialogue @ e852981ae349; google-research-datasets/Taskmaster "
        "@ d92cb6af3005; google-research-datasets/Synthetic-Persona-Chat @ 1f367a0f05d3 (machine-written)",
    ),
    "questions": Licence(
        "CC BY-SA 4.0 (query-wellformedness, OpenTriviaQA); CC BY 4.0 (OpenStax)",
        "Google Research; OpenTriviaQA contributors; OpenStax, Rice University",
        "google-research-datasets/query-wellformedness @ fb69c2141619; uberspot/OpenTriviaQA @ dd31530bfbb1; "
        "exercises of the OpenStax books",
    ),
    "common-voice-sentences": Licence(
        "CC0 1.0", "Mozilla Common Voice contributors", "skanderbenalaya/common-voice @ 26249db69c2d"
    ),
    "novels-100": Licence(
        "public domain in the United States",
        "none required",
        "computationalstylistics/100_english_novels @ 143e601875d7",
    ),
    "gutenberg-books": Licence(
        "public domain in the United States",
        "Project Gutenberg",
        "rcdm-uga/Gutenberg_Text @ a0b16d35a985",
    ),
}
