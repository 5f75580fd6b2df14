"""The networks that are tested, as --models names them."""

import functools
import os
from typing import Any

from absl import flags

from tfgrad import data, saliency
from tfgrad.errors import ArgumentError

from ..common import tested_networks

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Define which networks and images."""
    flags.DEFINE_list(
        "models",
        [],
        "NAME=PATH,…, where PATH is the work directory of a run, a .keras or .h5 file, the name of "
        "a network of keras.applications or KerasHub, or 'digits'.",
    )
    tested_networks.define_flags()
    flags.adopt_module_key_flags(tested_networks)  # for --help


def paths() -> dict[str, str]:
    """{name: path} of --models."""
    pairs = [text.partition("=") for text in FLAGS.models]
    names = [name for name, _, _ in pairs]
    if not pairs or not all(name and path for name, _, path in pairs):
        tried = "plain=runs/plain,score=runs/score"
        if len(FLAGS.models) == 1 and "=" not in (path := os.path.normpath(FLAGS.models[0])):
            tried = f"{os.path.splitext(os.path.basename(path))[0]}={path}"
        # Quoted, as the names in it are no flags.
        raise ArgumentError(
            f"--models: got {','.join(FLAGS.models) or 'none'}; expected NAME=PATH,…; try "
            f"'{tried}'."
        )
    if len(set(names)) < len(names):
        raise ArgumentError(f"--models: got the names {', '.join(names)}; expected different ones.")
    return {name: path for name, _, path in pairs}


def images() -> data.Dataset:
    """The images to test on; those of a folder in the size that the first network takes."""
    return tested_networks.images(next(iter(paths().values())))


class NetworkUnderTest(tested_networks.TestedNetwork):
    """A network that is tested, with the method that ranks its pixels."""

    @functools.cached_property
    def maps(self) -> Any:
        """The method of --method on this network."""
        return saliency.get(FLAGS.method)(self.network)


def load(name: str, path: str, images: data.Dataset) -> NetworkUnderTest:
    """Load a network and check that it takes these images; see `tested_networks.load`."""
    return NetworkUnderTest(**vars(tested_networks.load(name, path, images)))
