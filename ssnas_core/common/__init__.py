"""What knows no domain: errors, files, locks, chance, processes, names of parts."""
