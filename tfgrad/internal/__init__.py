"""Shared by the packages of tfgrad; nothing in here is public."""
