"""From another encoder's space into an inverter's.

linear.py   centred ridge, Procrustes
"""
