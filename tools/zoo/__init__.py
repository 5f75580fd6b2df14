"""Models of other packages, each taken through everything that tfgrad does with a model.

`python -m tools.zoo` runs them; `make test-zoo` installs their packages first.
"""
