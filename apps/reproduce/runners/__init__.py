"""What runs the cells of an experiment."""
