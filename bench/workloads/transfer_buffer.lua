-- SPDX-License-Identifier: MIT
-- A SharedBuffer of 1 MB to a worker and back, one at a time: the bytes stay where they are. The limit
-- is the round trip of an empty job.

return {
  title = "1 MB SharedBuffer to a worker and back",
  unit = "round trip",
  batch = 500,
  goals = { { "limit", at_most = 3 } },

  concur = function(concur)
    local pool = concur.ThreadPoolExecutor(1)
    local buffer = concur.SharedBuffer(1 << 20)
    local function job(b)
      return b
    end
    return function(n)
      for _ = 1, n do
        pool:submit(job, buffer):result()
      end
    end
  end,

  limit = function()
    local concur = require "concur"
    local pool = concur.ThreadPoolExecutor(1)
    local function job(x)
      return x
    end
    return function(n)
      for i = 1, n do
        pool:submit(job, i):result()
      end
    end
  end,

  node = [[
const { Worker } = require('worker_threads');
const worker = new Worker(`
  const { parentPort } = require('worker_threads');
  parentPort.on('message', x => parentPort.postMessage(x));
`, { eval: true });
let answer;
worker.on('message', x => answer(x));
const buffer = new SharedArrayBuffer(1 << 20);
const run = x => new Promise(resolve => {
  answer = resolve;
  worker.postMessage(x);
});
const stop = () => worker.terminate();

async function work(n) {
  for (let i = 0; i < n; i++) await run(buffer);
}
]],
}
