-- SPDX-License-Identifier: MIT
-- Tasks that end at once, one after the other, each waited for.

return {
  title = "spawn + result",
  unit = "task",
  batch = 10000,
  goals = { { "limit", at_most = 2.6 } },

  concur = function(concur)
    local spawn = concur.spawn
    local function task()
      return 1
    end
    return function(n)
      for _ = 1, n do
        spawn(task):result()
      end
    end
  end,

  -- A function in a reused coroutine, and the switch of the coroutine that waits for it.
  limit = function(native)
    local function task()
      return 1
    end
    return function(n)
      native.spawn_and_wait(task, n)
    end
  end,

  cqueues = function()
    local promise = require "cqueues.promise"
    local function task()
      return 1
    end
    return function(n)
      for _ = 1, n do
        promise.new(task):get()
      end
    end
  end,

  python = [[
import asyncio

async def task():
    return 1

async def work(n):
    for _ in range(n):
        await asyncio.create_task(task())
]],

  node = [[
const task = async () => 1;

async function work(n) {
  for (let i = 0; i < n; i++) await task();
}
]],
}
