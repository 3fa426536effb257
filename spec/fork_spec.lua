-- SPDX-License-Identifier: MIT
-- A host that forks: the child has the parent's memory but none of its threads, so concur refuses
-- there, and the parent goes on.

local support = require "spec.support"

describe("after a fork", function()
  it("the child's concur refuses, also inside a task, and can be closed", function()
    local result = support.run_lua([[
      local concur = require "concur"
      local function refused(fn, ...)
        local ok, e = pcall(fn, ...)
        assert(not ok and concur.errors.is(e, "InvalidState"), tostring(e))
        assert(tostring(e):find("forked", 1, true), tostring(e))
      end
      local function in_child()
        refused(concur.sleep, 0)
        refused(concur.spawn, print)
        refused(concur.to_thread, print)
        refused(concur.timeout, 1, print)
        os.exit(7, true) -- closes the state: leaks on purpose, touches nothing of the parent's
      end
      assert(concur.to_thread(function() return 1 end) == 1) -- a thread and a loop are there
      if testhost.fork() == 0 then in_child() end
      assert(testhost.wait() == 7)
      concur.run(function()
        if testhost.fork() == 0 then in_child() end
        assert(testhost.wait() == 7)
        assert(concur.to_thread(function() return 2 end) == 2)
        concur.sleep(0.001)
      end)
      print "the parent goes on"
    ]], {
      lua = support.host,
      env = { ASAN_OPTIONS = "detect_leaks=0" }, -- the child leaks on purpose
    })
    assert.equal(0, result.code, support.describe(result))
    assert.equal("the parent goes on\n", result.stdout)
  end)
end)
