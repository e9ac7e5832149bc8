"""The denoiser: the network and what makes it fast.

model.py            the transformer with AdaLN-Zero
short_attention.py  attention over short texts on a GPU (Triton)
precision.py        bfloat16 where it is faster
devices.py          where torch computes
"""
