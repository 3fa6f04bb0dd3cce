"""Records from any source."""
