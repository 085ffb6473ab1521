"""A package, so that what its tests share ends with the last of them, and does not idle through the rest of a run."""
