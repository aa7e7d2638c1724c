"""`python -m medidiff` is the same program as `medidiff`."""

from medidiff.cli import main

if __name__ == "__main__":
    main()
