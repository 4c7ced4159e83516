"""`python -m pp_graph`."""

from pp_graph.cli import main

main()
