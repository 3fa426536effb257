-- SPDX-License-Identifier: MIT
-- A hundred tasks that give way to each other.

local patterns = require "harness.patterns"

local TASKS = 100

return {
  title = "sleep(0), 100 tasks",
  unit = "sleep",
  batch = 50000,
  goals = { { "limit", at_most = 1.2 }, { "node", faster = 2 } },

  concur = function(concur)
    local sleep = concur.sleep
    return function(n)
      local function task()
        for _ = 1, n // TASKS do
          sleep(0)
        end
      end
      local tasks = {}
      for i = 1, TASKS do
        tasks[i] = task
      end
      concur.gather(tasks)
    end
  end,

  limit = patterns.in_turn(TASKS, TASKS),

  luv = function(uv)
    return function(n)
      for _ = 1, TASKS do
        local task
        task = coroutine.create(function()
          local timer = uv.new_timer()
          local function resume()
            coroutine.resume(task)
          end
          for _ = 1, n // TASKS do
            timer:start(0, 0, resume)
            coroutine.yield()
          end
          timer:close()
        end)
        coroutine.resume(task)
      end
      uv.run()
    end
  end,

  cqueues = function(cqueues, controller)
    return function(n)
      patterns.cqueues_gather(controller, TASKS, function()
        for _ = 1, n // TASKS do
          cqueues.sleep(0)
        end
      end)
    end
  end,

  python = [[
import asyncio

async def work(n):
    async def task():
        for _ in range(n // 100):
            await asyncio.sleep(0)
    await asyncio.gather(*[task() for _ in range(100)])
]],

  node = [[
const turn = () => new Promise(resolve => setImmediate(resolve));

async function work(n) {
  const task = async () => {
    for (let i = 0; i < n / 100; i++) await turn();
  };
  await Promise.all(Array.from({ length: 100 }, task));
}
]],
}
