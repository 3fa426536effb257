-- SPDX-License-Identifier: MIT
-- A string of 1 MB to a worker and back, one at a time.

return {
  title = "1 MB string to a worker and back",
  unit = "round trip",
  batch = 20,
  goals = { { "luv", at_most = 0.25 } },

  concur = function(concur)
    local pool = concur.ThreadPoolExecutor(1)
    local text = ("x"):rep(1 << 20)
    local function job(s)
      return s
    end
    return function(n)
      for _ = 1, n do
        pool:submit(job, text):result()
      end
    end
  end,

  luv = function(uv)
    local text = ("x"):rep(1 << 20)
    return function(n)
      local left, work = n, nil
      work = uv.new_work(function(s)
        return s
      end, function()
        left = left - 1
        if left > 0 then
          work:queue(text)
        end
      end)
      work:queue(text)
      uv.run()
    end
  end,

  python = [[
import asyncio
from concurrent.futures import ProcessPoolExecutor

pool = ProcessPoolExecutor(1)
text = 'x' * (1 << 20)

async def work(n):
    loop = asyncio.get_running_loop()
    for _ in range(n):
        await loop.run_in_executor(pool, str, text)
]],

  node = [[
const { Worker } = require('worker_threads');
const worker = new Worker(`
  const { parentPort } = require('worker_threads');
  parentPort.on('message', x => parentPort.postMessage(x));
`, { eval: true });
let answer;
worker.on('message', x => answer(x));
const text = 'x'.repeat(1 << 20);
const run = x => new Promise(resolve => {
  answer = resolve;
  worker.postMessage(x);
});
const stop = () => worker.terminate();

async function work(n) {
  for (let i = 0; i < n; i++) await run(text);
}
]],
}
