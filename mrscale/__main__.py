"""``python -m mrscale`` is the command ``mrscale``."""

from mrscale.cli import main

if __name__ == "__main__":
    main()
