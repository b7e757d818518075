"""What Countersign costs, measured beside what others cost; see README.md here."""
