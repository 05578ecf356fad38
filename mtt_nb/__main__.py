from mtt_nb.cli import main

main()
