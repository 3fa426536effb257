-- SPDX-License-Identifier: MIT
-- A future that is settled before it is awaited: no switch, only the object and three calls.

return {
  title = "future: set, then await",
  unit = "future",
  batch = 20000,
  goals = { { "uvloop", faster = 1 / 0.85 } },

  concur = function(concur)
    local Future, await = concur.Future, concur.await
    return function(n)
      for i = 1, n do
        local future = Future()
        future:set_result(i)
        await(future)
      end
    end
  end,

  -- A userdata with one user value: made, set, read.
  limit = function(native)
    local future_new, set, get = native.future, native.future_set, native.future_get
    return function(n)
      for i = 1, n do
        local future = future_new()
        set(future, i)
        get(future)
      end
    end
  end,

  python = [[
import asyncio

async def work(n):
    create_future = asyncio.get_running_loop().create_future
    for i in range(n):
        future = create_future()
        future.set_result(i)
        await future
]],

  node = [[
async function work(n) {
  for (let i = 0; i < n; i++) {
    let settle;
    const promise = new Promise(resolve => { settle = resolve; });
    settle(i);
    await promise;
  }
}
]],
}
