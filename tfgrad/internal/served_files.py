"""Names of files in an exported directory that exporting writes and loading reads."""

import os

# TensorFlow Serving does not read what lies in this folder, but for its warm-up requests.
METADATA = os.path.join("assets.extra", "tfgrad.json")
WARMUP_REQUESTS = os.path.join("assets.extra", "tf_serving_warmup_requests")
