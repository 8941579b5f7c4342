"""Many scans, one model: what was named, what is written, one ahead and one behind."""
