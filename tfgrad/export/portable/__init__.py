"""Signatures in operations that every runtime has."""
