-- SPDX-License-Identifier: MIT
-- A task waits for an event that another sets, and the other way round.

local patterns = require "harness.patterns"

return {
  title = "event ping-pong",
  unit = "round",
  batch = 10000,
  goals = { { "limit", at_most = 4 } },

  concur = function(concur)
    return function(n)
      local ping, pong = concur.Event(), concur.Event()
      local other = concur.spawn(function()
        for _ = 1, n do
          ping:wait()
          ping:clear()
          pong:set()
        end
      end)
      for _ = 1, n do
        ping:set()
        pong:wait()
        pong:clear()
      end
      other:result()
    end
  end,

  -- Two coroutines in turn.
  limit = patterns.in_turn(2, 1),

  python = [[
import asyncio

async def work(n):
    ping, pong = asyncio.Event(), asyncio.Event()

    async def other():
        for _ in range(n):
            await ping.wait()
            ping.clear()
            pong.set()

    task = asyncio.create_task(other())
    for _ in range(n):
        ping.set()
        await pong.wait()
        pong.clear()
    await task
]],
}
