"""``python -m allcnn_zoo`` is the command line ``allcnn-zoo``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
