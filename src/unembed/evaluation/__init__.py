"""Evaluation: metrics, the measurement of an inverter, and its tables."""
