"""DICOM in and out: files, frames, stacks, series; segmentations, structure sets, reports."""
