"""The experiments of the papers, from the command line."""
