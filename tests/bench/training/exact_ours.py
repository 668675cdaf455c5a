"""What fixed shards cost one of two ranks: python exact_ours.py WORKLOAD -> processor's milliseconds of its part of a step, interleaved.

-> {"rows": of the part, "one": as a single shard, "2": as so many shards, with the sums along the tree, ...}; medians.
"""

import json
import statistics
import sys
import time

from ours import architecture
from workloads import WORKLOADS, data

from dlflow.nn import BinaryCrossEntropy, MeanSquaredError, Model, SparseCategoricalCrossEntropy, Stream
from dlflow.parallel.comm import Alone
from dlflow.parallel.tree import TreeSum

LOSSES = {"lstm": BinaryCrossEntropy(), "tabular": MeanSquaredError()}
ROUNDS, SECONDS = 9, 0.25


def main():
    name = sys.argv[1]
    rows = WORKLOADS[name][0] // 2
    X, y = data(name)
    X, y = X[:rows], y[:rows]
    loss = LOSSES.get(name, SparseCategoricalCrossEntropy())
    model = Model(architecture(name), X.shape[1:])
    model.init(0)
    trees = {count: TreeSum(Alone(), count, model.new_message) for count in (1, 2, 4) if rows // count >= 16}

    def step(tree):
        count = tree.shards
        for shard in range(count):
            own, message = slice(rows * shard // count, rows * (shard + 1) // count), tree.buffer()
            for slot in model.tables:
                message.rows.pop(slot, None)
            model.gradient(loss, X[own], y[own], rng=Stream(0, "dropout", shard=shard), into=message)
            tree.add(shard, message)
        tree.scatter(0)
        tree.settle(0)

    times = {count: [] for count in trees}
    for turn in range(ROUNDS):
        for count, tree in trees.items():
            steps, began = 0, time.process_time()
            while time.process_time() - began < SECONDS:
                step(tree)
                steps += 1
            if turn:
                times[count].append(1000 * (time.process_time() - began) / steps)
    json.dump({"rows": rows, **{count: statistics.median(each) for count, each in times.items()}}, sys.stdout)


if __name__ == "__main__":
    main()
