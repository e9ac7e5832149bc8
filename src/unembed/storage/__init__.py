"""Storage: inverters and training runs on disk.

checkpoint.py          an inverter's folder and the state of a run, read without trust
pt_files.py            an inverter in one `.pt` file, no larger than the file
card.py                the model card of an inverter
corpus_licences.py     licences of the texts behind the released weights, for the card
fingerprint.py         which weights these are
packaged_inverters.py  inverters that come with the package
hub.py                 folders to the Hub
"""
