"""The words that all rooms share, and the rules between them: pure, standard library only, no I/O, no clock."""
