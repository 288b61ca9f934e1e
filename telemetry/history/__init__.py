"""What the GPUs did, for months: Parquet on any fsspec URL. The door to pyarrow, DuckDB and fsspec.

    raw/day=2026-12-01/node=NODE/samples.parquet     a row is one GPU, owner and instant
    hourly/day=2026-12-01/hourly.parquet             sums by hour, GPU and owner, of all nodes

`place` knows where files are and writes them whole; `raw` merges rows into them; `importing` reads
files of samples; `hourly` sums raw rows up and answers for what and for whom; `compact` moves a
node's store here and lets go of what is old. All of it may be killed and run again: a file is a
function of the rows it is told, never added to, so nothing counts twice.

None of this is loaded by the collector: it takes a second and a hundred megabytes.
"""
