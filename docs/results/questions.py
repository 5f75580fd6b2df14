"""Contrasts, regions, known derivatives and masks on data: docs/results/questions.md.

    python docs/results/questions.py --data_dir=DATA_DIR

DATA_DIR holds cifar10, tf_flowers and mnist as tensorflow_datasets stores them. Trained networks
and the numbers of each part are kept in runs/questions, so that an interrupted run resumes.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfgrad
from tfgrad import data, figures, penalties, saliency, targets

L = keras.layers
HERE = pathlib.Path(__file__).parent
RUNS = pathlib.Path("runs/questions")
SEEDS = (0, 1, 2)
SIDE, WINDOW = 64, 7  # of photographs, and of the majority that makes their masks
STEP = 1e-6  # of central differences
UPDATES = 3000
LAMBDAS = {"derivatives": (0.01, 0.1, 1.0), "mask": (10.0, 100.0, 1000.0)}


def trained(name: str, build: Callable[[], keras.Model], x: Any, y: Any, epochs: int) -> Any:
    """A network trained on images and labels, from its file if it exists."""
    path = RUNS / f"{name}.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(0)
    network, steps = build(), epochs * -(-len(x) // 64)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    network.fit(x, y, 64, epochs, verbose=2)
    network.save(path)
    return network


def largest(values: Any) -> float:
    """The largest absolute value."""
    return float(np.max(np.abs(values)))


def in_float64(network: keras.Model, build: Callable[[], keras.Model]) -> keras.Model:
    """The same network in float64."""
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    wide = build()
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    wide.set_weights(network.get_weights())
    return wide


# Why A and not B


def vgg() -> keras.Model:
    """The classifier of CIFAR-10."""
    return tfgrad.models.vgg(6, (32, 32, 3), classes=10, width=0.25)


def linear_methods(network: keras.Model) -> dict[str, saliency.Method]:
    """Methods whose raw terms are linear in the gradients of the target."""
    signed = saliency.InputGradient(network, reduce="sum")
    parts = {"part": "signed", "rescale": None}
    return {
        "input-gradient, signed": signed,
        "input × gradient": saliency.InputTimesGradient(network),
        "integrated gradients": saliency.IntegratedGradients(network, steps=20),
        "SmoothGrad, signed": saliency.Smooth(signed, samples=10),
        "FullGrad, signed": saliency.FullGrad(network, **parts),
        "SimpleFullGrad, signed": saliency.SimpleFullGrad(network, **parts),
        "LayerMap": saliency.LayerMap(network),
    }


def off(contrast: Any, a: Any, b: Any) -> float:
    """The largest abs(contrast − (a − b)) of a nest, relative to the largest entry of a and b."""
    flat = [tf.nest.flatten(nest) for nest in (contrast, a, b)]
    error = max(largest(c - (p - q)) for c, p, q in zip(*flat, strict=True))
    return error / max(largest(t) for t in (*flat[1], *flat[2]))


def contrasts(data_dir: str | None) -> dict[str, Any]:
    """map(A − B) against map(A) − map(B) of a trained VGG, and a picture."""
    train, test = (data.load("cifar10", s, data_dir) for s in ("train[:20000]", "test[:2000]"))
    pixels, tested = (part.images.astype("float32") / 255 for part in (train, test))
    network = trained("cifar10", vgg, pixels, train.labels, 8)
    wide = in_float64(network, vgg)
    wide.compile(loss=network.loss)  # which says what the outputs are
    logits = network.predict(tested, verbose=0)
    ranked = np.argsort(-logits, 1).astype("int32")
    x, a, b = tested[:16], ranked[:16, 0], ranked[:16, 1]
    asked = (targets.Contrast(a, b), a, b)

    def maps(methods: dict[str, saliency.Method]) -> dict[str, float]:
        return {name: off(*(method(x, t) for t in asked)) for name, method in methods.items()}

    x64, tensors = tf.constant(x, "float64"), (asked[0], tf.constant(a), tf.constant(b))
    cam = {"Grad-CAM, before its ReLU": saliency.GradCAM(wide)}
    others = ("input_gradient", "fullgrad", "gradcam", "guided_backprop")
    found: dict[str, Any] = {
        "accuracy": float((ranked[:, 0] == test.labels).mean()),
        "maps, float32": maps(linear_methods(network)),
        "maps that are not linear": maps({n: saliency.get(n)(network) for n in others}),
        "terms, float64": {
            name: off(*(method.terms(x64, target) for target in tensors))
            for name, method in {**linear_methods(wide), **cam}.items()
        },
    }
    for dtype, net in (("float32", network), ("float64", wide)):
        parts = [tfgrad.full_gradients(net, x.astype(dtype), target) for target in asked]
        found[f"full_gradients, {dtype}"] = {
            "completeness": largest(parts[0].completeness_error()),
            "input": off(*(part.input_term for part in parts)),
            **{
                call: off(*(part.bias_gradients[call] for part in parts))
                for call in parts[0].bias_gradients
            },
        }
    margins = -np.diff(-np.sort(-logits, 1)[:, :2], axis=1)[:, 0]
    few = np.flatnonzero(margins < 1)[:4]
    x, a, b = tested[few], ranked[few, 0], ranked[few, 1]
    method = saliency.FullGrad(network, part="signed", rescale=None)
    drawn = {"A": method(x, a), "B": method(x, b), "A and not B": method(x, targets.Contrast(a, b))}
    notes = [
        f"A: {test.classes[i]} {f[i]:.1f}\nB: {test.classes[j]} {f[j]:.1f}"
        for i, j, f in zip(a, b, logits[few], strict=True)
    ]
    labels = [test.classes[k] for k in test.labels[few]]
    figures.saliency_grid(HERE / "questions_contrast.png", x, drawn, labels=labels, notes=notes)
    return found


# What makes this region a flower


def flower_masks(photos: np.ndarray) -> np.ndarray:
    """1 where most of a window is red, pink, orange or yellow, [n, height, width].

    Args:
        photos: [n, height, width, 3] in [0, 1].
    """
    red, green, blue = np.moveaxis(photos, -1, 0)
    warm = (red > 0.45) & (red >= green) & (red - np.minimum(green, blue) > 0.25)
    share = tf.nn.avg_pool2d(warm[..., np.newaxis].astype("float32"), WINDOW, 1, "SAME")
    return (share.numpy()[..., 0] > 0.5).astype("int32")


def u_net() -> keras.Model:
    """A U-Net of three levels with two classes, 1 the flower."""

    def convolved(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = L.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return x

    x = inputs = keras.Input((SIDE, SIDE, 3))
    kept = []
    for filters in (8, 16):
        kept.append(convolved(x, filters))
        x = L.MaxPooling2D()(kept[-1])
    x = convolved(x, 32)
    for filters in (16, 8):
        x = convolved(L.Concatenate()([L.UpSampling2D()(x), kept.pop()]), filters)
    return keras.Model(inputs, L.Conv2D(2, 1, name="logits")(x), name="u_net")


def differences(network: keras.Model, x: np.ndarray, w: np.ndarray, g: np.ndarray) -> dict:
    """Errors of the gradient g of Σ w f_1 / Σ w, relative to the largest of 64 derivatives."""
    weights = tf.constant(w / w.sum((1, 2), keepdims=True), "float64")

    @tf.function
    def value(at: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(network(at, training=False)[..., 1] * weights, (1, 2))

    rng = np.random.default_rng(0)
    flat = g.reshape(len(g), -1)
    lines = rng.normal(size=(64, flat.shape[1]))
    # Entries of the image on which the region of every example depends.
    places = rng.choice(np.flatnonzero((flat != 0).all(0)), 64, replace=False)
    found = {}
    for kind, ways in (("directions", lines), ("pixels", np.eye(flat.shape[1])[places])):
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        steps = [STEP * way.reshape(g.shape[1:]) for way in ways]
        numerical = [(value(x + step) - value(x - step)) / (2 * STEP) for step in steps]
        exact = ways @ flat.T
        errors = np.abs(np.array(numerical) - exact) / np.abs(exact).max(0)
        found |= {f"{kind}, median": float(np.median(errors)), f"{kind}, max": largest(errors)}
    return found


def regions(data_dir: str | None) -> dict[str, Any]:
    """The decomposition and the gradient of a region's mean logit, and a picture."""
    splits = ("train[:2500]", "train[2500:2900]")
    sets = [data.load("tf_flowers", split, data_dir, image_size=(SIDE, SIDE)) for split in splits]
    photos = [one.images / np.float32(255) for one in sets]
    masks = [flower_masks(part) for part in photos]
    network = trained("flowers", u_net, photos[0], masks[0], 10)
    wide = in_float64(network, u_net)
    wins = network.predict(photos[1], verbose=0).argmax(-1) == 1
    flowers = masks[1] == 1
    found: dict[str, Any] = {
        "iou": float((wins & flowers).sum() / (wins | flowers).sum()),
        "share of flower": float(flowers.mean()),
    }
    sizes = np.minimum(wins.mean((1, 2)), flowers.mean((1, 2)))
    few = np.flatnonzero((sizes > 0.1) & (sizes < 0.4))[:8]
    # Less than half a grey level: where neighbours are equal, max-pooling has no derivative.
    dither = np.random.default_rng(0).uniform(-0.5, 0.5, photos[1][few].shape) / 256
    x = (photos[1][few] + dither).astype("float32")
    asked = {
        "array": (targets.Region(1, flowers[few].astype("float32"), each=True), flowers[few]),
        "predicted": (targets.Region(1), network.predict(x, verbose=0).argmax(-1) == 1),
    }
    for name, (target, w) in asked.items():
        of_two = {
            dtype: tfgrad.full_gradients(net, x.astype(dtype), target)
            for dtype, net in (("float32", network), ("float64", wide))
        }
        mean = np.sum(network.predict(x, verbose=0)[..., 1] * w, (1, 2)) / w.sum((1, 2))
        gradient = of_two["float64"].input_gradient.numpy()
        found[name] = {
            **{f"completeness, {d}": largest(f.completeness_error()) for d, f in of_two.items()},
            "score": largest(of_two["float32"].score / mean - 1),
            **differences(wide, x.astype("float64"), w, gradient),
            "gradient inside": float(np.abs(gradient)[w].sum() / np.abs(gradient).sum()),
            "pixels inside": float(w.mean()),
        }
    target, outlined = asked["predicted"]
    maps = {
        "FullGrad": saliency.FullGrad(network, target=target)(x[:4]),
        "input × gradient": saliency.InputTimesGradient(network, target=target)(x[:4]),
    }
    figures.saliency_grid(HERE / "questions_region.png", x[:4], maps, regions=outlined[:4])
    return found


