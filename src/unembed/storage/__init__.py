"""Storage: an inverter's folder, the state of a training run, the model card, which weights these are, and where an
inverter is found."""
