"""`python -m gateway` is `tollgate`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
