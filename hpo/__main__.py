"""`python -m hpo` is the command `hpo`."""

from hpo.cli.main import main

main()
