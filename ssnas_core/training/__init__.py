"""One loop, with its checkpoints, scores and logs."""
