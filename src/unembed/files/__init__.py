"""Files: what is written appears whole or not at all, and what is read runs no code.

atomic.py     files and folders written whole or not at all
tensors.py    safetensors
quantised.py  matrices in 8 bits
"""
