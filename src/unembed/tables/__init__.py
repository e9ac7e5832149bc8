"""Tables: rows of named columns out of the files in which people keep texts and vectors.

    table.py      what a table is, which file is read by which reader, folders, standard input
    streams.py    bytes, compressed or not; lines, in bounded memory
    lines.py      text, JSON lines, CSV and TSV
    documents.py  JSON in the shapes of vector stores' clients and of embeddings endpoints
    arrow.py      Parquet, Feather and Arrow files
    arrow_values.py, arrow_buffers.py, parquet_pages.py  how much these hold, told before it is decoded
    arrays.py     NumPy, safetensors, fvecs and bvecs
    values.py     values as Python has them, and as JSON can say them

Rows are read as a stream, from any row on, and only the columns that are asked for. Nothing is unpickled. What a file
holds is a `DataError` in one line where it is not what its name says.
"""

from unembed.tables.table import Batch, Table, open_table

__all__ = ["Batch", "Table", "open_table"]
