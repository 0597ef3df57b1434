"""``python -m stillstack`` is the command ``stillstack``."""

from stillstack.cli import main

if __name__ == "__main__":
    main()
