"""The generated sample: movies made of stories."""
