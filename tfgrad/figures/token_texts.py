"""Tokens as texts that can be read: what is cut, escaped, greyed or left out."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfgrad.errors import ArgumentError
from tfgrad.figures.canvas import escaped, finite

SPECIAL = (
    *("", "[PAD]", "[CLS]", "[SEP]", "[BOS]", "[EOS]"),
    *("<pad>", "<s>", "</s>", "<bos>", "<eos>", "<|endoftext|>", "<|padding|>"),
)
LONGEST = 40  # characters of a token in a picture
_REPEATED = 3  # number of equal special tokens at the end that are written as one
_NAMES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_JOINERS = "\u200c\u200d"  # of Persian and Indic scripts, and of emoji


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """The tokens of one example that are drawn.

    Attributes:
        texts: Readable texts.
        special: Which tokens are special ones.
        repeated: How often the last special token is repeated after these, without any saliency.
        right_to_left: Whether most of its letters are of a script that is written so.
    """

    texts: list[str]
    special: list[bool]
    repeated: int
    right_to_left: bool


def token_maps(
    tokens: Any,
    maps: Mapping[str, ArrayLike],
    special: Collection[str],
    magnitude: bool,
) -> tuple[list[TokenRow], dict[str, list[np.ndarray]]]:
    """The tokens of each example, and {method: the values of these tokens, example by example}.

    Args:
        tokens, maps, special, magnitude: See `saliency_tokens`.

    Raises:
        ArgumentError: They are of another form, or do not fit together.
    """
    given = [_texts(row, i) for i, row in enumerate(_listed(tokens))]
    if not given or not maps:
        missing = "maps" if given else "tokens"
        raise ArgumentError(f"{missing}: got none; expected one or more.")
    found = {name: _values(values, name, given) for name, values in maps.items()}
    if magnitude:
        found = {name: np.abs(values) for name, values in found.items()}
    rows, kept = [], []
    for i, texts in enumerate(given):
        saliency = np.stack([np.abs(v[i, : len(texts)]) for v in found.values()]).max(0)
        length = _length(texts, special, saliency)
        kept.append(length)
        rows.append(
            TokenRow(
                [readable(text) or "·" for text in texts[:length]],
                [text in special for text in texts[:length]],
                len(texts) - length,
                _right_to_left(text for text in texts if text not in special),
            )
        )
    return rows, {name: [v[i, :k] for i, k in enumerate(kept)] for name, v in found.items()}


def readable(text: str) -> str:
    """A text without spaces at its ends, control characters or other invisible ones: escaped."""
    parts = []
    for place, character in enumerate(text):
        kind = unicodedata.category(character)
        if character in _NAMES:
            parts.append(_NAMES[character])
        elif character in _JOINERS:
            parts.append(character)
        elif character == " " and (not text[:place].strip() or not text[place:].strip()):
            parts.append("␣")
        elif kind[0] == "C" or kind in ("Zl", "Zp"):
            parts.append(escaped(character))
        else:
            parts.append(character)
    return "".join(parts)


def shortened(text: str, width: int = LONGEST) -> str:
    """A text of at most so many characters, its beginning and end."""
    if len(text) <= width:
        return text
    return f"{text[: width - width // 3 - 1]}…{text[-(width // 3) :]}"


def _listed(tokens: Any) -> Sequence[Any]:
    if isinstance(tokens, str | bytes):
        raise ArgumentError(
            "tokens: got one text; expected a list of tokens for each example; try [text.split()]."
        )
    listed = tokens.numpy() if hasattr(tokens, "numpy") else tokens
    return list(listed)


def _texts(row: Any, index: int) -> list[str]:
    if isinstance(row, str | bytes) or not isinstance(row, Iterable):
        raise ArgumentError(
            f"tokens[{index}]: got {row!r:.60}; expected a list of tokens for each example; try "
            "[tokens] for one example."
        )
    texts = []
    for token in row.numpy() if hasattr(row, "numpy") else row:
        if isinstance(token, bytes):
            token = token.decode("utf-8", "backslashreplace")
        if not isinstance(token, str):
            raise ArgumentError(
                f"tokens[{index}]: got {token!r:.60}; expected texts; try the words of the ids, "
                "such as vocabulary[id]."
            )
        texts.append(str(token))
    if not texts:
        raise ArgumentError(f"tokens[{index}]: got no token; expected one or more.")
    return texts


def _values(given: ArrayLike, name: str, tokens: Sequence[Sequence[str]]) -> np.ndarray:
    """The map of a method as [n, T], T at least the number of tokens of each example."""
    found = finite(given, f"maps[{name!r}]")
    longest = max(len(row) for row in tokens)
    if found.ndim != 2 or len(found) != len(tokens) or found.shape[1] < longest:
        raise ArgumentError(
            f"maps[{name!r}]: got shape {found.shape}; expected [{len(tokens)}, T] with T ≥ "
            f"{longest}, a value for each token; try Σ over the axis of the embedding."
        )
    for i, row in enumerate(tokens):
        if found[i, len(row) :].any():
            raise ArgumentError(
                f"maps[{name!r}]: got values other than 0 after the last token of example {i}, "
                f"which has {len(row)}; expected one value for each token; try with the texts of "
                "all ids, padding included."
            )
    return found


def _length(texts: Sequence[str], special: Collection[str], saliency: np.ndarray) -> int:
    """The number of tokens that are drawn: all but repetitions of the last special one."""
    length = len(texts)
    while (
        length > 1
        and texts[length - 1] in special
        and texts[length - 2] == texts[length - 1]
        and not saliency[length - 2 :].any()
    ):
        length -= 1
    return length if len(texts) - length >= _REPEATED - 1 else len(texts)


def _right_to_left(texts: Iterable[str]) -> bool:
    kinds = [unicodedata.bidirectional(character) for text in texts for character in text]
    right = sum(kind in ("R", "AL") for kind in kinds)
    return right > kinds.count("L")