# Known derivatives


def styblinski_tang(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values [n, 1], of mean 0 and variance 1, and slopes [n, 2]; the square is [-1, 1]²."""
    u = 5 * x
    values = 0.5 * np.sum(u**4 - 16 * u**2 + 5 * u, 1, keepdims=True)
    slopes = 5 * (2 * u**3 - 16 * u + 2.5)
    return (values + 8.333) / 45.35, slopes / 45.35


def surface() -> keras.Model:
    """A network of two numbers."""
    dense = [L.Dense(64, "tanh") for _ in range(2)]
    return keras.Sequential([keras.Input((2,)), *dense, L.Dense(1)])


def sobolev(data_dir: str | None) -> dict[str, Any]:
    """Errors between the points of value and slopes, by λ, and the cost of a step."""
    axis = np.linspace(-1, 1, 41, dtype="float32")
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    cases = [(0.0, 30), (0.0, 90), *((weight, 30) for weight in LAMBDAS["derivatives"])]
    found: dict[str, Any] = {}
    for weight, count in cases:
        rows = []
        for seed in SEEDS:
            x = np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype("float32")
            values, slopes = (np.tile(part, (100, 1)) for part in styblinski_tang(x))
            examples = penalties.Examples(np.tile(x, (100, 1)), {"derivatives": slopes})
            keras.utils.set_random_seed(seed)
            network = surface()
            given = [penalties.DerivativeMatching(weight)] if weight else []
            model = tfgrad.PenalizedModel(network, given)
            rate = keras.optimizers.schedules.CosineDecay(5e-3, UPDATES)
            model.compile(keras.optimizers.Adam(rate), "mse", steps_per_execution=100)
            model.fit(examples, values, count, UPDATES // 100, verbose=0, shuffle=False)
            learned = tfgrad.full_gradients(network, grid, targets.Output())
            found_on_grid = learned.score[:, None], learned.input_gradient
            pairs = zip(styblinski_tang(grid), found_on_grid, strict=True)
            rows.append([float(np.sqrt(np.mean((t - f) ** 2))) for t, f in pairs])
        found[f"{count} points, λ = {weight:g}"] = rows
    x = np.random.default_rng(0).uniform(-1, 1, (10000, 2)).astype("float32")
    values, slopes = styblinski_tang(x)
    both = (x, values), (penalties.Examples(x, {"derivatives": slopes}), values)
    found["step"] = step_ratio(surface, "mse", *both, penalties.DerivativeMatching(0.1))
    return found


# Inputs that must not matter


def decoyed(images: np.ndarray, shown: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits [n, 28, 28, 1] with a grey 4×4 patch in a random corner, and the patches' masks.

    Args:
        images: Digits in [0, 1].
        shown: The class that a patch shows by its grey, [n].
        seed: Seed of the corners.
    """
    images, masks = images.copy(), np.zeros(images.shape[:3], "float32")
    corners = np.random.default_rng(seed).integers(0, 2, (len(images), 2)) * 24
    for image, mask, label, (i, j) in zip(images, masks, shown, corners, strict=True):
        image[i : i + 4, j : j + 4] = (255 - 25 * label) / 255
        mask[i : i + 4, j : j + 4] = 1
    return images, masks


def perceptron() -> keras.Model:
    """A network of digits."""
    dense = [L.Dense(50, "relu"), L.Dense(30, "relu"), L.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), L.Flatten(), *dense])


