-- SPDX-License-Identifier: MIT
-- Two tasks that want the same lock, and give way while they hold it.

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
  limit = function(native)
    return function(n)
      local yield = native.yield
      local function loop()
        for _ = 1, n do
          yield()
        end
      end
      native.drive(coroutine.create(loop), coroutine.create(loop))
    end
  end,

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
