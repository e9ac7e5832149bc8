"""Files: what is written appears whole or not at all, and what is read runs no code.

atomic.py     files and folders written whole or not at all
json_files.py JSON
tensors.py    safetensors
shapes.py     whether tensors are those that a network declares
quantised.py  matrices in 8 bits
"""
