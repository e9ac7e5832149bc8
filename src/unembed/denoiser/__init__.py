"""The denoiser: the network, its attention on a GPU, and the number format of its products."""
