"""Others' jobs, traces and measurements, as our manifests; one module a format."""

CONVERTED_FROM = "flopwise.dev/converted-from"  # annotation: the format a manifest was made of
