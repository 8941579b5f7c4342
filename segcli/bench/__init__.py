"""Benchmarks: `python -m segcli.bench` prints a table; beside MONAI and nnU-Net where they are installed."""
