"""Tables and figures of finished experiments."""
