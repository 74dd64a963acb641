"""The command `losskit`, and what it says where the libraries that it needs are missing."""

import io
import sys


def main() -> None:
    """Run the command line."""
    try:
        from losskit_guide.cli import app
    except ModuleNotFoundError:
        sys.exit("losskit: the command line needs more: pip install typer rich matplotlib")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a console's encoding may not have every letter of a formula or a plot
    app()


if __name__ == "__main__":
    main()
