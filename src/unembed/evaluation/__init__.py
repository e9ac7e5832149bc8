"""Evaluation: how much of held-out texts comes back.

metrics.py    token accuracy, F1, BLEU, ROUGE-L, cosine, calibration error, and bootstrap intervals
evaluate.py   the measurement of an inverter, with the level of chance
tables.py     reports as Markdown
calibrate.py  a calibration fitted to held-out texts
"""
