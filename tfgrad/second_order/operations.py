"""Tables of TensorFlow's operations: which have no, a wrong or an approximate second derivative."""

import re
from collections.abc import Mapping

_RESIZE = "use tfgrad.layers.Resizing or tfgrad.layers.UpSampling2D"
_RNN = "pass use_cudnn=False to the layer"
_QUANTISED = "apply the penalty to the float network and quantise afterwards"
_AVERAGE_OR_MAX = "use keras.layers.MaxPooling2D or AveragePooling2D"
_XLA_POOLING = (
    "use tfgrad.layers.MaxPooling1D, MaxPooling2D or MaxPooling3D, or train with jit_compile=False"
)
_SEGMENT = "gather first, then tf.math.unsorted_segment_sum or _mean"
_LSTM = "use keras.layers.LSTM"

# Operations that a first derivative emits and that have no derivative of their own.
# Registered as not differentiable: the second derivative loses their term and nothing is raised.
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
    "MaxPoolGradWithArgmax": _AVERAGE_OR_MAX,
    "FractionalAvgPoolGrad": _AVERAGE_OR_MAX,
    "FractionalMaxPoolGrad": _AVERAGE_OR_MAX,
    "Dilation2DBackpropFilter": _AVERAGE_OR_MAX,
    "Dilation2DBackpropInput": _AVERAGE_OR_MAX,
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

# Operations that run Python code (`tf.numpy_function`): the first derivative is dropped in silence.
PYTHON = {"PyFunc", "PyFuncStateless"}

# Operations whose second derivative XLA computes wrong in float32, and not at all in float64. Those
# of 32 other kinds, from convolutions to sorting, agree with the graph's to 1e-6.
WRONG_UNDER_XLA: Mapping[str, str] = {
    "MaxPoolGrad": _XLA_POOLING,
    "MaxPoolGradV2": _XLA_POOLING,
    "MaxPool3DGrad": _XLA_POOLING,
}

# Operations whose first derivative is wrong on a CPU, where entries of a window are equal. The
# steps and maps of tfgrad correct it; a tape of the user's own does not.
WRONG_AT_TIES: Mapping[str, str] = {"MaxPool3D": "use tfgrad.layers.MaxPooling3D"}

# What `make_safe` changes for an operation: the function of TensorFlow that is exchanged in the
# layer's call, or an option of the layer.
MENDED_BY: Mapping[str, str] = {
    "tf.nn.moments": "tf.nn.moments",
    "ResizeBilinearGrad": "tf.image.resize",
    "ResizeBicubicGrad": "tf.image.resize",
    "ResizeNearestNeighborGrad": "tf.image.resize",
    "ScaleAndTranslateGrad": "tf.image.resize",
    "ResizeArea": "tf.image.resize",
    "SoftsignGrad": "tf.nn.softsign",
    "LRNGrad": "tf.nn.local_response_normalization",
    **dict.fromkeys(WRONG_UNDER_XLA, "tf.nn.max_pool"),
    "MaxPool3D": "tf.nn.max_pool3d",
    **dict.fromkeys((name for name in ABSENT if name.startswith("Cudnn")), "use_cudnn=False"),
}

# Operations that draw from a generator TensorFlow advances, so that a second call differs.
STATEFUL_RANDOM = re.compile(
    r"RandomStandardNormal|RandomUniform(Int)?|TruncatedNormal|ParameterizedTruncatedNormal"
    r"|RandomGamma|RandomPoisson(V2)?|Multinomial|RandomShuffle|RandomCrop|NonDeterministicInts"
    r"|RngReadAndSkip|RngSkip|Stateful(StandardNormal|Uniform|TruncatedNormal|RandomBinomial)\w*"
    r"|SampleDistortedBoundingBox(V2)?"
)
STATE = re.compile(r"Assign\w*VariableOp|Resource(Scatter|StridedSliceAssign|Apply)\w*")
# A network whose only non-linearities are of the first kind has a zero Hessian almost everywhere.
PIECEWISE_LINEAR = {"Relu", "Relu6", "LeakyRelu"}
SMOOTH = re.compile(
    r"Softplus|Tanh|Sigmoid|Elu|Selu|Erfc?|Exp|(Log)?Softmax|Sin|Cos|Pow|While|Sqr.*"
)
