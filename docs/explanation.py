"""The picture and table of "Look at a result" in docs/saliency.md: `python docs/explanation.py`.

Trains a small VGG on scikit-learn's digits (a quarter of a minute) and explains three test images.
"""

import os

import keras

import tfgrad

keras.utils.set_random_seed(0)
train, test = (tfgrad.data.load("digits", split) for split in ("train", "test[:3]"))
network = tfgrad.models.vgg(4, (8, 8, 1), classes=10, width=0.25, name="digits")
model = tfgrad.PenalizedModel(network, [tfgrad.penalties.GradientNorm(weight=0.03)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(train.images, train.labels, epochs=12, verbose=0)

found = tfgrad.saliency.FullGrad(model).explain(test.images)
print(found.summary())
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "explanation.png")
found.plot(path, scale="contrast")
