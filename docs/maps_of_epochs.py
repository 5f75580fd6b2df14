"""Trains on digits with maps after every epoch; writes runs/tensorboard.

The picture docs/tensorboard.png is the tab "Images" of `tensorboard --logdir runs/tensorboard`.
"""

import keras

import tfgrad

keras.utils.set_random_seed(0)
train = tfgrad.data.load("digits", "train[:1024]")
network = tfgrad.models.vgg(4, (8, 8, 1), classes=10, width=0.25)
model = tfgrad.PenalizedModel(network, [tfgrad.penalties.GradientNorm(0.03)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
directory = "runs/tensorboard"
maps = tfgrad.callbacks.Explanations(train.images[:4], log_dir=directory, class_names=train.classes)
curves = keras.callbacks.TensorBoard(directory, write_graph=False)
model.fit(train.images, train.labels, epochs=4, callbacks=[maps, curves])
