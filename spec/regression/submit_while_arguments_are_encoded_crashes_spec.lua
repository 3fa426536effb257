-- SPDX-License-Identifier: MIT
-- submit kept the call that it was making where the next submit looked for calls that had run out of
-- memory. A submit from a __transfer or encode function freed the call around it.

local support = require "spec.support"

describe("an encode function that is called by submit", function()
  it("may submit other jobs, to the same pool and to others", function()
    support.check_lua [[
      local concur = require "concur"
      local pool, other = concur.ThreadPoolExecutor(2), concur.ThreadPoolExecutor(1)
      local inner = {}
      local value = setmetatable({}, { __transfer = function()
        for i = 1, 3 do
          inner[#inner + 1] = pool:submit(math.abs, -7)
          inner[#inner + 1] = other:submit("math.abs", -7)
        end
        return tostring, ("x"):rep(100000)
      end })
      for _ = 1, 20 do
        local outer = pool:submit("string.len", value)
        assert(outer:result() == 100000)
      end
      assert(#inner == 120)
      for _, future in ipairs(inner) do assert(future:result() == 7) end
      assert(not pcall(pool.submit, pool, "type", value, print, coroutine.create(print)))
      assert(inner[121]:result() == 7)
    ]]
  end)

  it("may shut down its pool, or close the loop: then submit raises Closed", function()
    support.check_lua [[
      local concur = require "concur"
      local errors = require "concur.errors"
      local function value_that(closes)
        return setmetatable({}, { __transfer = function() closes() return tostring, 1 end })
      end
      for _, size in ipairs { 0, 3 } do
        local options = { workers = 1, queue_size = size > 0 and size or nil }
        local pool = concur.ThreadPoolExecutor(options)
        local ok, e = pcall(pool.submit, pool, "type", value_that(function() pool:shutdown() end))
        assert(not ok and errors.is(e, "Closed"), e)

        pool = concur.ThreadPoolExecutor(options)
        ok, e = pcall(pool.submit, pool, "type", value_that(function()
          concur.get_event_loop():close()
        end))
        assert(not ok and errors.is(e, "Closed"), e)
      end
      local ok, e = pcall(concur.to_thread, type, value_that(function()
        concur.get_event_loop():close()
      end))
      assert(not ok and errors.is(e, "Closed"), e)
      assert(concur.to_thread(math.abs, -5) == 5)
    ]]
  end)
end)
