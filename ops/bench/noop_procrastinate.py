"""procrastinate doing what `cargo xtask bench farm` does: no-op jobs in the same PostgreSQL.

usage: noop_procrastinate.py ADDRESS JOBS    prints one JSON object a line: what, value
"""

import asyncio
import json
import sys
import time

import procrastinate

CALLERS = 64
BATCH = 512
CONCURRENCY = 10
LATENCIES = 100

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=sys.argv[1], max_size=16))
ran = asyncio.Event()


@app.task(name="noop")
async def noop():
    pass


@app.task(name="told")
async def told():
    ran.set()


def tell(what, value):
    print(json.dumps({"what": what, "value": value}), flush=True)


async def single(jobs):
    left = iter(range(jobs))

    async def caller():
        for _ in left:
            await noop.defer_async()

    began = time.monotonic()
    await asyncio.gather(*[caller() for _ in range(CALLERS)])
    tell("single", jobs / (time.monotonic() - began))


async def batched(jobs):
    began = time.monotonic()
    for at in range(0, jobs, BATCH):
        await noop.batch_defer_async(*[{}] * min(BATCH, jobs - at))
    tell("batched", jobs / (time.monotonic() - began))


async def work(jobs):
    began = time.monotonic()
    await app.run_worker_async(concurrency=CONCURRENCY, wait=False, install_signal_handlers=False)
    tell("work", jobs / (time.monotonic() - began))


async def latency():
    worker = asyncio.create_task(
        app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
    )
    await asyncio.sleep(1)
    took = []
    for _ in range(LATENCIES):
        ran.clear()
        began = time.monotonic()
        await told.defer_async()
        await ran.wait()
        took.append((time.monotonic() - began) * 1e3)
    worker.cancel()
    took.sort()
    tell("p50", took[len(took) // 2])
    tell("p99", took[len(took) * 99 // 100])


async def main():
    jobs = int(sys.argv[2])
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await single(jobs)
        await batched(jobs)
        await work(2 * jobs)
        await latency()


asyncio.run(main())
