"""The command ``mrscale`` as a Python file, which is what spark-submit runs."""

from mrscale.cli import main

if __name__ == "__main__":
    main()
