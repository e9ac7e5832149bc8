"""Storage: an inverter's folder, the state of a training run, the model card, and where an inverter is found."""
