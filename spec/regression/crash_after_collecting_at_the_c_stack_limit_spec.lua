-- SPDX-License-Identifier: MIT
-- Lua runs no finalizer when the limit on nested C calls is reached, and frees the object all the
-- same.  What concur links into lists of living things must not count on its finalizer.

local support = require "spec.support"

describe("objects collected without their finalizer", function()
  for what, make in pairs {
    ["an error that nobody retrieved"] = 'concur.spawn(error, "x")',
    ["a lock that a task holds"] = "concur.Lock():try_acquire()",
    ["a watch of a future"] = "core.watch { future }",
  } do
    it("leave nothing behind: " .. what, function()
      local result = support.run_lua(([[
        local concur = require "concur"
        local core = require "concur.core"
        core.set_on_error(function() end)
        local function deep(levels, fn)
          if levels == 0 then return fn() end
          return select(2, pcall(deep, levels - 1, fn))
        end
        local function collect()
          collectgarbage()
          collectgarbage()
        end
        for depth = 170, 200 do
          pcall(concur.run, function()
            local future = concur.Future()
            concur.spawn(function()
              for _ = 1, 20 do %s end
              concur.sleep(0)
              concur.sleep(0)
              concur.sleep(0)
            end)
            concur.sleep(0)
            concur.sleep(0)
            collectgarbage "stop"
            deep(depth, collect)
            collectgarbage "restart"
            future:set_result(1)
            local failed = {}
            for i = 1, 20 do failed[i] = concur.spawn(error, "y") end
            concur.sleep(0)
            concur.sleep(0)
          end)
        end
        print "alive"
      ]]):format(make))
      assert.equal(0, result.code, support.describe(result))
      assert.equal("alive\n", result.stdout, support.describe(result))
    end)
  end
end)
