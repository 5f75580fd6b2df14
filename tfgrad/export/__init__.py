"""SavedModels that serve predictions and the saliency maps that explain them."""

from tfgrad.export.saved_model import METADATA, save

__all__ = ["METADATA", "save"]
