"""What docs/scale.md goes by: what grows with processes, workspaces, streams and tasks, and a model made of that."""
