"""A doubt about scans without bright voxels."""

from segcli.results.scan_checks import Finding


def cold(scene):
    """Scans without any voxel above 1000."""
    if scene.image is not None and scene.image.data.max() < 1000:
        yield Finding("cold", "review", None, f"{len(scene.structures)} structures, and no voxel above 1000")
