"""From another encoder's space into an inverter's.

linear.py     centred ridge, Procrustes
unpaired.py   a map from vectors that share no text, and whether it was found
identify.py   which known encoder made vectors
"""
