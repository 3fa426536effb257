-- SPDX-License-Identifier: MIT
-- A stranger closed the coroutine of a task that waited in `read_until`. The separator was garbage
-- then, and the bytes that came were searched for it.

local support = require "spec.support"

describe("a task closed by a stranger while it reads from a stream", function()
  it("fails, and others read what comes", function()
    local out = support.check_lua [[
      local concur = require "concur"
      concur.run(function()
        for _ = 1, 20 do
          local here, there = concur.net.socketpair()
          local co
          local task = concur.spawn(function()
            co = coroutine.running()
            here:read_until(("x"):rep(100) .. os.time())
          end)
          concur.sleep(0)
          coroutine.close(co)
          collectgarbage()
          collectgarbage()
          there:write(("y"):rep(1000))
          assert(here:read(1000) == ("y"):rep(1000))
          local ok, e = pcall(task.result, task)
          assert(not ok and concur.errors.is(e, "InvalidState"))
          here:close()
          there:close()
        end
        print "fine"
      end)
    ]]
    assert.equal("fine\n", out)
  end)
end)
