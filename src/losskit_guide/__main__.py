"""The command `losskit`, and what it says where the libraries that it needs are missing."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from losskit_guide.cli import app
    except ModuleNotFoundError as problem:
        sys.exit(f"losskit: the command line needs {problem.name}; pip install 'losskit[cli]'")
    app()


if __name__ == "__main__":
    main()
