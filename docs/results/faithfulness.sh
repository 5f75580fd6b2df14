#!/usr/bin/env bash
# Trains the networks of docs/results/faithfulness.md and evaluates their maps with the tests of that page.
#     bash docs/results/faithfulness.sh DATA_DIR
# To resume an interrupted run, run the same command again.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
data=$1

for experiment in t3.1 t3.2 fills f3.2a coarseness labels f3.3; do
    "$python" -m apps.reproduce "$experiment" --data_dir="$data" --networks_dir=runs/networks
done
# One process per core: each retrains networks for a part of the methods.
for experiment in f3.2b coarseness-roar masks; do
    for part in 0/2 1/2; do
        "$python" -m apps.reproduce "$experiment" --data_dir="$data" --networks_dir=runs/networks \
            --threads=1 --part=$part &
    done
    wait
done
network=$(ls runs/networks/vgg9-cifar10-saliency-*.keras)
"$python" -m apps.evaluate --models=vgg9="$network" --dataset=cifar10 --data_dir="$data" --images=64 \
    --tests=randomisation,completeness,bias_sensitivity,weak_dependence,shift_agreement \
    --methods=input_gradient,integrated_gradients,smoothgrad,gradcam,guided_backprop,fullgrad \
    --draws=5 --out=runs/axioms
