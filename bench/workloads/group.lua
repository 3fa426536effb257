-- SPDX-License-Identifier: MIT
-- Groups of ten tasks that give way once.

local TASKS = 10

return {
  title = "group of 10 tasks",
  unit = "task",
  batch = 10000,
  goals = { { "uvloop", faster = 10 } },

  concur = function(concur)
    local sleep, task_group = concur.sleep, concur.task_group
    local function task()
      sleep(0)
    end
    local function body(group)
      for _ = 1, TASKS do
        group:spawn(task)
      end
    end
    return function(n)
      for _ = 1, n // TASKS do
        task_group(body)
      end
    end
  end,

  -- For each task a reused coroutine and a switch (a tenth of the wait for the group included).
  limit = function(native)
    local function task()
      return 1
    end
    return function(n)
      native.spawn_and_wait(task, n)
    end
  end,

  -- Python 3.11 or later.
  python = [[
import asyncio

async def task():
    await asyncio.sleep(0)

async def work(n):
    for _ in range(n // 10):
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(task())
]],

  node = [[
const turn = () => new Promise(resolve => setImmediate(resolve));

async function work(n) {
  for (let i = 0; i < n / 10; i++) await Promise.all(Array.from({ length: 10 }, turn));
}
]],
}
