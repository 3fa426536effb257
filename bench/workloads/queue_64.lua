-- SPDX-License-Identifier: MIT
-- One producer and one consumer through a queue of 64.

return {
  title = "queue(64)",
  unit = "item",
  batch = 10000,
  goals = { { "uvloop", faster = 10 } },

  concur = function(concur)
    return function(n)
      local queue = concur.Queue(64)
      local producer = concur.spawn(function()
        for i = 1, n do
          queue:put(i)
        end
      end)
      for _ = 1, n do
        queue:get()
      end
      producer:result()
    end
  end,

  -- A ring of integers; a coroutine that finds it full or empty yields.
  limit = function(native)
    return function(n)
      local put, get = native.queue(64)
      native.drive(
        coroutine.create(function()
          for i = 1, n do
            put(i)
          end
        end),
        coroutine.create(function()
          for _ = 1, n do
            get()
          end
        end)
      )
    end
  end,

  python = [[
import asyncio

async def work(n):
    queue = asyncio.Queue(64)

    async def produce():
        for i in range(n):
            await queue.put(i)

    producer = asyncio.create_task(produce())
    for _ in range(n):
        await queue.get()
    await producer
]],
}
