-- SPDX-License-Identifier: MIT
-- What the workloads of jobs share: one job at a time, or many at once, each of which returns what it
-- gets.

local jobs = {}

local function job(x)
  return x
end

---@param executor string "ThreadPoolExecutor" or "ProcessPoolExecutor"
---@param workers integer
---@param make? fun(concur: table): any what every job gets; nil: their numbers
---@return function implementation
function jobs.one_at_a_time(executor, workers, make)
  return function(concur)
    local pool = concur[executor](workers)
    local value = make and make(concur)
    return function(n)
      for i = 1, n do
        pool:submit(job, value or i):result()
      end
    end
  end
end

---@param executor string
---@param workers integer
---@return function implementation
function jobs.all_at_once(executor, workers)
  return function(concur)
    local pool = concur[executor](workers)
    return function(n)
      local futures = {}
      for i = 1, n do
        futures[i] = pool:submit(job, i)
      end
      concur.gather(futures)
    end
  end
end

---The work of lua-luv, one at a time.
---@param value any what every job gets; nil: their numbers
---@return function implementation
function jobs.luv_one_at_a_time(value)
  return function(uv)
    return function(n)
      local left, work = n, nil
      work = uv.new_work(job, function()
        left = left - 1
        if left > 0 then
          work:queue(value or left)
        end
      end)
      work:queue(value or left)
      uv.run()
    end
  end
end

---JavaScript: `run(x)` takes x to a worker thread and back.
jobs.node_worker = [[
const { Worker } = require('worker_threads');
const worker = new Worker(`
  const { parentPort } = require('worker_threads');
  parentPort.on('message', x => parentPort.postMessage(x));
`, { eval: true });
let answer;
worker.on('message', x => answer(x));
const run = x => new Promise(resolve => {
  answer = resolve;
  worker.postMessage(x);
});
const stop = () => worker.terminate();
]]

return jobs
