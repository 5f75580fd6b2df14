"""Costs of cheaper gradient norms, and what they do to accuracy under noise.

    python docs/results/penalty_estimators.py cost
    python docs/results/penalty_estimators.py noise --data_dir=DATA_DIR

DATA_DIR holds CIFAR-10 as tensorflow_datasets stores it. Trained networks are kept in
runs/penalty_estimators, so that an interrupted run resumes. Costs are processor seconds of VGG-9,
which other programs on the machine hardly change; `apps.benchmark` measures times.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfgrad
from tfgrad.penalties import GradientNorm, JacobianMatching

HERE = pathlib.Path(__file__).parent
RUNS = pathlib.Path("runs/penalty_estimators")
SEEDS = (0, 1, 2)
SIGMAS = (0.0, 0.05, 0.1, 0.2)
EPOCHS, BATCH_SIZE, WEIGHT = 8, 64, 0.1
TRAIN, TEST = "train[:8000]", "test[:2000]"
PENALTIES: dict[str, Any] = {
    "none": None,
    "exact": {},
    "difference": {"estimator": "difference"},
    "every=4": {"every": 4},
    "every=8": {"every": 8},
}


# Number of classes, and options of the penalty.
COSTS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (10, {}),
    "exact": (10, {}),
    "difference": (10, {"estimator": "difference"}),
    "every=8": (10, {"every": 8}),
    "projected, 10 classes": (10, {"target": "projected"}),
    "all, 10 classes": (10, {"target": "all"}),
    "plain, 100 classes": (100, {}),
    "projected, 100 classes": (100, {"target": "projected"}),
    "matching of all 10, projected": (10, {"kind": JacobianMatching, "target": "projected"}),
    "matching of all 10, difference": (
        10,
        {"kind": JacobianMatching, "target": "all", "estimator": "difference"},
    ),
}
MEMORY = ("plain", "exact", "difference", "every=8", "all, 10 classes")


def images(split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1] and labels."""
    found = tfgrad.data.load("cifar10", split, data_dir)
    return found.images.astype("float32") / 255, found.labels


def trained(name: str, seed: int, train: tuple[np.ndarray, np.ndarray]) -> keras.Model:
    """The network of a seed, from its file if it was trained before."""
    path = RUNS / f"{name}-{seed}.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(seed)
    network = tfgrad.models.get("vgg4", (32, 32, 3), 10, width=0.25, batch_norm=False)
    options = PENALTIES[name]
    penalties = [] if options is None else [GradientNorm(WEIGHT, **options)]
    model = tfgrad.PenalizedModel(network, penalties)
    steps = EPOCHS * -(-len(train[0]) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(
        keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    start = time.process_time()
    model.fit(*train, BATCH_SIZE, epochs=EPOCHS, verbose=0)
    os.makedirs(RUNS, exist_ok=True)
    network.save(path)
    print(f"{path}: {time.process_time() - start:.0f} s of the processors", flush=True)
    return network


def step(name: str) -> Callable[[], None]:
    """A function that makes all the training steps after which costs repeat."""
    classes, options = COSTS[name]
    keras.utils.set_random_seed(0)
    network = tfgrad.models.get("vgg9", (32, 32, 3), classes)
    options = dict(options)
    kind = options.pop("kind", GradientNorm)
    teacher = network if kind is GradientNorm else keras.models.clone_model(network)
    penalties = [kind(WEIGHT, **options)] if "plain" not in name else []
    taught = None if teacher is network or not penalties else teacher
    model = tfgrad.PenalizedModel(network, penalties, teacher=taught)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    random = np.random.default_rng(0)
    x = tf.constant(random.uniform(size=(BATCH_SIZE, 32, 32, 3)), tf.float32)
    y = tf.constant(random.integers(0, classes, BATCH_SIZE), tf.int32)
    compiled, count = tf.function(model.train_step), max([1, *(p.every for p in penalties)])

    def steps() -> None:
        for _ in range(count):
            logs = compiled((x, y))
        float(logs["loss"])

    steps.count = count
    return steps


def seconds(function: Callable[[], None]) -> float:
    """Processor seconds of one step."""
    start = time.process_time()
    function()
    return (time.process_time() - start) / function.count


def peak_megabytes() -> int:
    """The peak memory of this process."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)


def cost(rounds: int) -> dict[str, Any]:
    """Costs of steps, by round and in turn, and peak memory, each in a process of its own."""
    functions = {name: step(name) for name in COSTS}
    for name, function in functions.items():
        function()
        print(f"{name}: compiled", flush=True)
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            found[name].append(seconds(function))
    peaks = {}
    for name in MEMORY:
        command = [sys.executable, __file__, "memory", f"--of={name}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[name] = int(output.split()[-1])
    plain = {10: np.array(found["plain"]), 100: np.array(found["plain, 100 classes"])}
    print(
        "| step | processor seconds | ratio to plain | quartiles | peak MB |\n|---|---|---|---|---|"
    )
    for name, values in found.items():
        ratios = np.array(values) / plain[COSTS[name][0]]
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        cells = f"{np.median(values):.2f} | {middle:.2f} | {low:.2f} to {high:.2f}"
        print(f"| {name} | {cells} | {peaks.get(name, '')} |")
    return {"seconds": found, "peak_mb": peaks}


def noise(data_dir: str | None) -> dict[str, Any]:
    """Accuracies under noise and squared norms of gradients on test images."""
    train, test = (images(split, data_dir) for split in (TRAIN, TEST))
    batches = tf.data.Dataset.from_tensor_slices(test).batch(200)
    found: dict[str, list[list[float]]] = {name: [] for name in PENALTIES}
    norms: dict[str, list[float]] = {name: [] for name in PENALTIES}
    for seed in SEEDS:
        for name in PENALTIES:
            network = trained(name, seed, train)
            measured = tfgrad.evaluation.noise_robustness(network, batches, SIGMAS, repeats=1)
            found[name].append([100 * float(value) for value in measured.values])
            x, y = test[0][:500], test[1][:500]
            norms[name].append(float(np.mean(GradientNorm().per_example(network, x, y))))
    print("| penalty | " + " | ".join(f"σ = {s}" for s in SIGMAS) + " | mean ‖∇x f‖² |")
    print("|---" * (len(SIGMAS) + 2) + "|")
    for name, values in found.items():
        means, spreads = np.mean(values, 0), np.std(values, 0, ddof=1)
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(means, spreads, strict=True)]
        cells.append(f"{np.mean(norms[name]):.2f} ± {np.std(norms[name], ddof=1):.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    return {"sigmas": SIGMAS, "accuracy": found, "squared_norm": norms}


def main() -> None:
    """Measure, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["cost", "noise", "memory"])
    parser.add_argument("--data_dir", help="The directory of tensorflow_datasets.")
    parser.add_argument("--rounds", type=int, default=3, help="Rounds of the costs.")
    parser.add_argument("--of", help="The step whose peak memory is printed.")
    arguments = parser.parse_args()
    if arguments.what == "memory":
        function = step(arguments.of)
        for _ in range(3):
            function()
        print(peak_megabytes())
        return
    path = HERE / "penalty_estimators.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    measure = {"cost": lambda: cost(arguments.rounds), "noise": lambda: noise(arguments.data_dir)}
    result[arguments.what] = measure[arguments.what]()
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
