"""Express: a sentence encoder distilled into a table of token vectors."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from router.cache_folder import cache_folder
from router.encoding.encoder import learns
from router.encoding.static_table import StaticTable, quantised
from router.errors import RouterError
from router.staging import staged_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FORM = 1  # of what is cached; raised whenever the code below would make something else
CHARACTERS = 16  # read for each token of the window; prose has four to five
BATCH = 512
PLACEHOLDER = re.compile(r"\[unused\d+\]")  # BERT's vocabularies hold about a thousand of them


class StaticEncoder:
    """Vectors of unit length, from the mean of token vectors: 100 times as fast as the encoder that
    they come from, deaf to the order of words.

    A token's vector is what the teacher makes of the token alone; the principal components over the
    vocabulary are kept, and frequent tokens count less, with frequencies by Zipf's law from the
    place in the vocabulary (SIF: Arora et al., ICLR 2017). This is Model2Vec's distillation (van
    Dongen and Tulkens 2024).

    teacher: a SentenceTransformerEncoder, or a FinetunedEncoder.
    dimension: principal components kept; the teacher's own dimension, where that is less.
    sif: a token of frequency p weighs sif / (sif + p); None weighs all alike.
    max_tokens: longer prompts are cut to their first max_tokens tokens. A prompt's first 16 x
        max_tokens characters are read.
    """

    # A tenth of a millisecond a text: a kilobyte of cache for each would spare next to nothing.
    identity = None

    def __init__(
        self,
        teacher: Any,
        dimension: int = 256,
        sif: float | None = 1e-3,
        max_tokens: int = 256,
    ):
        if not hasattr(teacher, "load"):
            raise RouterError(
                f"encoder.teacher is a {type(teacher).__name__}, which has no weights to distil; "
                "give a sentence encoder, without features."
            )
        if min(dimension, max_tokens) < 1:
            raise RouterError("encoder needs dimension and max_tokens of at least 1.")
        if sif is not None and not 0 < sif < 1:
            raise RouterError(f"encoder.sif is {sif}; give a number between 0 and 1, or null.")
        self.teacher = teacher
        self.dimension = dimension
        self.sif = sif
        self.max_tokens = max_tokens

    @property
    def learns(self) -> bool:
        """Whether the teacher learns from outcomes."""
        return learns(self.teacher)

    def fit(self, texts: Sequence[str], scores: np.ndarray, observed: np.ndarray) -> None:
        """Fit the teacher, where it is one that learns."""
        self.teacher.fit(texts, scores, observed)
        self.__dict__.pop("table", None)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32 vectors of unit length."""
        if not len(texts):
            return np.empty((0, self.table.dimension), dtype=np.float32)
        return np.stack([self.table.encode_one(text) for text in texts])

    @cached_property
    def table(self) -> StaticTable:
        """What encodes; read from what the artifact is given."""
        folder = self.export()
        facts = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        rows = np.load(folder / "encoder.npy", allow_pickle=False)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return StaticTable(rows, tokenizer, facts["characters"])

    def export(self) -> Path:
        """Folder with encoder.npy (records of StaticTable), tokenizer.json and encoder.json (what
        the manifest says of the encoder); made once per teacher and kept in the cache."""
        made_of = f"{self.teacher.weights_hash} {self.dimension} {self.sif!r} {self.max_tokens}"
        digest = hashlib.sha256(f"{FORM} {made_of}".encode()).hexdigest()
        folder = cache_folder("encoders") / f"static-{digest[:32]}"
        if not folder.is_dir():
            with staged_folder(folder) as staged:
                self._distil(staged)
        return folder

    def _distil(self, folder: Path) -> None:
        model = self.teacher.load("float32")
        tokenizer = bare_tokenizer(model, self.max_tokens)
        vectors = token_vectors(model, tokenizer)
        table = compressed(vectors, tokens_in_use(tokenizer), self.dimension, self.sif)
        np.save(folder / "encoder.npy", quantised(table), allow_pickle=False)
        (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
        facts = {"kind": "static", "characters": CHARACTERS * self.max_tokens}
        (folder / "encoder.json").write_text(json.dumps(facts), encoding="utf-8")


def bare_tokenizer(model: SentenceTransformer, max_tokens: int) -> Tokenizer:
    """The model's own, which cuts to the window, pads nothing and adds no special tokens."""
    fast = getattr(model.tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise RouterError("This model has no fast tokenizer; choose one with a tokenizer.json.")
    content = json.loads(fast.to_str())
    content["post_processor"] = None
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def token_vectors(model: SentenceTransformer, tokenizer: Tokenizer) -> np.ndarray:
    """(tokens + 1, d) float64 of unit length: the model's vector of each token between its special
    tokens, and last that of an empty text."""
    import torch

    before, after = _special_tokens(model)
    count = tokenizer.get_vocab_size(with_added_tokens=True)
    texts = [[*before, number, *after] for number in range(count)]
    batches = [texts[start : start + BATCH] for start in range(0, count, BATCH)]
    batches.append([[*before, *after] or [0]])
    model.eval()
    vectors = []
    with torch.inference_mode():
        for batch in tqdm(batches, "Distilling", unit="batch", leave=False, disable=None):
            ids = torch.tensor(batch, device=model.device)
            found = model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            vectors.append(found["sentence_embedding"].float().cpu().numpy())
    stacked = np.concatenate(vectors).astype(np.float64)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def tokens_in_use(tokenizer: Tokenizer) -> np.ndarray:
    """(tokens,) False for the places that a vocabulary keeps free."""
    count = tokenizer.get_vocab_size(with_added_tokens=True)
    tokens = (tokenizer.id_to_token(number) for number in range(count))
    return np.array([token is not None and not PLACEHOLDER.fullmatch(token) for token in tokens])


def compressed(
    vectors: np.ndarray, used: np.ndarray, dimension: int, sif: float | None
) -> np.ndarray:
    """(tokens + 1, dimension or less): weighted scores of token_vectors on the principal components
    of those in use.

    used: (tokens,) see tokens_in_use.
    """
    own = vectors[:-1][used]
    mean = own.mean(axis=0)
    _, components = np.linalg.eigh((own - mean).T @ (own - mean))
    scores = (vectors - mean) @ components[:, ::-1][:, :dimension]
    # A component's sign is arbitrary: the largest score is made positive, on every machine.
    largest = np.abs(scores).argmax(axis=0)
    scores *= np.sign(scores[largest, np.arange(scores.shape[1])])
    if sif is not None:
        share = 1 / np.arange(2, len(own) + 2)
        scores[:-1][used] *= (sif / (sif + share / share.sum()))[:, None]
    return scores


def _special_tokens(model: SentenceTransformer) -> tuple[list[int], list[int]]:
    """What the model's tokenizer puts before and after a text."""
    fast = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    fast.no_padding()
    fast.no_truncation()
    encoding = fast.encode("a")
    own = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    if not own:
        return encoding.ids, []
    return encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]
