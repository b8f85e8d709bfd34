"""`python -m gateway`, the same as the `meridian` command."""

from gateway.cli import main

if __name__ == "__main__":
    main()
