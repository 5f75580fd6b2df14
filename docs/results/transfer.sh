#!/usr/bin/env bash
# Trains the teachers, and the students of every cell of docs/results/transfer.md.
#     bash docs/results/transfer.sh DATA_DIR
# To resume an interrupted run, run the same command again.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
data=--data_dir=$1
source='--normalize --augment --image_size=64,64 --width=0.25 --batch_size=64 --noise=0'
"$python" -m apps.train --dataset=cifar10 $data --network=vgg9 --width=0.25 --normalize --augment \
    --epochs=15 --decay_epochs=12 --work_dir=runs/cifar/plain
"$python" -m apps.train --dataset=cifar10 $data $source --network=resnet9 \
    --epochs=7 --decay_epochs=5 --work_dir=runs/cifar/resnet9_64
"$python" -m apps.train --dataset=cifar10 $data $source --network=vgg9 \
    --epochs=4 --decay_epochs=3 --work_dir=runs/cifar/vgg9_64

# One process per core: each computes a part of the cells.
cells() {
    "$python" -m apps.reproduce "$@" $data --threads=1 --part=0/2 &
    "$python" -m apps.reproduce "$@" $data --threads=1 --part=1/2
    wait
}
for experiment in t4.2 attention t2.1 f4.1a f4.1b; do
    cells $experiment --teacher=runs/cifar/plain
done
cells t4.3
cells t2.3 --teacher=runs/cifar/resnet9_64 --pretrained=runs/cifar/vgg9_64
cells t2.4 --teacher=runs/cifar/resnet9_64
cells t2.5 --teacher=runs/cifar/resnet9_64
"$python" -m apps.reproduce f2.1 --threads=1
