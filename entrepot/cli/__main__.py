"""``python -m entrepot.cli``: the command line without its script."""

from entrepot.cli import main

main(prog_name="entrepot")
