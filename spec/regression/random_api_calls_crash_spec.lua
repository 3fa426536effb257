-- SPDX-License-Identifier: MIT
-- A short run of fuzz/api_fuzz.lua: random calls in random places neither crash nor hang the process.

local support = require "spec.support"

describe("random API calls", function()
  it("neither crash nor hang the process", function()
    local seed = math.tointeger(tonumber(os.getenv "CONCUR_SEED")) or os.time()
    local result = support.run_file("fuzz/api_fuzz.lua", {
      args = { "--seed", tostring(seed), "--seconds", "2", "--verbose" },
      timeout = 20,
    })
    local last
    for word in result.stdout:gmatch "seed (%d+)" do last = word end
    assert.equal(0, result.code, ("lua fuzz/api_fuzz.lua --seed %s --programs 1 %s\n%s"):format(
      last, result.timed_out and "hangs" or "fails", result.stderr:sub(-4000)))
    assert.is_truthy(result.stdout:find "%d+ programs, seeds", "it came to its end")
  end)
end)
