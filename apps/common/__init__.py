"""Shared by the commands: flags, work directories, training runs."""
