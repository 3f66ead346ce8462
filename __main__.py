"""`python -m handloom` is the `handloom` command."""

from .cli import main

if __name__ == "__main__":
    main()
