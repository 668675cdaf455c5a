"""Training data: Parquet files with a column of samples and one of labels, and shuffled batches of them."""

from dlflow.data.batches import Batches
from dlflow.data.file import TableFile
from dlflow.data.table import Dataset, sample_field

__all__ = ["Batches", "Dataset", "TableFile", "sample_field"]
