"""`python -m losskit`: the command `losskit`; `accelerate` needs nothing but torch."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["accelerate"]:
        from losskit.acceleration.script import main

        main(sys.argv[2:])
    else:
        from losskit_guide.__main__ import main as command

        command()
