-- SPDX-License-Identifier: MIT
-- The function given to concur.suspend closed the loop, at top level: the wait then drove no loop at
-- all, and the process died. Found by random calls of the API.

local support = require "spec.support"

describe("concur.suspend whose function closes the loop", function()
  it("waits in a new one", function()
    support.check_lua [[
      local concur = require "concur"
      local function close()
        concur.get_event_loop():close()
      end
      local ok, e = pcall(concur.suspend, close)
      assert(not ok and concur.errors.is(e, "Deadlock"), tostring(e))
      local value = concur.suspend(function(resume)
        close()
        concur.get_event_loop():call_later(0.001, resume, "came")
      end)
      assert(value == "came")
      assert(concur.to_thread(math.abs, -1) == 1)
    ]]
  end)
end)
