"""`python -m jorge_tune`."""

from jorge_tune.cli import main

if __name__ == "__main__":
    main()
