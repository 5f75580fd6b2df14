"""What `make_safe` did to a network."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfgrad.second_order.findings import Finding, counted, described


@dataclasses.dataclass(frozen=True)
class Change:
    """A layer or bare operation whose calls have correct second derivatives now.

    Attributes:
        path: Path of the layer in the network; its name before it is built.
        operation: The layer or bare operation.
        functions: What was changed: the functions of TensorFlow that its call used and that are
            exchanged inside of it, or the option `use_cudnn=False`.
    """

    path: str
    operation: Any
    functions: tuple[str, ...]

    @property
    def layer_class(self) -> str:
        """Class name of the layer, before and after."""
        return self.operation.__class__.__name__


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of `make_safe`.

    Attributes:
        network: Name of the network.
        changed: The layers and bare operations that were changed, in the order of the network.
        remaining: Faults that are left, as `inspect` reports them.
        checked: Whether the network was traced. False for one that does not define its inputs: its
            own layers' code is searched before the first penalised step, or by
            `make_safe(network, inputs)`.
    """

    network: str
    changed: tuple[Change, ...]
    remaining: tuple[Finding, ...] = ()
    checked: bool = True

    def __str__(self) -> str:
        alike: dict[tuple[str, str], list[str]] = {}
        for one in self.changed:
            key = one.layer_class, " and ".join(one.functions)
            alike.setdefault(key, []).append(repr(one.path))
        count = len(self.changed)
        lines = [f"network {self.network!r}: {count} layer{'' if count == 1 else 's'} made safe"]
        lines += [f"  {kind} ({how}): {counted(names)}" for (kind, how), names in alike.items()]
        if self.remaining:
            lines += ["not made safe:", *(f"  {line}" for line in described(self.remaining))]
        if not self.checked:
            lines.append(
                "not traced yet: got no inputs; try make_safe(network, inputs) with a batch of "
                "images or a tf.TensorSpec"
            )
        return "\n".join(lines)
