# SPDX-License-Identifier: MIT
# One sample of a workload in Python: python3 child.py WORKLOAD.py SECONDS BATCH [uvloop]
# See child.lua. The workload defines `async def work(n)`.
import asyncio
import gc
import sys
import time

path, seconds, batch = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
if sys.argv[4:] == ["uvloop"]:
    import uvloop

    uvloop.install()

PARTS = 3
scope = {}
with open(path) as file:
    exec(compile(file.read(), path, "exec"), scope)
work = scope["work"]


async def main():
    start = time.perf_counter()
    await work(batch)
    parts = PARTS if time.perf_counter() - start < seconds else 1
    for _ in range(parts):
        gc.collect()
        operations = 0
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        stop = wall + seconds / parts * 1e9
        while True:
            await work(batch)
            operations += batch
            if time.perf_counter_ns() >= stop:
                break
        print(
            (time.perf_counter_ns() - wall) / operations,
            (time.process_time_ns() - cpu) / operations,
        )


asyncio.run(main())
