"""`python -m ssnas_core`, which is `ssnas`: for launchers that start modules, as torchrun does."""

from ssnas_core.cli.main import main

if __name__ == "__main__":
    main()
