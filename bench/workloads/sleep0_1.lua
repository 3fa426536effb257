-- SPDX-License-Identifier: MIT
-- One task that gives way again and again: what one switch through the scheduler costs.

local patterns = require "harness.patterns"

return {
  title = "sleep(0), 1 task",
  unit = "sleep",
  batch = 20000,
  goals = { { "limit", at_most = 1.25 } },

  concur = function(concur)
    local sleep = concur.sleep
    return function(n)
      for _ = 1, n do
        sleep(0)
      end
    end
  end,

  -- A coroutine that yields in C and is resumed from C.
  limit = patterns.in_turn(1, 1),

  -- The same from Lua.
  wrap = function()
    return function(n)
      local yield = coroutine.yield
      local step = coroutine.wrap(function()
        while true do
          yield()
        end
      end)
      for _ = 1, n do
        step()
      end
    end
  end,

  -- luv has no tasks: a coroutine that a timer of 0 resumes.
  luv = function(uv)
    return function(n)
      local task
      task = coroutine.create(function()
        local timer = uv.new_timer()
        local function resume()
          coroutine.resume(task)
        end
        for _ = 1, n do
          timer:start(0, 0, resume)
          coroutine.yield()
        end
        timer:close()
      end)
      coroutine.resume(task)
      uv.run()
    end
  end,

  cqueues = function(cqueues)
    return function(n)
      for _ = 1, n do
        cqueues.sleep(0)
      end
    end
  end,

  python = [[
import asyncio

async def work(n):
    for _ in range(n):
        await asyncio.sleep(0)
]],

  node = [[
const turn = () => new Promise(resolve => setImmediate(resolve));

async function work(n) {
  for (let i = 0; i < n; i++) await turn();
}
]],
}
