"""Helpers that the packages of tfgrad share; nothing here is public."""
