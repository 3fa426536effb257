-- SPDX-License-Identifier: MIT
-- A SharedBuffer of 1 MB to a worker and back, one at a time: the bytes stay where they are. The limit
-- is the round trip of an empty job.

local jobs = require "harness.jobs"

return {
  title = "1 MB SharedBuffer to a worker and back",
  unit = "round trip",
  batch = 500,
  goals = { { "limit", at_most = 3 } },

  concur = jobs.one_at_a_time("ThreadPoolExecutor", 1, function(concur)
    return concur.SharedBuffer(1 << 20)
  end),

  limit = function()
    return jobs.one_at_a_time("ThreadPoolExecutor", 1)(require "concur")
  end,

  node = jobs.node_worker .. [[
const buffer = new SharedArrayBuffer(1 << 20);

async function work(n) {
  for (let i = 0; i < n; i++) await run(buffer);
}
]],
}
