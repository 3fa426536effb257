-- SPDX-License-Identifier: MIT
-- Two tasks that want the same lock, and give way while they hold it.

local patterns = require "harness.patterns"

return {
  title = "lock, contended",
  unit = "acquire + release",
  batch = 10000,
  goals = { { "uvloop", faster = 45 } },

  concur = function(concur)
    local sleep = concur.sleep
    return function(n)
      local lock = concur.Lock()
      local function task()
        for _ = 1, n // 2 do
          lock:acquire()
          sleep(0)
          lock:release()
        end
      end
      concur.gather(task, task)
    end
  end,

  -- Each critical section is two switches: one inside it, one to be handed the lock.
  limit = patterns.in_turn(2, 1),

  python = [[
import asyncio

async def work(n):
    lock = asyncio.Lock()

    async def task():
        for _ in range(n // 2):
            await lock.acquire()
            await asyncio.sleep(0)
            lock.release()

    await asyncio.gather(task(), task())
]],
}
