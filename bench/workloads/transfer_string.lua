-- SPDX-License-Identifier: MIT
-- A string of 1 MB to a worker and back, one at a time. The limit is one copy in C each way, since
-- each state must own its strings.

local jobs = require "harness.jobs"

local text = ("x"):rep(1 << 20)

return {
  title = "1 MB string to a worker and back",
  unit = "round trip",
  batch = 20,
  goals = { { "luv", at_most = 0.25 } },

  concur = jobs.one_at_a_time("ThreadPoolExecutor", 1, function()
    return text
  end),

  limit = function(native)
    return native.copy
  end,

  luv = jobs.luv_one_at_a_time(text),

  python = [[
import asyncio
from concurrent.futures import ProcessPoolExecutor

pool = ProcessPoolExecutor(1)
text = 'x' * (1 << 20)

async def work(n):
    loop = asyncio.get_running_loop()
    for _ in range(n):
        await loop.run_in_executor(pool, str, text)
]],

  node = jobs.node_worker .. [[
const text = 'x'.repeat(1 << 20);

async function work(n) {
  for (let i = 0; i < n; i++) await run(text);
}
]],
}
