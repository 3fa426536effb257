-- SPDX-License-Identifier: MIT
-- One producer and one consumer through a queue, which is longer or as short as can be.

---@param size integer of the queue
---@param faster number goal: so many times as fast as uvloop
local function row(size, faster)
  return {
    name = ("queue_%d"):format(size),
    title = ("queue(%d)"):format(size),
    unit = "item",
    batch = 10000,
    goals = { { "uvloop", faster = faster } },

    concur = function(concur)
      return function(n)
        local queue = concur.Queue(size)
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
        local put, get = native.queue(size)
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

    python = ([[
import asyncio

async def work(n):
    queue = asyncio.Queue(%d)

    async def produce():
        for i in range(n):
            await queue.put(i)

    producer = asyncio.create_task(produce())
    for _ in range(n):
        await queue.get()
    await producer
    ]]):format(size),
  }
end

return { row(64, 10), row(1, 50) }
