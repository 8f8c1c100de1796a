"""Trained classifiers in use: loaded from a run, given new inputs, exported."""
