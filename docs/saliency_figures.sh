#!/usr/bin/env bash
# Creates the figures of docs/saliency.md: trains a network on flowers (a quarter of an hour on two idle
# cores) and explains photographs that were not used for training.
#
#     bash docs/saliency_figures.sh DATA_DIR        # TFDS data directory that contains tf_flowers
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?usage: bash docs/saliency_figures.sh DATA_DIR}
python=${PYTHON:-.venv/bin/python}
flowers=(--dataset=tf_flowers "--data_dir=$data")

"$python" -m apps.train "${flowers[@]}" "--train_split=train[:85%]" "--test_split=train[85%:]" \
    --image_size=128,128 --network=vgg11 --width=0.25 --augment --normalize --epochs=16 \
    --decay_epochs=12 --noise=0 --work_dir=runs/flowers

"$python" -m apps.explain --work_dir=runs/flowers "${flowers[@]}" "--split=train[85%:]" --first=1 --count=4 \
    --magnitude --methods=input_gradient,integrated_gradients,smoothgrad,gradcam,fullgrad \
    --layers=auto --title="VGG-11 on flowers it has not seen" --out=runs/flowers_explained

cp runs/flowers_explained/explanations.png docs/saliency_methods.png
cp runs/flowers_explained/layers.png docs/saliency_layers.png
