-- SPDX-License-Identifier: MIT
-- An empty job on a worker thread, one at a time: there and back.

local jobs = require "harness.jobs"

return {
  title = "thread job, round trip",
  unit = "job",
  batch = 500,
  goals = { { "limit", at_most = 0.15, note = "with a free core; 1.1 without" } },

  concur = jobs.one_at_a_time("ThreadPoolExecutor", 2),

  -- uv_queue_work with an empty C function.
  limit = function(native)
    return function(n)
      native.queue_work(n, 1)
    end
  end,

  luv = jobs.luv_one_at_a_time(),

  -- A line to a thread's socket and back.
  cqueues = function()
    local thread = require "cqueues.thread"
    local _, socket = thread.start(function(socket)
      socket:setmode("b", "bn")
      for line in socket:lines() do
        socket:write(line, "\n")
      end
    end)
    socket:setmode("b", "bn")
    return function(n)
      for i = 1, n do
        socket:write(i, "\n")
        socket:read()
      end
    end
  end,

  python = [[
import asyncio
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(2)

def job(x):
    return x

async def work(n):
    loop = asyncio.get_running_loop()
    for i in range(n):
        await loop.run_in_executor(pool, job, i)
]],

  node = jobs.node_worker .. [[
async function work(n) {
  for (let i = 0; i < n; i++) await run(i);
}
]],
}
