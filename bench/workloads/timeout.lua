-- SPDX-License-Identifier: MIT
-- A deadline around something that gives way once and is done.

return {
  title = "timeout(10, sleep 0)",
  unit = "timeout",
  batch = 10000,
  goals = { { "limit", at_most = 300 / 78 }, { "uvloop", faster = 40 } },

  concur = function(concur)
    local timeout, sleep = concur.timeout, concur.sleep
    return function(n)
      for _ = 1, n do
        timeout(10, sleep, 0)
      end
    end
  end,

  -- A yield under a protected call.
  limit = function(native)
    local guarded, yield = native.guarded, native.yield
    return function(n)
      native.drive(coroutine.create(function()
        for _ = 1, n do
          guarded(yield)
        end
      end))
    end
  end,

  python = [[
import asyncio

async def work(n):
    for _ in range(n):
        await asyncio.wait_for(asyncio.sleep(0), 10)
]],

  node = [[
const turn = () => new Promise(resolve => setImmediate(resolve));

async function work(n) {
  for (let i = 0; i < n; i++) {
    let timer;
    const late = new Promise((_, reject) => { timer = setTimeout(reject, 10000); });
    await Promise.race([turn(), late]);
    clearTimeout(timer);
  }
}
]],
}
