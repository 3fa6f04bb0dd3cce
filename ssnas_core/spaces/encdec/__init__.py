"""Encoder and decoder: which operation transforms text, and regions that it guides (MMnas)."""
