"""Checks of a SavedModel's graph, operation by operation, before TensorFlow runs any of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tfgrad.loading.rejection import rejection

# Operations that reach outside the graph: files, Python, other processes, input pipelines.
_UNSAFE_OPS = re.compile(
    r"File(?!name|spec)|Dataset|Iterator|Reader|LMDB|PyFunc|Remote|Rpc|TPU|Nccl|Collective|Summary|ImportEvent"
    r"|RecordInput|Remap|DistributedSave"
    r"|Xla(CallModule|CustomCall|Host|Send|Recv)|^_?(Host)?(Send|Recv)$|^_?Print|^Debug|^Write"
    # These read a file that an attribute names, or end the process.
    r"|^ImmutableConst$|UnigramCandidateSampler|^(Decode|Encode)Proto|^Skipgram$|^Abort$"
)
# These too, but every SavedModel saves and restores its own variables with them.
_SAVER_OPS = re.compile(r"^(Save|Restore)|^MergeV2Checkpoints$")


def check_graph(path: str, meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
    """Check the assets and every operation of a graph and of its functions.

    Raises:
        ModelError: An asset lies outside the SavedModel, or an operation reaches outside the graph
            and is not among those that save and restore the model's own variables.
    """
    for asset in meta_graph.asset_file_def:
        if os.path.isabs(asset.filename) or ".." in re.split(r"[/\\]", asset.filename):
            raise rejection(
                path,
                f"an asset outside it, {asset.filename!r}",
                "assets in its own directory",
                "do not open it",
            )
    graph = meta_graph.graph_def
    functions = {f.signature.name: list(f.node_def) for f in graph.library.function}
    calls = {name: _called(nodes) & set(functions) for name, nodes in functions.items()}

    # The saver's functions start at two nodes of the main graph; whatever else calls a function
    # with SaveV2 in it (a signature, say) would write files on request.
    saver = {
        tensor.split(":")[0]
        for tensor in (meta_graph.saver_def.save_tensor_name, meta_graph.saver_def.restore_op_name)
    }
    main = [node for node in graph.node if node.name not in saver]
    own = [node for node in graph.node if node.name in saver]
    roots = _called(main) | set(meta_graph.object_graph_def.concrete_functions)
    open_functions = _reach(roots & set(functions), calls)
    hidden = set(functions) - open_functions
    saving = _reach(_called(own) & hidden, calls) & hidden

    for nodes, may_save in [(main, False), (own, True)] + [
        (nodes, name in saving) for name, nodes in functions.items()
    ]:
        for node in nodes:
            unsafe = _UNSAFE_OPS.search(node.op) or (not may_save and _SAVER_OPS.search(node.op))
            if unsafe and node.op not in functions:
                raise rejection(
                    path,
                    f"the operation {node.op} ({node.name!r}), which reaches outside the model",
                    "a graph that only computes",
                    "export the model without it; tfgrad.export.save never writes such operations",
                )


def _called(nodes: Iterable[node_def_pb2.NodeDef]) -> set[str]:
    """Names of functions that nodes may call: as their operation or through an attribute."""
    names = set()
    for node in nodes:
        names.add(node.op)
        for value in node.attr.values():
            names.add(value.func.name)
            names.update(f.name for f in value.list.func)
    return names


def _reach(roots: set[str], calls: Mapping[str, set[str]]) -> set[str]:
    """The roots and every function that they call, directly or not."""
    found, stack = set(roots), list(roots)
    while stack:
        new = calls[stack.pop()] - found
        found |= new
        stack.extend(new)
    return found
