"""Validates and loads `.keras` files and SavedModels."""

from tfgrad.loading.keras_file import load
from tfgrad.loading.saved_model import ServedModel, load_served

__all__ = ["ServedModel", "load", "load_served"]
