"""GpuPool, GpuQueue and GpuJob: the one schema of files and cluster, read, checked and written."""
