"""Many runs: methods x label ratios x seeds."""
