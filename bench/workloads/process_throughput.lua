-- SPDX-License-Identifier: MIT
-- Many empty jobs in two other processes.

return {
  title = "process jobs, each of many",
  unit = "job",
  batch = 1000,
  goals = { { "uvloop", faster = 4 } },

  concur = function(concur)
    local pool = concur.ProcessPoolExecutor(2)
    local function job(x)
      return x
    end
    return function(n)
      local futures = {}
      for i = 1, n do
        futures[i] = pool:submit(job, i)
      end
      concur.gather(futures)
    end
  end,

  -- One at a time: there is no simpler way to keep two processes busy.
  limit = function(native)
    return function(n)
      native.exchange(n)
    end
  end,

  python = [[
from concurrent.futures import ProcessPoolExecutor

pool = ProcessPoolExecutor(2)

async def work(n):
    for future in [pool.submit(abs, i) for i in range(n)]:
        future.result()
]],
}
