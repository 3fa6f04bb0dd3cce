"""A package of somebody else: one file for each kind of part that ssnas can be given."""
