"""Programs that test_training.py starts, some in environments of their own: they are not part of the suite."""

collect_ignore_glob = ["*.py"]
