"""Fusion cells: which features meet, and by which operation (BM-NAS)."""
