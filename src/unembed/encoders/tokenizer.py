"""Text to content tokens and back, in the encoder's own vocabulary.

Unusual here: user text is never trusted to be text only. Special tokens spelled out in it ("[MASK]", "</s>")
are tokenised as the characters they are, or dropped where a vocabulary would still match them, so that no
input can place a MASK, EOS or PAD on the canvas. A vocabulary with no mask token gets one more id at its end,
which only the denoiser knows.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer as Backend

from unembed.encoders.hostile_tokenizers import check_hostile
from unembed.errors import CheckpointError, EncoderError
from unembed.files.atomic import atomic_file
from unembed.files.json_files import read_json, read_text

VOCABULARY_FILE = "tokenizer.json"
IDS_FILE = "tokenizer_ids.json"

# What a text may begin with, to see which ids of the prompt no text can change.
_PROBES = ("a", "The", "9", "é", "(", "中")


class Tokenizer:
    """Content tokens of one encoder: the special ones and the prompt stay outside, in `prefix_ids` and `suffix_ids`.

    Args:
        backend: the vocabulary; taken over, and changed not to truncate, pad or obey special tokens in text.
        eos_id: what ends content on the canvas.
        mask_id: None appends a mask to the vocabulary.
        pad_id: None takes `eos_id`.
        prompt: text that the encoder puts before every text.

    Raises:
        EncoderError: special tokens are not simply put before and after a text.

    Attributes:
        vocab_size: rows of the denoiser's token table, the mask included.
        mask_id, eos_id, pad_id: what the canvas uses besides content; `pad_id` equals `eos_id` where a vocabulary
            has no padding token.
        prefix_ids, suffix_ids: ids that the encoder puts before and after content ids.
        prompt: text that the encoder puts before every text; its ids end `prefix_ids`.
        special_ids: ids that are no content of a text.
        starts_word: bool array (vocab_size,), whether a window of text may start at the token.
        fingerprint: SHA-256 (hex) of the backend's JSON; equal fingerprints mean the same tokens.
    """

    def __init__(
        self, backend: Backend, *, eos_id: int, mask_id: int | None = None, pad_id: int | None = None, prompt: str = ""
    ) -> None:
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # not part of the JSON, so set on every way in
        vocabulary = backend.get_vocab(with_added_tokens=True)
        size = 1 + max(vocabulary.values())  # not the count: vocabularies have holes
        self.mask_id = size if mask_id is None else mask_id
        self.eos_id = eos_id
        self.pad_id = eos_id if pad_id is None else pad_id
        self.vocab_size = size + (mask_id is None or mask_id == size)
        self.prompt = prompt
        self._specials = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        self._reserved = {self.mask_id, self.eos_id, self.pad_id}
        self._specials |= self._reserved
        self.special_ids = sorted(i for i in self._specials if i < self.vocab_size)
        self._prompt_ids: list[int] = []
        if prompt:
            bare = prompt.rstrip(" ")  # in most vocabularies a space belongs to the word behind it
            self._prompt_ids = _common_prefix([self._raw(text) for text in (bare, *(prompt + p for p in _PROBES))])
        before, after = _template(backend)
        self.prefix_ids = before + self._prompt_ids
        self.suffix_ids = after
        self._json = backend.to_str()
        self.fingerprint = hashlib.sha256(self._json.encode()).hexdigest()
        self._byte_level = '"ByteLevel"' in json.dumps(json.loads(self._json)["decoder"])
        self.starts_word = self._starts_word(vocabulary)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_backend"] = self._json
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._backend = Backend.from_str(self._json)
        self._backend.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Content ids of one text, neither truncated nor padded."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Content ids of each text, neither truncated nor padded."""
        texts = [_sound(text) for text in texts]
        if not self._prompt_ids:
            found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
            return [self._clean(encoding.ids) for encoding in found]
        # With its prompt in front, as the encoder sees it: the last space of "query: " belongs to the first word.
        known = self._prompt_ids
        found = self._backend.encode_batch_fast([self.prompt + text for text in texts], add_special_tokens=False)
        return [
            self._clean(encoding.ids[len(known) :])
            if encoding.ids[: len(known)] == known
            else self._clean(self._raw(text))  # rare: the text's first characters are one token with the prompt's last
            for encoding, text in zip(found, texts, strict=True)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a canvas or of content ids; masks and other special tokens are shown as nothing."""
        kept = [i for i in self.content(ids) if i not in self._specials]
        text: str = self._backend.decode(kept, skip_special_tokens=True)
        return text.removeprefix(self.prompt[len(self.prompt.rstrip(" ")) :]) if self.prompt else text

    def token(self, token_id: int) -> str:
        """One piece for display: "##ing", " word", "[MASK]"."""
        if token_id == self.mask_id:
            return "[MASK]"
        piece: str | None = self._backend.id_to_token(token_id)
        if piece is None:
            return ""
        if self._byte_level and token_id not in self._specials:
            shown: str = self._backend.decode([token_id])
            return piece if "\ufffd" in shown else shown
        return piece.replace("▁", " ")

    def vocabulary(self) -> dict[str, int]:
        """The ids of all tokens, by how the vocabulary spells them; a mask that was appended is none of them."""
        found: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return found

    def canvas(self, ids: Sequence[int], length: int) -> list[int]:
        """`ids` cut or filled to `length`: content, then one EOS if there is room, then PAD."""
        row = [*ids[:length], self.eos_id][:length]
        return row + [self.pad_id] * (length - len(row))

    def content(self, ids: Iterable[int]) -> list[int]:
        """The ids before the first EOS or PAD; masks stay."""
        kept = []
        for i in map(int, ids):
            if i in (self.eos_id, self.pad_id):
                break
            kept.append(i)
        return kept

    def backend_json(self) -> str:
        """The vocabulary as the `tokenizers` library writes it."""
        return self._json

    @classmethod
    def from_json(
        cls, text: str, *, eos_id: int, mask_id: int | None = None, pad_id: int | None = None, prompt: str = ""
    ) -> Self:
        """The inverse of `backend_json`. With no `mask_id` a mask is appended. Raises CheckpointError."""
        try:
            backend = Backend.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"tokenizer JSON cannot be read ({' '.join(str(error).split())})") from error
        check_hostile(json.loads(text), backend, (eos_id, mask_id, pad_id), prompt)
        try:
            return cls(backend, eos_id=eos_id, mask_id=mask_id, pad_id=pad_id, prompt=prompt)
        except EncoderError:
            raise
        except Exception as error:  # what the vocabulary cannot read: it may lack a token for the unknown
            raise CheckpointError(f"tokenizer JSON reads no text ({' '.join(str(error).split())})") from error

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_ids.json` into `folder`, made if missing. Raises OutputError."""
        ids = {"eos_id": self.eos_id, "mask_id": self.mask_id, "pad_id": self.pad_id, "prompt": self.prompt}
        for name, text in ((VOCABULARY_FILE, self._json), (IDS_FILE, json.dumps(ids, indent=2) + "\n")):
            with atomic_file(Path(folder) / name) as temporary:
                temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote. Raises CheckpointError."""
        folder = Path(folder)
        text = read_text(folder / VOCABULARY_FILE, CheckpointError)
        ids = read_json(folder / IDS_FILE, CheckpointError)
        if not isinstance(ids, dict) or set(ids) != {"eos_id", "mask_id", "pad_id", "prompt"}:
            raise CheckpointError(f"{folder / IDS_FILE}: expected the keys eos_id, mask_id, pad_id and prompt")
        try:
            return cls.from_json(text, **ids)
        except CheckpointError as error:
            raise CheckpointError(f"{folder / VOCABULARY_FILE}: {error}") from error

    def _raw(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _clean(self, ids: list[int]) -> list[int]:
        # Unigram vocabularies hold "</s>" as an ordinary piece, which `encode_special_tokens` does not stop.
        # [UNK] is the encoder's own answer to unknown text and stays.
        return ids if self._reserved.isdisjoint(ids) else [i for i in ids if i not in self._reserved]

    def _starts_word(self, vocabulary: dict[str, int]) -> np.ndarray:
        model = json.loads(self._json)["model"]
        starts = np.zeros(self.vocab_size, dtype=bool)
        joint = model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None
        for piece, i in vocabulary.items():
            if i in self._specials:
                continue
            if joint is not None:
                starts[i] = not piece.startswith(joint) and piece[:1].isalnum()
            else:
                starts[i] = piece[:1] in ("Ġ", "▁") and piece[1:2].isalnum()
        return starts


def _sound(text: str) -> str:
    # A lone surrogate (half an emoji, from JSON or a file name) has no UTF-8 form and the backend would refuse it.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _template(backend: Backend) -> tuple[list[int], list[int]]:
    """Special ids that the backend's post-processor puts before and after a text."""
    content = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(content) + 1):
        if whole[start : start + len(content)] == content:
            return whole[:start], whole[start + len(content) :]
    raise EncoderError(f"the tokenizer's template changes content ids: {content} became {whole}")


def _common_prefix(rows: list[list[int]]) -> list[int]:
    shared = []
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared
