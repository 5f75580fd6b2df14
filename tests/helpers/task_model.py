"""A model with a preprocessor of its own, as the tasks of KerasHub have."""

import keras
import numpy as np
import tensorflow as tf


@keras.saving.register_keras_serializable("tests")
class Converter(keras.layers.Layer):
    """Pixels from 0 to 255 of any size, resized and scaled; labels and weights pass."""

    def __init__(self, size=(8, 9), scale=1 / 127.5, offset=-1.0, **kwargs):
        super().__init__(**kwargs)
        self.size, self.scale, self.offset = tuple(size), scale, offset

    def call(self, x, y=None, sample_weight=None):
        x = tf.image.resize(tf.cast(x, tf.float32), self.size) * self.scale + self.offset
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    def get_config(self):
        return super().get_config() | {
            "size": self.size,
            "scale": self.scale,
            "offset": self.offset,
        }


@keras.saving.register_keras_serializable("tests")
class Task(keras.Model):
    """A functional model whose `predict` computes `task(task.preprocessor(x))`."""

    def __init__(self, network, preprocessor=None, **kwargs):
        super().__init__(inputs=network.inputs, outputs=network.outputs, **kwargs)
        self.__dict__.update(_network=network, _own=preprocessor)  # past Keras's tracking

    @property
    def preprocessor(self):
        return self._own

    @preprocessor.setter
    def preprocessor(self, value):
        self.__dict__["_own"] = value

    def preprocess_samples(self, x, y=None, sample_weight=None):
        if self.preprocessor is None:
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return self.preprocessor(x, y=y, sample_weight=sample_weight)

    def predict(self, x, **kwargs):
        return super().predict(self.preprocess_samples(np.asarray(x)), **kwargs)

    def get_config(self):
        return {
            "network": keras.saving.serialize_keras_object(self._network),
            "preprocessor": keras.saving.serialize_keras_object(self.preprocessor),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("network", "preprocessor")
        }
        return cls(**parts, name=config["name"])


def task(shape=(8, 9, 3), activation=None, **options):
    """A task with random weights on images of a size."""
    inputs = keras.Input(shape)
    x = keras.layers.Conv2D(5, 3, activation="softplus", bias_initializer="normal")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(4, activation, bias_initializer="normal")(x)
    return Task(keras.Model(inputs, outputs), Converter(**options), name="task")


def photographs(count=5, size=(12, 7), seed=0):
    """Pixels from 0 to 255, of another size than the task's."""
    random = np.random.default_rng(seed)
    return random.uniform(0, 255, (count, *size, 3)).astype("float32")
