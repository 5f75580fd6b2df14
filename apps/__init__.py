"""Command lines: parse, validate, call the library, report."""
