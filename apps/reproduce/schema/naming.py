"""Names of files: a label in letters that every file system takes, and a digest of settings."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any


def slug(label: str) -> str:
    """A label as part of a file name: lower-case letters and digits, joined by underscores."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


def digest(described: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a declaration, as sorted JSON."""
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
