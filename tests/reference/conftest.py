"""The scripts that make the references need packages of their own: they are not part of the suite."""

collect_ignore_glob = ["make_*.py"]
