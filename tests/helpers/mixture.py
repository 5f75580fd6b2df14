"""A classifier whose logits are known densities: logit k of x is log p(x, y=k), a Gaussian mixture.

It is the oracle for everything that interprets a logit as an implicit density: its gradient, the
trace of its Hessian, its density ratios under noise and its samples have closed forms, in NumPy.
"""

import dataclasses

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Mixture:
    """p(x, y=k) = Σ_m w_km N(x; μ_km, s_km² I), the components of K classes.

    Attributes:
        means: The means μ, [K, M, height, width, channels], or any other image shape.
        deviations: The standard deviations s, [K, M].
        weights: The weights w, [K, M]; they add up to 1 over all classes.
    """

    means: np.ndarray
    deviations: np.ndarray
    weights: np.ndarray

    @property
    def shape(self):
        """The shape of one image."""
        return self.means.shape[2:]

    @property
    def classes(self):
        """The number of classes K."""
        return len(self.means)

    def network(self, dtype="float64", name="mixture"):
        """A Keras model of stock layers with logits log p(x, y), [batch, K].

        ‖x − μ‖² is multiplied out, so a float32 model is correct to about 1e-7 ‖x‖²/s².
        """
        kernel, bias = self._coefficients()
        x = keras.Input(self.shape, dtype=dtype)
        flat = keras.layers.Flatten(dtype=dtype)(x)
        squares = keras.ops.sum(keras.ops.square(flat), axis=-1, keepdims=True)
        both = keras.layers.Concatenate(dtype=dtype)([flat, squares])
        dense = keras.layers.Dense(bias.size, dtype=dtype, name="components")
        components = keras.layers.Reshape(self.weights.shape, dtype=dtype)(dense(both))
        logits = keras.ops.logsumexp(components, axis=-1)
        dense.set_weights([kernel, bias])
        return keras.Model(x, logits, name=name)

    def log_density(self, x, sigma=0.0):
        """log of p(x, y=k) convolved with N(0, σ²I), float64 [batch, K]."""
        return _log_sum_exp(self._log_components(x, sigma))

    def gradient(self, x):
        """∇x log p(x, y=k), float64 [batch, K, …image]."""
        responsibility = self._responsibility(x)
        total = np.sum(responsibility[..., None] * self._slopes(x), axis=2)
        return total.reshape(len(x), self.classes, *self.shape)

    def hessian_trace(self, x):
        """tr ∇²x log p(x, y=k), float64 [batch, K]: Δ log p = Δp / p − ‖∇ log p‖²."""
        size = np.prod(self.shape)
        curvature = np.sum(self._slopes(x) ** 2, axis=-1) - size / self.deviations**2
        squares = np.sum(self.gradient(x).reshape(len(x), self.classes, -1) ** 2, axis=-1)
        return np.sum(self._responsibility(x) * curvature, axis=-1) - squares

    def density_ratio(self, x, sigma):
        """E exp(f_k(x + η) − f_k(x)) over η ~ N(0, σ²I), float64 [batch, K]."""
        return np.exp(self.log_density(x, sigma) - self.log_density(x))

    def sample(self, k, count, seed=0):
        """Images of p(x | y=k), float64 [count, …image]."""
        random = np.random.default_rng(seed)
        weights = self.weights[k] / self.weights[k].sum()
        component = random.choice(len(weights), count, p=weights)
        noise = random.standard_normal((count, np.prod(self.shape)))
        noise *= self.deviations[k, component, None]
        return self.means[k, component] + noise.reshape(count, *self.shape)

    def _coefficients(self):
        """Kernel and bias of the components as linear functions of (x, ‖x‖²)."""
        means = self.means.reshape(self.deviations.size, -1)
        variances = self.deviations.reshape(-1, 1) ** 2
        kernel = np.concatenate([means / variances, -0.5 / variances], axis=1).T
        return kernel, self._log_components(np.zeros((1, *self.shape)), 0.0).reshape(-1)

    def _offsets(self, x):
        """x − μ, [batch, K, M, D]."""
        x = np.asarray(x, np.float64).reshape(len(x), 1, 1, -1)
        return x - self.means.reshape(*self.deviations.shape, -1)

    def _log_components(self, x, sigma):
        """log w N(x; μ, (s² + σ²) I), [batch, K, M]."""
        variances = self.deviations**2 + sigma**2
        squares = np.sum(self._offsets(x) ** 2, axis=-1) / variances
        constant = np.prod(self.shape) * np.log(2 * np.pi * variances)
        return np.log(self.weights) - (squares + constant) / 2

    def _responsibility(self, x):
        """p(m | x, k), [batch, K, M]."""
        return np.exp(self._log_components(x, 0.0) - self.log_density(x)[..., None])

    def _slopes(self, x):
        """∇x of each component's logarithm, [batch, K, M, D]."""
        return -self._offsets(x) / self.deviations[..., None] ** 2


def _log_sum_exp(values):
    highest = values.max(axis=-1, keepdims=True)
    return np.log(np.sum(np.exp(values - highest), axis=-1)) + highest[..., 0]


def gaussians(classes=3, components=1, shape=(4, 4, 1), deviation=0.3, seed=0):
    """A mixture with means drawn from [0.2, 0.8] and equal weights.

    Args:
        classes: The number of classes K.
        components: The number of components M of each class.
        shape: The shape of one image.
        deviation: The standard deviation s of every component; one number, or [K, M].
        seed: The seed of the means.
    """
    means = np.random.default_rng(seed).uniform(0.2, 0.8, (classes, components, *shape))
    table = (classes, components)
    weights = np.full(table, 1 / (classes * components))
    return Mixture(means, np.broadcast_to(np.float64(deviation), table), weights)
