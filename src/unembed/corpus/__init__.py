"""Corpus: texts on disk, token shards made of them, and windows to train on.

sources.py   what `--texts` names: files, folders, Hub datasets
passages.py  documents cut into passages, duplicates found
prepare.py   texts to shards, resumable, with a held-out split
windows.py   shards to batches of training windows
held_out.py  the texts that an inverter is measured with
"""
