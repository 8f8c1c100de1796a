"""The paper's own settings and results."""
