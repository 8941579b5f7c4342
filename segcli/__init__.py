"""segcli segments NIfTI and DICOM volumes on the scan's own grid."""

__version__ = "0.1.0"
