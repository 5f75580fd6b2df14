"""The pictures of saliency methods in docs/methods: `python -m tools.site.pictures` (minutes).

A small VGG learns to tell crops of scikit-learn's two photographs, a Chinese temple and a flower,
apart. Every method then explains the logit of the flower on one image of four crops, of which one
shows the flower: a map that follows what the network uses lies in that quarter. Nothing is
downloaded.
"""

import argparse
import pathlib

import keras
import numpy as np
import sklearn.datasets
from PIL import Image

import tfgrad

FOLDER = pathlib.Path(__file__).parents[2] / "docs/methods"
SIDE, MOSAIC, STEPS, BATCH = 64, 128, 150, 32
FLOWER = 1
COLOURS = 256  # of a picture: half the bytes, and no difference that one sees
SMOOTH = "smooth"  # a wrapper, which is not in the registry
SHRINK = 3  # pixels of a photograph to one of a crop, along both sides
# Upper left corners of the crops: the blossom, and the temple's roof, bushes and lake.
CORNERS = {"flower": [(41, 70)], "china": [(8, 36), (70, 100), (50, 125)]}


def main() -> None:
    """Train the network and write one picture for each method."""
    parser = argparse.ArgumentParser(description="Draw one picture for each saliency method.")
    parser.add_argument("--only", help="names of methods, separated by commas")
    chosen = parser.parse_args().only
    methods = chosen.split(",") if chosen else [*tfgrad.saliency.METHODS, SMOOTH]
    FOLDER.mkdir(exist_ok=True)
    network, image = trained(), mosaic()
    print("probability of the flower:", keras.ops.softmax(network(image))[0, FLOWER].numpy())
    for name in methods:
        method: tfgrad.saliency.Method
        if name == SMOOTH:
            method = tfgrad.saliency.Smooth(tfgrad.saliency.GradCAM(network))
        else:
            method = tfgrad.saliency.get(name)(network)
        path = FOLDER / f"{name}.png"
        title = "smooth gradcam" if name == SMOOTH else name
        tfgrad.figures.saliency_grid(
            path, image, {title: np.asarray(method(image, target=[FLOWER]))}
        )
        Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)
        print(name, path.stat().st_size, "bytes")


def trained() -> keras.Model:
    """The network for images of the mosaic's size, trained on crops of a quarter of it."""
    keras.utils.set_random_seed(0)
    photographs = [photograph("china"), photograph("flower")]
    draws = np.random.default_rng(0)
    small = tfgrad.models.vgg(6, (SIDE, SIDE, 3), classes=2, width=0.25)
    model = tfgrad.PenalizedModel(small, [tfgrad.penalties.GradientNorm(0.03)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for _ in range(STEPS):
        labels = draws.integers(0, 2, BATCH)
        x = np.stack([crop(photographs[label], draws) for label in labels])
        model.train_on_batch(x, labels)
    large = tfgrad.models.vgg(6, (MOSAIC, MOSAIC, 3), classes=2, width=0.25)
    large.set_weights(small.get_weights())
    return large


def photograph(name: str) -> np.ndarray:
    """A photograph of scikit-learn as means of blocks of pixels, [142, 213, 3] in 0 to 1."""
    pixels = sklearn.datasets.load_sample_image(f"{name}.jpg").astype("float32") / 255
    height, width = (size // SHRINK for size in pixels.shape[:2])
    blocks = pixels[: SHRINK * height, : SHRINK * width]
    return blocks.reshape(height, SHRINK, width, SHRINK, 3).mean((1, 3))


def crop(pixels: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """A random crop of [64, 64, 3], half of them mirrored."""
    top, left = (int(draws.integers(0, size - SIDE + 1)) for size in pixels.shape[:2])
    found = pixels[top : top + SIDE, left : left + SIDE]
    return found[:, ::-1] if draws.random() < 0.5 else found


def mosaic() -> np.ndarray:
    """[1, 128, 128, 3]: the flower in the lower left quarter, the temple in the other three."""
    crops = {
        name: [photograph(name)[t : t + SIDE, a : a + SIDE] for t, a in corners]
        for name, corners in CORNERS.items()
    }
    (flower,), (first, second, third) = crops["flower"], crops["china"]
    return np.block([[[first], [second]], [[flower], [third]]])[np.newaxis]


if __name__ == "__main__":
    main()
