"""One network a file, nn.Modules and nothing else."""
