"""Encoders: what turns text into embeddings, exactly as a recipe says.

The tokenizer of an encoder, the recipes, local and remote encoders, and embeddings in files with the checks they need.
"""
