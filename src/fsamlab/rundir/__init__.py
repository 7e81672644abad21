"""The files of one run: the writer's side, the reader's side, and who may write."""
