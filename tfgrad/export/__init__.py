"""SavedModels that serve predictions and the saliency maps that explain them."""

from tfgrad.export.saved_model import save
from tfgrad.internal.served_files import METADATA

__all__ = ["METADATA", "save"]
