"""A process that changes a table by its own keys as fast as it can, for the test of races; prints what it did.

python warehouse_operations.py URI NUMBER SECONDS
"""

import json
import random
import sys
import time

import pyarrow as pa

from pipelines.engine import InProcess
from pipelines.warehouse import Lineage, append, compact, delete_keys, log, upsert, vacuum, write_rows

SCHEMA = pa.schema([("id", pa.int64()), ("value", pa.int64()), ("day", pa.string())])


def main(uri: str, number: int, seconds: float) -> dict[int, int]:
    """Change the rows with ids of this process; give what they must be."""
    chance, mine, done = random.Random(number), {}, 0
    here = {"lineage": Lineage(run=f"p{number}"), "runner": InProcess()}
    columns = {"schema": SCHEMA, "partition_by": ["day"]}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done += 1
        key = f"{number}/{done}"
        what = chance.choice(["append", "upsert", "upsert", "delete", "compact", "vacuum"])
        ids = sorted({number * 1000 + chance.randrange(40) for _ in range(5)})
        if what == "append":
            ids = [one for one in ids if one not in mine]
        table = pa.table([ids, [done] * len(ids), [f"d{one % 3}" for one in ids]], schema=SCHEMA)
        if what == "append":
            append(uri, write_rows(uri, table, **columns), key=key, lineage=here["lineage"], **columns)
            mine |= dict.fromkeys(ids, done)
        elif what == "upsert":
            upsert(uri, table, key=key, by=["id"], **columns, **here)
            mine |= dict.fromkeys(ids, done)
        elif what == "delete":
            delete_keys(uri, table.select(["id"]), key=key, **here)
            mine = {one: value for one, value in mine.items() if one not in ids}
        elif what == "compact":
            compact(uri, **here)
        elif log.exists(uri):
            vacuum(uri)
    return mine


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
