"""The documentation site: pages that are generated when it is built, and pictures of methods."""
