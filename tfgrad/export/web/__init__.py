"""A page that explains photographs in a browser, without a server that computes.

`write` makes a folder of static files: the page, a model's ONNX files, their description, samples,
and ONNX Runtime Web where a copy of it is at hand. Any web server of files serves it.
"""

from tfgrad.export.web.folder import write
from tfgrad.export.web.runtime import PUBLISHED

__all__ = ["PUBLISHED", "write"]
