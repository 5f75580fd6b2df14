"""Validates and loads `.keras` files and SavedModels; trained networks by their names."""

from tfgrad.loading.keras_file import load
from tfgrad.loading.pretrained_networks import Pretrained, is_pretrained, pretrained
from tfgrad.loading.saved_model import ServedModel, load_served

__all__ = ["Pretrained", "ServedModel", "is_pretrained", "load", "load_served", "pretrained"]
