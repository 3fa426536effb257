-- SPDX-License-Identifier: MIT
-- csrc/pool.c without Lua: builds spec/host/pool_test.c and runs it with several seeds.

local build = require "spec.support.c_program"
local support = require "spec.support"

describe("the pool in C", function()
  it("brings every job back exactly once, whatever happens", function()
    local seed = support.seed()
    local program =
      build("pool_test", { "pool", "pool_job", "pool_thread", "mailbox", "platform" })
    for i = 1, 3 do
      local result = support.execute({ program, tostring(seed + i), "2000" }, { timeout = 60 })
      assert.equal(0, result.code, support.describe(result))
      assert.equal(("seed %d: ok\n"):format(seed + i), result.stdout)
    end
  end)
end)
