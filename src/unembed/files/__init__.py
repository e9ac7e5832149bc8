"""Files: outputs that appear whole or not at all, tensors without pickles, matrices in 8 bits."""
