"""What is said of labels: volumes, checks, agreement, pictures, pages, records."""
