"""What the GPUs did: NVML to samples to usage. Imports no other room."""
