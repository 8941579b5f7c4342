"""Where voxels are: grids, volumes, and moving voxels from one grid onto another."""
