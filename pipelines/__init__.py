"""Partitioned tables: what they are, how they change, how a change is committed. Knows neither Prefect nor dlflow."""
