"""The `ssnas` command."""
