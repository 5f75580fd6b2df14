"""The sections of a report about the decomposition of the logit, and about saliency maps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

import tfgrad
from tfgrad import evaluation, figures, saliency
from tfgrad.errors import TfgradError

from .measured import Measured
from .sections import Block, Picture, Section, from_markdown

FLAGS = flags.FLAGS

TESTS = ("pixels", "pixels_most", "randomisation")
_SCORE = "change of the top probability"


def decomposition(measured: Measured) -> Section:
    """How exactly input- and bias-gradients add up to the logit."""
    errors = np.concatenate(
        [
            tfgrad.full_gradients(measured.tested.network, x).completeness_error().numpy()
            for x, _ in measured.tested.batches(measured.few)
        ]
    )
    largest, median = float(errors.max()), float(np.median(errors))
    return Section(
        "decomposition",
        "Completeness of the decomposition",
        "The logit of the predicted class is decomposed into input- and bias-gradients for "
        f"{measured.some_images()}; the error is abs(logit − sum of the terms) / abs(logit).",
        [f"Largest error {largest:.1e}, median {median:.1e}: the rounding of float32 is 1.2e-07."],
        {"largest": largest, "median": median, "images": len(errors)},
    )


def maps(measured: Measured) -> Section:
    """Maps of right and of wrong predictions."""
    how = (
        f"Maps of the predicted class by {', '.join(FLAGS.methods)}, each scaled by itself; right "
        "predictions are the first ones, wrong predictions those with the highest probability, "
        f"among {measured.all_images()}."
    )
    certain = measured.probabilities.max(-1)
    right = np.flatnonzero(measured.right)[: FLAGS.shown]
    wrong = np.flatnonzero(~measured.right)
    wrong = wrong[np.argsort(-certain[wrong], kind="stable")][: FLAGS.shown]
    blocks: list[Block] = []
    shown: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for what, chosen in (("Right predictions", right), ("Wrong predictions", wrong)):
        key = what.split()[0].lower()
        shown[key] = [_example(measured, int(i)) for i in chosen]
        if not len(chosen):
            blocks.append(f"{what}: none among these images.")
            continue
        maps = _maps_of(measured, chosen, missing)
        if maps:
            blocks.append(Picture(_grid(measured, chosen, maps, what), what))
    blocks += [f"No maps by {name}: {reason}" for name, reason in missing.items()]
    return Section("maps", "Saliency maps", how, blocks, {**shown, "failed": missing})


def _maps_of(
    measured: Measured, chosen: np.ndarray, missing: dict[str, str]
) -> dict[str, np.ndarray]:
    """{method: maps [n, H, W]} of the predicted classes; reasons are added to `missing`."""
    found = {}
    x, classes = measured.inputs(chosen), measured.predicted[chosen]
    for name in FLAGS.methods:
        try:
            maps = saliency.get(name)(measured.tested.network)(x, classes)
            found[name] = np.asarray(maps)
        except TfgradError as error:
            missing[name] = str(error)
    return found


def _grid(
    measured: Measured, chosen: np.ndarray, maps: Mapping[str, np.ndarray], title: str
) -> Any:
    images = measured.images
    return figures.saliency_grid(
        None,
        images.images[chosen],
        maps,
        labels=[images.classes[i] for i in images.labels[chosen]],
        predictions=[images.classes[i] for i in measured.predicted[chosen]],
        probabilities=measured.probabilities.max(-1)[chosen],
        title=title,
    )


def _example(measured: Measured, i: int) -> dict[str, Any]:
    classes = measured.images.classes
    return {
        "image": i,
        "label": classes[measured.images.labels[i]],
        "predicted": classes[measured.predicted[i]],
        "probability": float(measured.probabilities[i].max()),
    }


def faithfulness(measured: Measured) -> Section:
    """Tests of the maps, with random ones beside them."""
    score = {"score": _SCORE}
    found = evaluation.compare(
        measured.tested.network,
        measured.tested.batches(measured.few),
        FLAGS.methods,
        TESTS,
        images=len(measured.few),
        options={"pixels": score, "pixels_most": score},
        seed=FLAGS.seed,
        on_progress=lambda done, total, what: print(f"  {done + 1} of {total}: {what}", flush=True),
    )
    blocks: list[Block] = [from_markdown(found.markdown())]
    if found.panels():
        label = "Scores of the methods, and of random maps"
        blocks.append(Picture(found.plot(), label))
    return Section(
        "faithfulness",
        "Faithfulness of the maps",
        f"Tests of maps of the predicted classes on {measured.some_images()}, with random maps as "
        f"the control, seed {FLAGS.seed}: the change of the top probability without the least and "
        "without the most salient pixels, and the rank correlation of maps after layers are "
        "re-initialised.",
        blocks,
        {"comparison": found.to_dict()},
    )
