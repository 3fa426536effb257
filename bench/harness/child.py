# SPDX-License-Identifier: MIT
# One sample of a workload in Python: python3 child.py WORKLOAD.py SECONDS BATCH [uvloop]
# See child.lua. The workload defines `async def work(n)`, or `async def serve(port)`; then SECONDS is
# the word serve, and BATCH the port.
import asyncio
import gc
import sys
import time

path, serving, batch = sys.argv[1], sys.argv[2] == "serve", int(sys.argv[3])
seconds = 0 if serving else float(sys.argv[2])
if sys.argv[4:] == ["uvloop"]:
    import uvloop

    uvloop.install()

PARTS = 3
with open(path) as file:  # into this module, where other processes look for functions
    exec(compile(file.read(), path, "exec"), globals())


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


asyncio.run(serve(batch) if serving else main())
