"""The loop and what it needs: batches, optimisers, checkpoints, logs."""
