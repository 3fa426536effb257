-- SPDX-License-Identifier: MIT
-- net.serve that was cancelled or killed in its very first wait left the task behind that keeps its
-- handlers; killed later, it left that one and the handlers.

local concur = require "concur"
local everywhere = require "spec.support.cancel_everywhere"
local net = require "concur.net"

describe("net.serve that is cancelled or killed at any step", function()
  it("leaves no task, no connection and no listener", function()
    everywhere(function(case)
      local listener = assert(net.listen("127.0.0.1", 0))
      local _, port = listener:address()
      local handled = 0
      local victim = case:victim(function()
        net.serve(function(stream)
          handled = handled + 1
          stream:read "a"
        end, listener, { grace = 0 })
      end)
      local client = concur.spawn(function()
        local stream, err = net.connect("127.0.0.1", port)
        if not stream then
          return err.code
        end
        local bytes = stream:read "a" -- until the server ends it
        stream:close(0)
        return bytes
      end)
      concur.spawn(function()
        concur.sleep(1) -- when all of this waits
        listener:close()
      end)
      local outcome, err = case:join(victim)
      assert.is_truthy(outcome == "done" or outcome == "cancelled", tostring(err))
      client:result()
      assert.is_true(listener:closed())
      assert.is_true(handled <= 1)
      for _ = 1, 5 do
        concur.sleep(1)
      end
      for _, task in ipairs(concur.all_tasks()) do
        assert.not_equal("net.serve", task:name())
      end
    end, { also = { "kill" } })
  end)
end)
