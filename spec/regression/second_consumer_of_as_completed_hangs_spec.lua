-- SPDX-License-Identifier: MIT
-- When several tasks shared an as_completed iterator, those that waited when the last handle was
-- given to another were never woken.

local concur = require "concur"
local virtual = require "spec.support.virtual"

describe("as_completed", function()
  it("ends for every task that shares the iterator", function()
    virtual.run(function()
      local iterator = concur.as_completed { concur.spawn(concur.sleep, 1) }
      local taken = 0
      local function consume()
        for _ in iterator do
          taken = taken + 1
        end
      end
      concur.timeout(10, concur.gather, consume, consume, consume)
      assert.equal(1, taken)
    end)
  end)
end)
