"""Series, sound, tables and point sets."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ..entries import INPUT_MAPS, NOT_BUILT, model
from ..heads import CLASSES, classifier

SERIES = (16, 4)


@model("k3im ViT 1-D", "k3im", maps=INPUT_MAPS)
def _vit_1d() -> keras.Model:
    from k3im.simple_vit_1d import SimpleViT1DModel

    return SimpleViT1DModel(
        seq_len=16, patch_size=4, num_classes=CLASSES, dim=8, depth=2, heads=2, mlp_dim=16,
        channels=4, dim_head=4,
    )  # fmt: skip


@model("k3im ConvMixer 1-D", "k3im")
def _convmixer_1d() -> keras.Model:
    from k3im.convmixer_1d import ConvMixer1DModel

    return ConvMixer1DModel(
        seq_len=32, n_features=3, filters=8, depth=2, kernel_size=5, patch_size=2,
        num_classes=CLASSES,
    )  # fmt: skip


@model("k3im FNet 1-D", "k3im", maps=INPUT_MAPS, remark="mixes tokens by Fourier transform")
def _fnet_1d() -> keras.Model:
    from k3im.fnet_1d import FNet1DModel

    return FNet1DModel(seq_len=16, patch_size=4, num_classes=CLASSES, dim=8, depth=2, channels=4)


@model("keras-tcn TCN", "keras-tcn", maps=INPUT_MAPS, remark="dilated causal convolutions")
def _tcn() -> keras.Model:
    from tcn import TCN

    return classifier(SERIES, TCN(8, dilations=(1, 2, 4), use_layer_norm=True))


@model("ncps CfC", "ncps", maps=INPUT_MAPS, remark="liquid cells in a loop")
def _cfc() -> keras.Model:
    from ncps.keras import CfC
    from ncps.wirings import AutoNCP

    return classifier((8, 3), CfC(AutoNCP(12, 4)))


@model(
    "ncps LTC",
    "ncps",
    maps=INPUT_MAPS,
    refused=dict.fromkeys(
        ("float64", "difference"), "was expected to be a double tensor but is a float tensor"
    ),
    remark="an ODE solver in a loop, with constants of float32",
)
def _ltc() -> keras.Model:
    from ncps.keras import LTC
    from ncps.wirings import AutoNCP

    return classifier((6, 3), LTC(AutoNCP(8, 4), ode_unfolds=3))


@model("keras-lmu LMU", "keras-lmu", maps=INPUT_MAPS, remark="Legendre memory")
def _lmu() -> keras.Model:
    from keras_lmu import LMU

    cell = keras.layers.SimpleRNNCell(6)
    return classifier((12, 3), LMU(memory_d=2, order=4, theta=8, hidden_cell=cell))


@model("minGRU", "mingru-keras", maps=INPUT_MAPS, remark="associative scan")
def _mingru() -> keras.Model:
    from mingru_keras import MinGRU

    # In a graph, the scan's result has no shape, and another layer would not take it.
    def body(x: Any) -> Any:
        for _ in range(2):
            x = keras.ops.reshape(MinGRU(8)(x), (-1, 12, 8))
        return x

    return classifier((12, 3), body)


@model(
    "keras-nac attention",
    "keras-nac",
    maps=INPUT_MAPS,
    refused=NOT_BUILT,
    remark="attention as an ODE, with constants of float32",
)
def _nac() -> keras.Model:
    from keras_nac.layers.neuronal_attention_circuit import NAC

    series = keras.Input((8, 4))
    x = keras.layers.Dense(8)(series)
    x = NAC(d_model=8, num_heads=2, topk=4, return_sequences=True)(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(series, keras.layers.Dense(CLASSES)(x))


@model("kapre log-mel", "kapre", maps=INPUT_MAPS, remark="sound: complex tensors inside")
def _kapre() -> keras.Model:
    from kapre.composed import get_melspectrogram_layer

    front = get_melspectrogram_layer(
        input_shape=(512, 1),
        n_fft=64,
        hop_length=32,
        sample_rate=4000,
        n_mels=12,
        return_decibel=True,
    )
    sound = keras.Input((512, 1))
    x = keras.layers.Conv2D(6, 3, activation="relu")(front(sound))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(sound, keras.layers.Dense(CLASSES)(x))


@model("efficient-kan network", "keras-efficient-kan", maps=INPUT_MAPS, remark="a table")
def _efficient_kan() -> keras.Model:
    from keras_efficient_kan import KANLinear

    table = keras.Input((6,))
    x = KANLinear(8)(table)
    return keras.Model(table, KANLinear(CLASSES)(x))


@model("keras-rs cross network", "keras-rs", maps=INPUT_MAPS, remark="a table")
def _cross() -> keras.Model:
    from keras_rs.layers import FeatureCross

    table = keras.Input((6,))
    x = FeatureCross(projection_dim=3)(table, table)
    x = FeatureCross()(table, x)
    return keras.Model(table, keras.layers.Dense(CLASSES)(x))


@model("keras-proba SNGP", "keras-proba", maps=INPUT_MAPS, remark="random Fourier features")
def _sngp() -> keras.Model:
    from keras_proba.layers import RandomFourierFeatures, SpectralNormalization

    table = keras.Input((6,))
    dense = keras.layers.Dense(8, activation="relu")
    # The other mode writes the weights in a call, so that differences see other ones.
    x = SpectralNormalization(dense, mode="reparameterization")(table)
    x = RandomFourierFeatures(16, scale=1.0)(x)
    return keras.Model(table, keras.layers.Dense(CLASSES)(x))


@model("BayesFlow DeepSet", "bayesflow", maps=INPUT_MAPS, remark="summary of a point set")
def _deep_set() -> keras.Model:
    from bayesflow.networks import DeepSet

    summary = DeepSet(
        summary_dim=6, depth=1,
        mlp_widths_equivariant=(8, 8), mlp_widths_invariant_inner=(8, 8),
        mlp_widths_invariant_outer=(8, 8), mlp_widths_invariant_last=(8, 8), dropout=0.0,
    )  # fmt: skip
    return classifier((10, 3), summary)


@model("BayesFlow SetTransformer", "bayesflow", maps=INPUT_MAPS, remark="summary of a point set")
def _set_transformer() -> keras.Model:
    from bayesflow.networks import SetTransformer

    summary = SetTransformer(
        summary_dim=6, embed_dims=(8, 8), num_heads=(2, 2), mlp_widths=(16, 16),
        mlp_depths=(1, 1), dropout=0.0,
    )  # fmt: skip
    return classifier((10, 3), summary)


@model("keras-geometric GATv2", "keras-geometric", maps=INPUT_MAPS, remark="graphs, two at once")
def _gat() -> keras.Model:
    from keras_geometric.layers import GATv2Conv

    ring = np.array([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]], "int32")

    class Graphs(keras.layers.Layer):
        """Two graphs [2, nodes, features] as one that is not connected."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution = GATv2Conv(4, heads=2)

        def call(self, graphs: Any) -> Any:
            nodes = keras.ops.reshape(graphs, (12, 4))
            edges = keras.ops.convert_to_tensor(np.concatenate([ring, ring + 6], 1))
            return keras.ops.reshape(self.convolution([nodes, edges]), (2, 6, 8))

    graphs = keras.Input((6, 4), batch_size=2)
    x = keras.layers.GlobalAveragePooling1D()(Graphs()(graphs))
    return keras.Model(graphs, keras.layers.Dense(CLASSES)(x))
