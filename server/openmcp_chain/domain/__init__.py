"""The words that all rooms share, and the rules between them: pure, on the standard library alone, no I/O and no clock."""
