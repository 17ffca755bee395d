"""Load on an OpenAI API, from here: `python -m bench.load --help`. The client is `cluster.loadtest`."""

import sys

from cluster.loadtest.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
