-- SPDX-License-Identifier: MIT
-- Symptom: a process pool with stderr = "tee" crashed the program when libuv could not watch the
-- worker's stderr: it closed a handle that had never begun.

local faults = require "spec.support.faults"
local support = require "spec.support"

describe("a worker whose stderr cannot be watched", function()
  it("is an error of the pool", function()
    faults.fail_cleanly(faults.frame(([[
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor { workers = 1, max_crashes = 1,
          stderr = "tee", command = HOST }
        assert(pool:run(function(a, b) return a + b end, 1, 2) == 3)
      end)
    ]]):gsub("HOST", ("%q"):format(support.host)), { real = true }), "uv_poll_init", { "ENOMEM" },
      { times = { "all" } })
  end)
end)
