-- SPDX-License-Identifier: MIT
-- A cancellation that came while suspend's own function ran was never delivered: the task parked
-- and stayed there for ever.

local concur = require "concur"
local virtual = require "spec.support.virtual"

describe("suspend", function()
  it("ends when its own function cancels the task", function()
    virtual.run(function()
      local reason
      local task
      task = concur.spawn(concur.suspend, function()
        task:cancel "from inside"
        return function(why)
          reason = why
        end
      end)
      concur.wait({ task }, { timeout = 10 })
      assert.equal("cancelled", task:state())
      assert.equal("from inside", reason)
    end)
  end)
end)
