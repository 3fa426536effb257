-- SPDX-License-Identifier: MIT
-- An empty job in another process, one at a time: there and back.

local jobs = require "harness.jobs"

return {
  title = "process job, round trip",
  unit = "job",
  batch = 200,
  goals = { { "limit", at_most = 1.6 }, { "uvloop", faster = 4 } },

  concur = jobs.one_at_a_time("ProcessPoolExecutor", 1),

  -- 64 bytes through a socketpair to a process that writes them back.
  limit = function(native)
    return native.exchange
  end,

  python = [[
from concurrent.futures import ProcessPoolExecutor

pool = ProcessPoolExecutor(1)

async def work(n):
    for i in range(n):
        pool.submit(abs, i).result()
]],
}
