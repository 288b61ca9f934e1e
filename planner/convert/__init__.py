"""Others' jobs, traces and measurements, as our manifests; one module a format."""
