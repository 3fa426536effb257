-- SPDX-License-Identifier: MIT
-- Random calls fail while everything runs at once; what that is, is in spec/support/fault_random.lua.
-- The ordinary suite does a few rounds, `make faults` as many as FAULT_SECONDS allow.

local faults = require "spec.support.faults"
local support = require "spec.support"

describe("calls that fail at random", function()
  it("leave nothing wrong behind", function()
    local thorough = faults.thorough
    local seconds = thorough and tonumber(os.getenv "FAULT_SECONDS") or thorough and 60 or 3
    local result = support.execute({
      support.host, "spec/support/fault_random.lua", tostring(seconds), tostring(support.seed()),
      thorough and "1000000" or "20",
    }, { timeout = seconds + 60, env = faults.environment(true) })
    assert.equal(0, result.code, support.describe(result))
    faults.note("random", "any", result.stdout:match "(%d+)%s+(%d+)%s*$")
  end)
end)
