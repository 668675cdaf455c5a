"""Ranks that train one model together: the tree of sums, the sockets between ranks, and the supervisor on a Dask cluster."""
