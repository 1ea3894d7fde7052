"""What docs/embedding.md shows, run."""
