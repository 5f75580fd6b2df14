#!/usr/bin/env bash
# Trains the five networks of docs/results/noise_robustness.md one after the other, and compares them.
# To resume an interrupted run, run the same command again.
#   bash docs/results/noise_robustness.sh DATA_DIR
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
runs=runs/noise_robustness
common=(
  --dataset=cifar10 "--data_dir=$1" --network=vgg9 --width=0.25 --normalize --augment
  --epochs=15 --decay_epochs=12 --batch_size=64 --seed=0
)
train() { "$python" -m apps.train "${common[@]}" "${@:2}" --work_dir="$runs/$1"; }

train plain
train gradient_norm_0.1 --gradient_norm=0.1
train gradient_norm_1 --gradient_norm=1
train score_matching --activation=softplus --score_matching=1e-3
train plain_softplus --activation=softplus
"$python" -m apps.compare --out=docs/results/cifar10_noise --title="CIFAR-10, VGG-9 at width ¼" \
  --work_dirs="$runs/plain,$runs/gradient_norm_0.1,$runs/gradient_norm_1,$runs/plain_softplus,$runs/score_matching"
