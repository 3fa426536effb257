-- SPDX-License-Identifier: MIT
-- A task waits for a future that another task settles: the wake-up of a waiter.

local patterns = require "harness.patterns"

return {
  title = "future: pending hand-off",
  unit = "future",
  batch = 10000,
  goals = { { "limit", at_most = 2.4 } },

  concur = function(concur)
    local Future, sleep = concur.Future, concur.sleep
    return function(n)
      local current, ended
      local setter = concur.spawn(function()
        while not ended do
          if current then
            local future = current
            current = nil
            future:set_result(1)
          end
          sleep(0)
        end
      end)
      for _ = 1, n do
        local future = Future()
        current = future
        future:result()
      end
      ended = true
      setter:result()
    end
  end,

  -- Two coroutines in turn.
  limit = patterns.in_turn(2, 1),

  cqueues = function(_, controller)
    local condition = require "cqueues.condition"
    return function(n)
      local asked, answered, question = condition.new(), condition.new(), false
      controller:wrap(function()
        for _ = 1, n do
          while not question do
            asked:wait()
          end
          question = false
          answered:signal()
        end
      end)
      for _ = 1, n do
        question = true
        asked:signal()
        while question do
          answered:wait()
        end
      end
    end
  end,

  python = [[
import asyncio

async def work(n):
    create_future = asyncio.get_running_loop().create_future
    current, ended = None, False

    async def set_results():
        nonlocal current
        while not ended:
            if current:
                future, current = current, None
                future.set_result(1)
            await asyncio.sleep(0)

    setter = asyncio.create_task(set_results())
    for _ in range(n):
        current = future = create_future()
        await future
    ended = True
    await setter
]],

  node = [[
const turn = () => new Promise(resolve => setImmediate(resolve));

async function work(n) {
  let settle = null, ended = false;
  const setter = (async () => {
    while (!ended) {
      if (settle) {
        const resolve = settle;
        settle = null;
        resolve(1);
      }
      await turn();
    }
  })();
  for (let i = 0; i < n; i++) await new Promise(resolve => { settle = resolve; });
  ended = true;
  await setter;
}
]],
}
