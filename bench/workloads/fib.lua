-- SPDX-License-Identifier: MIT
-- Four calls of a recursive fib at once: what a machine with two cores makes of CPU work. The limit
-- is the same calls one after the other in one Lua state; 2.00 is all that two cores can give.

local function fib(n)
  if n < 2 then
    return n
  end
  return fib(n - 1) + fib(n - 2)
end

local N = 27

return {
  title = "4 x fib(27), all cores",
  unit = "four calls",
  batch = 1,
  goals = { { "limit", faster = 1.9, note = "on two cores that are free" } },

  concur = function(concur)
    local pool = concur.ThreadPoolExecutor(4)
    return function(n)
      for _ = 1, n do
        local futures = {}
        for i = 1, 4 do
          futures[i] = pool:submit(fib, N)
        end
        concur.gather(futures)
      end
    end
  end,

  limit = function()
    return function(n)
      for _ = 1, 4 * n do
        fib(N)
      end
    end
  end,

  luv = function(uv)
    -- Its functions cannot have upvalues.
    local function call(n)
      local function f(x)
        if x < 2 then
          return x
        end
        return f(x - 1) + f(x - 2)
      end
      return f(n)
    end
    return function(n)
      for _ = 1, n do
        local work = uv.new_work(call, function() end)
        for _ = 1, 4 do
          work:queue(N)
        end
        uv.run()
      end
    end
  end,

  python = [[
import asyncio
import __main__
from concurrent.futures import ProcessPoolExecutor

def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

__main__.fib = fib  # where the processes look for it
pool = ProcessPoolExecutor(4)

async def work(n):
    loop = asyncio.get_running_loop()
    for _ in range(n):
        await asyncio.gather(*(loop.run_in_executor(pool, fib, 27) for _ in range(4)))
]],

  node = [[
const { Worker } = require('worker_threads');
const workers = [1, 2, 3, 4].map(() => new Worker(`
  const { parentPort } = require('worker_threads');
  const fib = n => n < 2 ? n : fib(n - 1) + fib(n - 2);
  parentPort.on('message', n => parentPort.postMessage(fib(n)));
`, { eval: true }));
const run = worker => new Promise(resolve => {
  worker.once('message', resolve);
  worker.postMessage(27);
});
const stop = () => Promise.all(workers.map(worker => worker.terminate()));

async function work(n) {
  for (let i = 0; i < n; i++) await Promise.all(workers.map(run));
}
]],
}
