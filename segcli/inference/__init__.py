"""From voxels to labels: prepare, cut into windows, run, blend, decide; no files, no printing."""
