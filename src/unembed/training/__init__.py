"""Training: the loop and its step, the optimizers, the start from known weights, the look at held-out text, the log."""
