"""`python -m enrichment`: the command line."""

from enrichment.cli.main import main

if __name__ == "__main__":
    main()
