-- SPDX-License-Identifier: MIT
-- Many empty jobs on two worker threads.

local jobs = require "harness.jobs"

return {
  title = "thread jobs, each of many",
  unit = "job",
  batch = 5000,
  goals = { { "limit", at_most = 3 } },

  concur = jobs.all_at_once("ThreadPoolExecutor", 2),

  -- uv_queue_work with an empty C function, 1,000 in flight.
  limit = function(native)
    return function(n)
      native.queue_work(n, 1000)
    end
  end,

  luv = function(uv)
    return function(n)
      local work = uv.new_work(function(x)
        return x
      end, function() end)
      for i = 1, n do
        work:queue(i)
      end
      uv.run()
    end
  end,

  -- The fastest way that Python has; gather of run_in_executor takes three times as long.
  python = [[
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(2)

def job(x):
    return x

async def work(n):
    for _ in pool.map(job, range(n)):
        pass
]],

  node = [[
const { Worker } = require('worker_threads');
const code = `
  const { parentPort } = require('worker_threads');
  parentPort.on('message', x => parentPort.postMessage(x));
`;
const workers = [new Worker(code, { eval: true }), new Worker(code, { eval: true })];
let left, ended;
for (const worker of workers) worker.on('message', () => { if (--left === 0) ended(); });
const stop = () => workers.forEach(worker => worker.terminate());

async function work(n) {
  left = n;
  const all = new Promise(resolve => { ended = resolve; });
  for (let i = 0; i < n; i++) workers[i % 2].postMessage(i);
  await all;
}
]],
}
