"""Training: from shards to an inverter.

train.py       the loop: time-boxed, resumable
step.py        one step, embeddings made beside it
optimizers.py  Muon and AdamW
initialise.py  the start from an encoder's or an inverter's weights
validate.py    a look at held-out text
throughput.py  share of the machine's peak
log.py         the run's log
fit.py         surrogate, student and calibration, after training
"""
