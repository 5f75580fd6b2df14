"""The options that every saliency method takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from tfgrad.errors import ArgumentError
from tfgrad.internal.arguments import one_of

CHANNELS = ("last", "first", "none")


class MethodOptions(TypedDict, total=False):
    """Keyword arguments of the constructor of every method, in addition to its own.

    Attributes:
        chunk_size: Number of examples of an eager call that are processed at once; None processes
            all. It bounds memory and does not change the maps.
        outputs: What the outputs mean: `"exclusive"`, `"binary"` (one logit f of class 1, −f of
            class 0), `"independent"` or `"regression"`; None for what the compiled loss says. See
            `tfgrad.models.output_meaning`.
        channels: Where the channels of an input are: `"last"`, `"first"` or `"none"`, as in grey
            images [B, H, W]; None for what the model's layers tell, see `axes.of_input`. Of several
            inputs, one of these for all with three axes or more, or {key: one of these}.
        target: What is explained if a call names nothing else: a class; or a
            `tfgrad.targets.Target` or a function from the outputs to [B], with which the model need
            not be a classifier. None for the predicted class.
        inputs: Keys (of a dict) or positions (of a list) of the inputs that are explained, or one
            of them; the others are held. None: all floats, and all token ids with an embedding.
        at: Names of layers, or one name, whose outputs are explained in the place of the inputs
            that they take. None finds the embeddings of integer inputs.
    """

    chunk_size: int | None
    outputs: Any
    channels: Any
    target: Any
    inputs: Any
    at: Any


def channels_of(given: Any) -> Any:
    """The option `channels`, checked.

    Raises:
        ArgumentError: It is none of `CHANNELS`, nor a dict of them.
    """
    if isinstance(given, Mapping):
        return {
            key: None if one is None else one_of("channels", one, CHANNELS)
            for key, one in given.items()
        }
    return None if given is None else one_of("channels", given, CHANNELS)


def check_channels(given: Any, keys: Sequence[Any], network: str) -> None:
    """Check that a dict of channels names inputs.

    Args:
        given: The option `channels`.
        keys: The keys or positions of the inputs; none of a single one.
        network: The network's name, for messages.

    Raises:
        ArgumentError: There is no such input, or there is one input and it has no key.
    """
    unknown = [key for key in given if key not in keys] if isinstance(given, Mapping) else []
    if unknown:
        expected = f"some of {[*keys]}, the inputs" if keys else "a string, for the one input"
        raise ArgumentError(
            f"channels: got one for {unknown[0]!r}; expected {expected} of model {network!r}."
        )


def keys(name: str, given: Any) -> Any:
    """The option `inputs` or `at` as JSON holds it: None, one key, or a list of keys.

    Raises:
        ArgumentError: It is no key and no list of keys.
    """
    if given is None or _is_key(given):
        return given
    if isinstance(given, list | tuple) and given and all(map(_is_key, given)):
        return list(given)
    expected = "a layer's name or several" if name == "at" else "keys or positions of inputs"
    raise ArgumentError(f"{name}: got {given!r}; expected {expected}, or None.")


def _is_key(given: Any) -> bool:
    return isinstance(given, str) or (isinstance(given, int) and not isinstance(given, bool))
