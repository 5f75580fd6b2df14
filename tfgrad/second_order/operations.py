"""The operations second_order judges: which are unsafe, and where they stand in a graph.

Tables of TensorFlow's operations, and a walk over a GraphDef with its function bodies that
attributes every node to a Keras layer.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tfgrad.internal.keras_private import flatten_layers

_RESIZE = "use tfgrad.layers.Resizing or tfgrad.layers.UpSampling2D"
_RNN = "pass use_cudnn=False to the layer"
_QUANTISED = "apply the penalty to the float network and quantise afterwards"
_POOLING = "use keras.layers.MaxPooling2D or AveragePooling2D"
_SEGMENT = "gather first, then tf.math.unsorted_segment_sum or _mean"
_LSTM = "use keras.layers.LSTM"

# Operations that a first derivative emits and that have no derivative of their own.
# Registered as not differentiable: the second derivative loses their term without a word.
SILENT: Mapping[str, str] = {
    "ResizeBilinearGrad": _RESIZE,
    "FakeQuantWithMinMaxArgsGradient": _QUANTISED,
    "FakeQuantWithMinMaxVarsGradient": _QUANTISED,
    "FakeQuantWithMinMaxVarsPerChannelGradient": _QUANTISED,
}
# Not registered at all: differentiating them raises a LookupError that names no layer.
ABSENT: Mapping[str, str] = {
    "ResizeBicubicGrad": _RESIZE,
    "ResizeNearestNeighborGrad": _RESIZE,
    "ScaleAndTranslateGrad": _RESIZE,  # lanczos, gaussian, and everything with antialias
    "CropAndResizeGradBoxes": f"crop by slicing, and {_RESIZE}",
    "CropAndResizeGradImage": f"crop by slicing, and {_RESIZE}",
    "CudnnRNNBackprop": _RNN,
    "CudnnRNNBackpropV2": _RNN,
    "CudnnRNNBackpropV3": _RNN,
    "BlockLSTMGrad": _LSTM,
    "BlockLSTMGradV2": _LSTM,
    "SoftsignGrad": "write x / (1 + keras.ops.abs(x))",
    "LRNGrad": "write it with keras.ops, or use tfgrad.layers.GroupNormalization",
    "BatchNormWithGlobalNormalizationGrad": "use tfgrad.layers.BatchNormalization",
    "MaxPoolGradWithArgmax": _POOLING,
    "FractionalAvgPoolGrad": _POOLING,
    "FractionalMaxPoolGrad": _POOLING,
    "Dilation2DBackpropFilter": _POOLING,
    "Dilation2DBackpropInput": _POOLING,
    "IgammaGradA": "keep the first argument of igamma constant",
    "RandomGammaGrad": "keep the shape parameter of the gamma samples constant",
    **{f"SparseSegment{kind}Grad": _SEGMENT for kind in ("Sum", "Mean", "SqrtN")},
    **{f"SparseSegment{kind}GradV2": _SEGMENT for kind in ("Sum", "Mean", "SqrtN")},
    "SparseFillEmptyRowsGrad": "use dense inputs",
    "SparseSliceGrad": "use dense inputs",
}

# Operations whose gradient TensorFlow only approximates: already the input-gradient is wrong.
INEXACT: Mapping[str, str] = {
    # Resamples the incoming gradient with the inverse map, which is not the adjoint.
    f"ImageProjectiveTransformV{version}": "augment in the input pipeline instead of the network"
    for version in (2, 3)
}

# Operations that draw from a generator TensorFlow advances, so that a second call differs.
STATEFUL_RANDOM = re.compile(
    r"RandomStandardNormal|RandomUniform(Int)?|TruncatedNormal|ParameterizedTruncatedNormal"
    r"|RandomGamma|RandomPoisson(V2)?|Multinomial|RandomShuffle|RandomCrop|NonDeterministicInts"
    r"|RngReadAndSkip|RngSkip|Stateful(StandardNormal|Uniform|TruncatedNormal|RandomBinomial)\w*"
    r"|SampleDistortedBoundingBox(V2)?"
)
STATE = re.compile(r"Assign\w*VariableOp|Resource(Scatter|StridedSliceAssign|Apply)\w*")
# A network whose only non-linearities are of the first kind has no second derivative to speak of.
PIECEWISE_LINEAR = {"Relu", "Relu6", "LeakyRelu"}
SMOOTH = re.compile(
    r"Softplus|Tanh|Sigmoid|Elu|Selu|Erfc?|Exp|(Log)?Softmax|Sin|Cos|Pow|While|Sqr.*"
)
_PROBABILITIES = {"Softmax", "Sigmoid"}
_TRANSPARENT = {"Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "EnsureShape"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


class Layers:
    """The layers of a network by the name scopes their calls open."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self._owners: dict[str, Any] = {"": network}

    def owner(self, path: str) -> Any:
        """The innermost layer whose call opened a name scope on the path of a node.

        Keras opens the scope twice per call, once to build, so TensorFlow appends `_1` or more to
        the name of the call's own; a component that equals a layer's name is a bare operation's.
        """
        scope = path.rpartition("/")[0]
        if scope not in self._owners:
            outer = self.owner(scope)
            name, _, number = scope.rpartition("/")[2].rpartition("_")
            self._owners[scope] = (self._inside(outer, name) if number.isdigit() else None) or outer
        return self._owners[scope]

    @staticmethod
    def _inside(outer: Any, name: str) -> Any:
        for recursive in (False, True):  # names need not be unique: the nearer one first
            for layer in flatten_layers(outer, include_self=False, recursive=recursive):
                if layer.name == name:
                    return layer
        return None


