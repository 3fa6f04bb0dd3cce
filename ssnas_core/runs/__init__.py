"""One run, its folder, its report."""
