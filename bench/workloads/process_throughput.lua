-- SPDX-License-Identifier: MIT
-- Many empty jobs in two other processes.

local jobs = require "harness.jobs"

return {
  title = "process jobs, each of many",
  unit = "job",
  batch = 1000,
  goals = { { "uvloop", faster = 4 } },

  concur = jobs.all_at_once("ProcessPoolExecutor", 2),

  -- One at a time: there is no simpler way to keep two processes busy.
  limit = function(native)
    return native.exchange
  end,

  python = [[
from concurrent.futures import ProcessPoolExecutor

pool = ProcessPoolExecutor(2)

async def work(n):
    for future in [pool.submit(abs, i) for i in range(n)]:
        future.result()
]],
}
