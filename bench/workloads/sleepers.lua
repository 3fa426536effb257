-- SPDX-License-Identifier: MIT
-- A hundred thousand tasks that sleep for 0.1 to 0.2 seconds at the same time. Counted is the
-- processor's time, since most of the other passes in waiting.

local patterns = require "harness.patterns"

return {
  title = "100k sleepers, CPU",
  unit = "task",
  batch = 100000,
  clock = "cpu",
  goals = { { "node", faster = 2 } },

  concur = function(concur)
    local sleep = concur.sleep
    return function(n)
      local tasks = {}
      for i = 1, n do
        local seconds = 0.1 + i % 100 * 0.001
        tasks[i] = function()
          sleep(seconds)
        end
      end
      concur.gather(tasks)
    end
  end,

  -- Reused coroutines, parked in a 4-ary heap of deadlines and resumed in its order.
  limit = function(native)
    local yield = native.yield
    return function(n)
      native.sleepers(function()
        yield()
      end, n)
    end
  end,

  luv = function(uv)
    return function(n)
      for i = 1, n do
        local task
        task = coroutine.create(function()
          local timer = uv.new_timer()
          timer:start(100 + i % 100, 0, function()
            timer:close()
            coroutine.resume(task)
          end)
          coroutine.yield()
        end)
        coroutine.resume(task)
      end
      uv.run()
    end
  end,

  cqueues = function(cqueues, controller)
    return function(n)
      patterns.cqueues_gather(controller, n, function(i)
        cqueues.sleep(0.1 + i % 100 * 0.001)
      end)
    end
  end,

  python = [[
import asyncio

async def work(n):
    await asyncio.gather(*[asyncio.sleep(0.1 + i % 100 * 0.001) for i in range(n)])
]],

  node = [[
async function work(n) {
  await Promise.all(Array.from({ length: n },
    (_, i) => new Promise(resolve => setTimeout(resolve, 100 + i % 100))));
}
]],
}
