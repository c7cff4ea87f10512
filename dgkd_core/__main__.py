"""``python -m dgkd_core`` is the ``dgkd`` command."""

from dgkd_core.cli.main import main

main()
