"""`python -m pullthrough`."""

from pullthrough.cli import main

if __name__ == "__main__":
    main()
