"""The commands of `dlflow`, one file for each group; each imports what it needs when it runs, so that `--help` is fast."""
