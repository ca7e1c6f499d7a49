"""`python -m app` opens the window; with arguments it is `wherry`."""

import sys

from app.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["gui"]))
