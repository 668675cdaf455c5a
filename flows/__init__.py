"""What a person runs: the command line, the drivers (direct and Prefect), clusters, the report."""
