#!/usr/bin/env bash
# Trains the networks of docs/results/density.md and runs the tests of that page.
#     bash docs/results/density.sh DATA_DIR
# To resume an interrupted run, run the same command again.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}

# One process per core: each computes a part of the cells and trains the networks that they need.
cells() {
    for part in 0/2 1/2; do
        "$python" -m apps.reproduce "$1" --data_dir="$data" --networks_dir=runs/networks \
            --threads=1 --part=$part &
    done
    wait
}
data=$1
for experiment in t5.1 f5.1 f5.1e f5.2 f5.3 f5.4 f5.5 f5.8 estimators coupling t5.2 t2.2; do
    cells $experiment
done
