"""Models and their training. Knows neither Prefect nor pipelines; `dlflow.nn` needs NumPy alone."""
