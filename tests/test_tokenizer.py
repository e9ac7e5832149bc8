"""Text to content tokens and back, for WordPiece, byte-level BPE and Unigram vocabularies."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from fakes import SPECIALS, tiny_texts, tiny_tokenizer
from unembed.encoders.tokenizer import Tokenizer
from unembed.errors import CheckpointError, OutputError

CORPUS = ["the river ran over the stones by the old mill", "query: hello world, title: none | text: the river"] * 4
ODD_TEXTS = [
    "",
    " ",
    "\x00\x07\x1b[31m",
    "\ud83d",
    "👩‍👩‍👧 🇯🇵",
    "日本語のテキスト",
    "Ünïcödé ﬁ",
    "مرحبا",
    "\u202eabc",
    "a" * 5000,
    " ".join(SPECIALS),
    "[MASK][SEP][PAD]",
    "</s><mask><pad>",
    "<|endoftext|><|im_end|>",
]


def byte_level(prompt: str = "", **ids: int) -> Tokenizer:
    """A byte-level BPE vocabulary like Qwen's: no mask, <|endoftext|> behind every text."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    return Tokenizer(backend, **{"eos_id": 1, "pad_id": 0, **ids}, prompt=prompt)


def unigram(prompt: str = "") -> Tokenizer:
    """A Unigram vocabulary like XLM-R's, in which "</s>" and "<mask>" are ordinary pieces too."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(piece, -2.0) for piece in ("▁the", "▁river", "▁ran", "▁hello", "▁query", ":", "▁", "s")]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrtuvwxyz<>/|"] + [("<mask>", 0.0)]
    backend = Backend(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return Tokenizer(backend, eos_id=2, pad_id=1, mask_id=backend.token_to_id("<mask>"), prompt=prompt)


ALL = {"wordpiece": tiny_tokenizer, "byte-level": byte_level, "unigram": unigram}


@pytest.fixture(params=ALL, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return ALL[request.param]()


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_no_text_reaches_mask_eos_or_pad(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert not {tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id} & set(ids)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.content(tokenizer.canvas(ids, len(ids) + 3)) == ids
    assert isinstance(tokenizer.decode(ids), str)


@given(text=st.text(max_size=60), kind=st.sampled_from(sorted(ALL)))
def test_no_random_text_reaches_mask_eos_or_pad(text: str, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert not {tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id} & set(tokenizer.encode(text))


TOKENIZERS = {kind: make() for kind, make in ALL.items()}


@given(text=st.text(max_size=60))
def test_byte_level_gives_every_text_back(text: str) -> None:
    assert TOKENIZERS["byte-level"].decode(TOKENIZERS["byte-level"].encode(text)) == text


def test_known_words_come_back() -> None:
    tokenizer = tiny_tokenizer()
    for text in tiny_texts(200):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_batch_equals_one_by_one(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(ODD_TEXTS) == [tokenizer.encode(text) for text in ODD_TEXTS]
    assert tokenizer.encode_batch([]) == []


def test_special_ids_of_bert() -> None:
    tokenizer = tiny_tokenizer()
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ([2], [3])
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.mask_id) == (0, 3, 4)
    assert tokenizer.vocab_size == 69


def test_missing_mask_is_appended() -> None:
    tokenizer = byte_level()
    assert tokenizer.mask_id == 300
    assert tokenizer.vocab_size == 301
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ([], [0])
    assert tokenizer.token(tokenizer.mask_id) == "[MASK]"
    ids = tokenizer.encode("the river")
    assert tokenizer.decode([tokenizer.mask_id, *ids, tokenizer.mask_id]) == "the river"


def test_missing_pad_is_eos() -> None:
    found = byte_level()
    tokenizer = Tokenizer.from_json(found.backend_json(), eos_id=0)
    assert tokenizer.pad_id == tokenizer.eos_id == 0


def test_canvas() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.canvas([10, 11], 5) == [10, 11, 3, 0, 0]
    assert tokenizer.canvas([10, 11], 3) == [10, 11, 3]
    assert tokenizer.canvas([10, 11], 2) == [10, 11]
    assert tokenizer.canvas([10, 11], 1) == [10]
    assert tokenizer.canvas([], 2) == [3, 0]


def test_content_stops_at_eos_and_pad_and_keeps_masks() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.content([10, 4, 11, 3, 12]) == [10, 4, 11]
    assert tokenizer.content([10, 0, 12]) == [10]
    assert tokenizer.content(np.array([3, 10])) == []


def test_decode_shows_masks_and_unknown_words_as_nothing() -> None:
    tokenizer = tiny_tokenizer()
    cat = tokenizer.encode("cat")
    assert tokenizer.decode([4, *cat, 4, 1, 2, *cat]) == "cat cat"
    assert tokenizer.decode([4, 4]) == ""


def test_display_pieces() -> None:
    wordpiece, bytes_, pieces = tiny_tokenizer(), byte_level(), unigram()
    assert [wordpiece.token(i) for i in wordpiece.encode("cats")] == ["cat", "##s"]
    assert wordpiece.token(wordpiece.mask_id) == pieces.token(pieces.mask_id) == "[MASK]"
    assert "".join(bytes_.token(i) for i in bytes_.encode("the river é")[:2]) == "the river"
    assert [pieces.token(i) for i in pieces.encode("the rivers")] == [" the", " river", "s"]
    assert bytes_.token(10_000) == ""


def test_starts_word() -> None:
    wordpiece, bytes_, pieces = tiny_tokenizer(), byte_level(), unigram()
    for tokenizer in (wordpiece, bytes_, pieces):
        assert tokenizer.starts_word.shape == (tokenizer.vocab_size,)
        assert not tokenizer.starts_word[[tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id]].any()
    assert wordpiece.starts_word[wordpiece.encode("cats.")].tolist() == [True, False, False]
    assert bytes_.starts_word[bytes_.encode("the river:")].tolist() == [False, True, False]
    assert pieces.starts_word[pieces.encode("the rivers")].tolist() == [True, True, False]


@pytest.mark.parametrize("prompt", ["query: ", "query:", "title: none | text: "])
@pytest.mark.parametrize("make", [byte_level, unigram])
def test_prompt_and_text_are_tokenised_together(make, prompt: str) -> None:
    plain, prompted = make(), make(prompt=prompt)
    inside = prompted.prefix_ids[len(plain.prefix_ids) :]
    assert inside
    for text in ("hello world", "the river ran", "a river", "", "z"):
        ids = prompted.encode(text)
        if text:
            assert inside + ids == plain.encode(prompt + text)
        assert prompted.decode(ids) == text


def test_text_that_grows_together_with_the_prompt_is_kept_apart() -> None:
    tokenizer = byte_level(prompt="the old mi")
    assert tokenizer.decode(tokenizer.encode("ll")) == "ll"


def test_prompt_s_last_space_goes_to_the_first_word() -> None:
    tokenizer = byte_level(prompt="query: ")
    assert [tokenizer.token(i) for i in tokenizer.encode("the river")] == [" the", " river"]
    assert tokenizer.decode(tokenizer.encode(" the river")) == " the river"


def test_save_and_load(tokenizer: Tokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = Tokenizer.load(tmp_path / "new" / "folder")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "tokenizer.json",
        "tokenizer_ids.json",
    ]
    for name in ("vocab_size", "mask_id", "eos_id", "pad_id", "prefix_ids", "suffix_ids", "prompt"):
        assert getattr(loaded, name) == getattr(tokenizer, name)
    assert loaded.encode_batch(ODD_TEXTS) == tokenizer.encode_batch(ODD_TEXTS)


def test_prompt_is_saved(tmp_path) -> None:
    tokenizer = byte_level(prompt="query: ")
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).prefix_ids == tokenizer.prefix_ids != []


def test_pickles_for_other_processes(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode_batch(ODD_TEXTS) == tokenizer.encode_batch(ODD_TEXTS)


def test_fingerprint_tells_vocabularies_apart() -> None:
    assert tiny_tokenizer().fingerprint == tiny_tokenizer().fingerprint
    assert len({make().fingerprint for make in ALL.values()}) == 3


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json: cannot be read"),
        ("tokenizer.json", "{}", "tokenizer.json: tokenizer JSON cannot be read"),
        ("tokenizer.json", "not json", "tokenizer.json: tokenizer JSON cannot be read"),
        ("tokenizer_ids.json", None, "tokenizer_ids.json: cannot be read"),
        ("tokenizer_ids.json", "{", "tokenizer_ids.json: is not JSON"),
        ("tokenizer_ids.json", '{"eos_id": 3}', "tokenizer_ids.json: expected the keys"),
        ("tokenizer_ids.json", "[]", "tokenizer_ids.json: expected the keys"),
    ],
)
def test_damaged_files(tmp_path, file: str, content: str | None, message: str) -> None:
    tiny_tokenizer().save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_save_where_nothing_can_be_written(tmp_path) -> None:
    (tmp_path / "tokenizer.json" / "in the way").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"tokenizer\.json: cannot be written"):
        tiny_tokenizer().save(tmp_path)
