"""``python -m dgkd_core`` is the ``dgkd`` command."""

from dgkd_core.cli import main

main()
