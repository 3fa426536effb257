-- SPDX-License-Identifier: MIT
-- A lock that nobody else wants.

return {
  title = "lock, free",
  unit = "acquire + release",
  batch = 20000,
  goals = { { "uvloop", faster = 4 } },

  concur = function(concur)
    return function(n)
      local lock = concur.Lock()
      for _ = 1, n do
        lock:acquire()
        lock:release()
      end
    end
  end,

  -- Two C functions that set a flag.
  limit = function(native)
    local acquire, release = native.acquire, native.release
    return function(n)
      local flag = native.flag()
      for _ = 1, n do
        acquire(flag)
        release(flag)
      end
    end
  end,

  python = [[
import asyncio

async def work(n):
    lock = asyncio.Lock()
    for _ in range(n):
        await lock.acquire()
        lock.release()
]],
}
