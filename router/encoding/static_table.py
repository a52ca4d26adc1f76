"""The forward pass of a static encoder: token vectors from a table, averaged.

numpy and tokenizers only: training and the artifact run this very code.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from router.errors import RouterError

LARGEST = 127  # of an int8 row


class StaticTable:
    """Texts -> unit vectors: the mean of the token vectors, brought to length 1.

    rows: (tokens + 1,) records of `scale` (float32) and `row` (d int8 numbers); a token's vector is
        scale x row. The last record stands for a text in which the tokenizer finds no token.
    tokenizer: cuts to the window, pads nothing and adds no special tokens.
    characters: of a text that are read at all, so that a huge prompt costs no more than a long one.

    Raises RouterError where the rows are of another form, or another number than the tokens.
    """

    def __init__(self, rows: np.ndarray, tokenizer: Tokenizer, characters: int):
        tokens = tokenizer.get_vocab_size(with_added_tokens=True)
        if rows.dtype.names != ("scale", "row") or len(rows) != tokens + 1:
            raise RouterError("encoder.npy does not fit tokenizer.json; export the router again.")
        # Contiguous copies: a look-up in the records themselves takes 40 times as long.
        self._scales = np.ascontiguousarray(rows["scale"])
        self._rows = np.ascontiguousarray(rows["row"])
        self._tokenizer = tokenizer
        self._characters = characters

    @property
    def dimension(self) -> int:
        """Of a vector."""
        return self._rows.shape[1]

    def encode_one(self, text: str) -> np.ndarray:
        """(d,) float32 vector of unit length, of the first tokens of the first characters.

        Half a surrogate pair, which is no Unicode text, is read as a question mark.
        """
        readable = text[: self._characters].encode("utf-8", "replace").decode("utf-8")
        ids = np.array(self._tokenizer.encode(readable).ids or [-1])
        total = self._sum(ids)
        length = np.sqrt(total @ total)
        if length == 0:  # token vectors that cancel out say as little as none
            total = self._sum(np.array([-1]))
            length = np.sqrt(total @ total)
        return total / length

    def _sum(self, ids: np.ndarray) -> np.ndarray:
        # The mean differs from it in length alone.
        rows = self._rows.take(ids, axis=0).astype(np.float32)
        return self._scales.take(ids) @ rows


def quantised(vectors: np.ndarray) -> np.ndarray:
    """(n, d) vectors as records of StaticTable: int8 numbers, with a scale for each row.

    Raises RouterError where a vector is not finite.
    """
    if not np.isfinite(vectors).all():
        raise RouterError("A token vector is not finite; check the weights of encoder.teacher.")
    records = np.empty(len(vectors), dtype=[("scale", "<f4"), ("row", "i1", (vectors.shape[1],))])
    scale = (np.abs(vectors).max(axis=1) / LARGEST).astype(np.float32)
    records["scale"] = scale
    divisor = np.where(scale > 0, scale, 1.0)
    records["row"] = np.clip(np.rint(vectors / divisor[:, None]), -LARGEST, LARGEST)
    return records
