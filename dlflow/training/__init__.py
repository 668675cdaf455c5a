"""Training: what to train (Job), the loop that does it on one rank or many, and its checkpoints."""

from dlflow.training.job import Job, Outcome, Weights
from dlflow.training.trainer import fit, train

__all__ = ["Job", "Outcome", "Weights", "fit", "train"]
