-- SPDX-License-Identifier: MIT
-- csrc/frame.c and csrc/ring.c without Lua: builds spec/host/frame_test.c and runs its tests.

local build = require "spec.support.c_program"
local support = require "spec.support"

describe("frames and rings", function()
  local program

  before_each(function()
    program = build("frame_test", { "frame", "message", "ring" })
  end)

  it("keep their promises", function()
    local seed = support.seed()
    for _, name in ipairs { "round_trip", "bad", "limit", "ring", "waking", "damage" } do
      local result = support.execute({ program, name, tostring(seed) }, { timeout = 30 })
      assert.equal(0, result.code, name .. ": " .. support.describe(result))
      assert.equal("ok\n", result.stdout)
    end
  end)
end)
