"""A trained run as one object."""
