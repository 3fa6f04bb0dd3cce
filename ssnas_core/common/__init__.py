"""Shared ground that knows no domain: errors, files, locks, randomness, processes, parts."""
