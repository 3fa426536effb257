-- SPDX-License-Identifier: MIT
-- Ten thousand tasks at a time, that end at once, and all their results.

return {
  title = "spawn 10k + gather",
  unit = "task",
  batch = 10000,
  goals = { { "cqueues", faster = 3.5 }, { "uvloop", faster = 15 } },

  concur = function(concur)
    local function task()
      return 1
    end
    return function(n)
      local tasks = {}
      for i = 1, n do
        tasks[i] = task
      end
      concur.gather(tasks)
    end
  end,

  -- A function in a reused coroutine.
  limit = function(native)
    local function task()
      return 1
    end
    return function(n)
      native.spawn(task, n)
    end
  end,

  -- By hand: harness/patterns.lua has the same, with a call more for each task.
  cqueues = function(_, controller)
    local condition = require "cqueues.condition"
    return function(n)
      local left, ended = n, condition.new()
      for _ = 1, n do
        controller:wrap(function()
          left = left - 1
          if left == 0 then
            ended:signal()
          end
        end)
      end
      ended:wait()
    end
  end,

  python = [[
import asyncio

async def task():
    return 1

async def work(n):
    await asyncio.gather(*[task() for _ in range(n)])
]],

  node = [[
const task = async () => 1;

async function work(n) {
  await Promise.all(Array.from({ length: n }, task));
}
]],
}