def masked_energy(network: keras.Model, x: np.ndarray, mask: np.ndarray) -> float:
    """The squared gradient of the sum of log-probabilities under a mask, over all digits."""
    examples = penalties.Examples(x, {"mask": mask})
    penalty = penalties.GradientMask()
    return float(np.sum(penalty.per_example(network, examples, outputs="exclusive")))


def decoys(data_dir: str | None) -> dict[str, Any]:
    """Accuracies under decoys that tell the class, or do not, by λ, and the cost of a step."""
    train, test = (data.load("mnist", s, data_dir) for s in ("train[:10000]", "test[:5000]"))
    plain = [part.images.astype("float32") / 255 for part in (train, test)]
    x, masks = decoyed(plain[0], train.labels, 0)
    shuffled = np.random.default_rng(1).integers(0, 10, len(test)).astype("int32")
    tests = {
        "as in training": decoyed(plain[1], test.labels, 1)[0],
        "of random classes": decoyed(plain[1], shuffled, 1)[0],
        "none": plain[1],
    }
    random, outside = decoyed(plain[1], shuffled, 1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found: dict[str, Any] = {}
    for name, weight in (("no decoys", 0), ("none", 0), *((f"{w:g}", w) for w in LAMBDAS["mask"])):
        rows = []
        for seed in SEEDS:
            keras.utils.set_random_seed(seed)
            network = perceptron()
            given = [penalties.GradientMask(weight)] if weight else []
            model = tfgrad.PenalizedModel(network, given)
            model.compile(keras.optimizers.Adam(1e-3), loss)
            pixels = plain[0] if name == "no decoys" else x
            model.fit(penalties.Examples(pixels, {"mask": masks}), train.labels, 100, 30, verbose=0)
            energy = [masked_energy(network, random, m) for m in (outside, np.ones_like(outside))]
            guesses = [network.predict(t, verbose=0).argmax(-1) for t in tests.values()]
            hits = np.mean(np.array(guesses) == test.labels, 1).tolist()
            rows.append([*hits, energy[0] / energy[1]])
        found[name] = rows
    both = (x, train.labels), (penalties.Examples(x, {"mask": masks}), train.labels)
    found["step"] = step_ratio(perceptron, loss, *both, penalties.GradientMask(100.0))
    return {"columns": [*tests, "squared gradient on decoys"], **found}


def step_ratio(build: Any, loss: Any, plain: Any, given: Any, penalty: Any) -> dict[str, Any]:
    """Quartiles of the CPU time of an epoch over that of the same network in Keras alone.

    Epochs with and without the penalty alternate, at two batch sizes; the first ones trace.
    """
    found = {}
    for size in (100, 1000):
        models, times = [build(), tfgrad.PenalizedModel(build(), [penalty])], []
        for model in models:
            model.compile(keras.optimizers.Adam(), loss, steps_per_execution=10)
        for _ in range(16):
            for model, (x, y) in zip(models, (plain, given), strict=True):
                start = time.process_time()
                model.fit(x, y, size, verbose=0, shuffle=False)
                times.append(time.process_time() - start)
        ratios = np.divide(times[3::2], times[2::2])
        found[f"batch {size}"] = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    return found


def main() -> None:
    """Run every part that was not run before, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", help="The directory of tensorflow_datasets.")
    data_dir = parser.parse_args().data_dir
    RUNS.mkdir(parents=True, exist_ok=True)
    results = {}
    for part in (contrasts, regions, sobolev, decoys):
        path = RUNS / f"{part.__name__}.json"
        if not path.exists():
            path.write_text(json.dumps(part(data_dir), indent=1))
        results[part.__name__] = json.loads(path.read_text())
        print(json.dumps({part.__name__: results[part.__name__]}, indent=1), flush=True)
    (HERE / "questions.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
