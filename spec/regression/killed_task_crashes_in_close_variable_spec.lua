-- SPDX-License-Identifier: MIT
-- A task was killed inside of a protected call (a shield, a time-out, a group), and a <close> variable
-- of its raised an error. Up to Lua 5.4.6 lua_resetthread leaves the message handler of that call in
-- force, although its place on the stack is given up: "error in error handling" instead of the error,
-- whatever function lay there called, and a crash once the collector had shrunk the stack.

local support = require "spec.support"

describe("a killed task whose <close> variable raises", function()
  local function killed(body)
    local result = support.run_lua([[
      local concur = require "concur"
      local function closing(...)
        for _ = 1, 3 do collectgarbage() end
        local litter = {}
        for i = 1, 1000 do litter[i] = { ... } end
        error "from the <close> variable"
      end
      local function on_close() return setmetatable({}, { __close = closing }) end
      local function deep(fn, n) -- a stack that the collector shrinks once it was left
        if n == 0 then fn() else deep(fn, n - 1) end
        return n
      end
      local reports = 0
      concur.Runner { on_error = function(e)
        assert(tostring(e.error or e):find("from the <close> variable", 1, true), e.error or e)
        reports = reports + 1
      end }:run(function()
        for _ = 1, 10 do
          local task = concur.spawn(function()
            local _ <close> = on_close()
            ]] .. body .. [[

          end)
          concur.sleep(0)
          assert(task:kill())
          collectgarbage()
        end
      end)
      assert(reports >= 10, reports)
    ]])
    assert.equal(0, result.code, support.describe(result))
  end

  it("is reported with that error: inside a shield", function()
    killed "deep(function() concur.shield(concur.sleep_forever) end, 150)"
  end)

  it("inside an xpcall of its own", function()
    killed "deep(function() xpcall(concur.sleep_forever, function(e) return e end) end, 150)"
  end)

  it("inside a generator that waits", function()
    killed [[
      local gen = concur.wrap(function()
        local _ <close> = on_close()
        deep(function() concur.timeout(60, concur.sleep_forever) end, 150)
      end)
      deep(function() concur.shield(gen) end, 150)
    ]]
  end)
end)
