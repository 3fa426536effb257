-- SPDX-License-Identifier: MIT
-- csrc/state_memory.c without Lua: builds spec/host/state_memory_test.c and runs it with several seeds.

local build = require "spec.support.c_program"
local support = require "spec.support"

describe("the memory of worker states", function()
  it("keeps every block apart, and pinned ones as long as they are used", function()
    local seed = support.seed()
    local program = build("state_memory_test", { "state_memory" })
    for i = 1, 3 do
      local result = support.execute({ program, tostring(seed + i), "2000" }, { timeout = 60 })
      assert.equal(0, result.code, support.describe(result))
      assert.equal(("seed %d: ok\n"):format(seed + i), result.stdout)
    end
  end)
end)
