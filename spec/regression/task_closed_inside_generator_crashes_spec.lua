-- SPDX-License-Identifier: MIT
-- A stranger closed the coroutine of a task that waited inside a generator. The generator was then
-- garbage, while the task still pointed to it.

local support = require "spec.support"

describe("a task closed by a stranger while it waits in a generator", function()
  it("fails, and nothing follows what is gone", function()
    local out = support.check_lua [[
      local concur = require "concur"
      concur.run(function()
        for _ = 1, 20 do
          local co
          local task = concur.spawn(function()
            co = coroutine.running()
            concur.wrap(function() concur.sleep(0.001) end)()
          end)
          concur.sleep(0)
          coroutine.close(co)
          collectgarbage()
          collectgarbage()
          concur.sleep(0.002)
          local ok, e = pcall(task.result, task)
          assert(not ok and concur.errors.is(e, "InvalidState"))
        end
        print "fine"
      end)
    ]]
    assert.equal("fine\n", out)
  end)
end)