class Visited(NamedTuple):
    """An operation of a graph, and the layer that it belongs to."""

    node: Any
    owner: Any
    stopped: bool  # the stop_gradient of a mean inside a variance of the input


def walk(
    layers: Layers,
    nodes: Iterable[Any],
    functions: Mapping[str, Any],
    dependent: set[str],
    scope: str = "",
    seen: set[tuple[str, int, bool]] | None = None,
) -> Iterator[Visited]:
    """Every node, with its layer, in the order of the graph; bodies after the node that calls them.

    Args:
        layers: of the network.
        nodes: of a graph or of a function body.
        functions: the library.
        dependent: names of the tensors that depend on the differentiated inputs.
        scope: name scope of the calling node.
        seen: bodies visited already, by name, owner and whether they depend on the inputs.
    """
    seen = set() if seen is None else seen
    nodes = list(nodes)
    by_name = {node.name: node for node in nodes}
    dependent = _closure(nodes, dependent)
    stopped = _stopped_means(nodes, by_name, dependent)
    for node in nodes:
        path = scope + node.name
        owner = layers.owner(path)
        if owner is layers.network and node.op in _CALLS:
            # A backward call carries no scope; its forward call, whose values it takes, does.
            forward = (by_name.get(_source(i)) for i in node.input)
            named = [scope + f.name for f in forward if f is not None and f.op in _CALLS]
            path = next((p for p in named if layers.owner(p) is not layers.network), path)
            owner = layers.owner(path)
        yield Visited(node, owner, node.name in stopped)
        for function in _bodies(node, functions):
            arguments = [a.name for a in function.signature.input_arg]
            sources = [_source(i) for i in node.input if not i.startswith("^")]
            if node.op in _CALLS:  # argument by argument; loops and branches as a whole
                inner = {a for a, s in zip(arguments, sources, strict=False) if s in dependent}
            else:
                inner = set(arguments) if node.name in dependent else set()
            key = (function.signature.name, id(owner), bool(inner))
            if key not in seen:
                seen.add(key)
                yield from walk(layers, function.node_def, functions, inner, path + "/", seen)


def _source(tensor: str) -> str:
    """The node (or argument) a tensor comes from: `node:out:0`, `node:1`, `^node` → `node`."""
    return tensor.lstrip("^").split(":")[0]


def _bodies(node: Any, functions: Mapping[str, Any]) -> Iterator[Any]:
    for attribute in node.attr.values():
        called = [attribute.func] if attribute.HasField("func") else list(attribute.list.func)
        yield from (functions[f.name] for f in called if f.name in functions)


def _closure(nodes: list[Any], dependent: set[str]) -> set[str]:
    dependent, size = set(dependent), -1
    while size != len(dependent):  # one pass where nodes are sorted, as they nearly always are
        size = len(dependent)
        for node in nodes:
            if any(_source(i) in dependent for i in node.input if not i.startswith("^")):
                dependent.add(node.name)
    return dependent


def _stopped_means(nodes: list[Any], by_name: Mapping[str, Any], dependent: set[str]) -> set[str]:
    """StopGradient nodes with the pattern of tf.nn.moments: (x − stop(mean(x)))².

    The pattern, not the name scope, which the caller of tf.nn.moments chooses. Of a function of the
    weights alone, as in weight standardisation, the penalty takes one derivative: nothing is lost.
    """

    def origin(tensor: str, through: tuple[str, ...] = ("Identity", "Cast")) -> Any:
        node = by_name.get(_source(tensor))
        while node is not None and node.op in through:
            node = by_name.get(_source(node.input[0]))
        return node

    stopped = set()
    for node in nodes:
        if node.op != "SquaredDifference":
            continue
        for stop in (origin(i) for i in node.input):
            if stop is None or stop.op != "StopGradient" or stop.name not in dependent:
                continue
            mean = origin(stop.input[0])
            others = [_source(i) for i in node.input if origin(i) is not stop]
            if mean is not None and mean.op == "Mean" and _source(mean.input[0]) in others:
                stopped.add(stop.name)
    return stopped


def find_probabilities(
    layers: Layers, nodes: Iterable[Any], functions: Mapping[str, Any], tensor: str
) -> str | None:
    """The layer whose softmax or sigmoid yields a tensor, up to casts and reshapes."""
    frames = [({n.name: n for n in nodes}, "", None)]  # nodes, scope, the call (None: top)
    while True:
        by_name, scope, call = frames[-1]
        node = by_name.get(_source(tensor))
        if node is None:  # an argument of the function: go on in the caller
            if call is None:
                return None
            frames.pop()
            arguments = [a.name for a in next(_bodies(call, functions)).signature.input_arg]
            tensor = call.input[arguments.index(_source(tensor))]
        elif node.op in _TRANSPARENT:
            tensor = node.input[0]
        elif node.op in _CALLS:
            function = next(_bodies(node, functions))
            index = int(tensor.rsplit(":", 1)[1]) if ":" in tensor else 0
            tensor = function.ret[function.signature.output_arg[index].name]
            body = {n.name: n for n in function.node_def}
            frames.append((body, f"{scope}{node.name}/", node))
        elif node.op in _PROBABILITIES:
            owner = layers.owner(scope + node.name)
            return f"{owner.name}/{node.op}" if owner is layers.network else owner.name
        else:
            return None
