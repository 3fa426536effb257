-- SPDX-License-Identifier: MIT
-- Lua calls a finalizer like a function. When memory is too short for that call it drops the
-- finalizer, and the object is collected without: a channel or a shared buffer then stayed for ever,
-- and the other states that hold it waited for one that was gone. Here the finalizers do nothing.

local support = require "spec.support"

local function run(code)
  support.check_lua(code, {
    lua = support.host,
    env = { LUA_CPATH = support.build .. "/faults/?.so;;" },
  })
end

describe("what a state holds goes with it, without finalizers:", function()
  for name, make in pairs {
    ["channels and what is in them"] = 'concur.Channel(2) object:send { "a message" }',
    ["shared buffers"] = "concur.SharedBuffer(640)",
    ["slices of them"] = "concur.SharedBuffer(640):slice(2, 3)",
  } do
    it(name, function()
      run(([[
        local code = %q
        local function left(finalizer)
          local before = testhost.blocks()
          local _, ok, message = testhost.run(code:format(finalizer), 1 << 40, 1, " malloc ")
          assert(ok, message)
          return testhost.blocks() - before
        end
        left "{}" -- what a process keeps comes first
        assert(left "{}" == 0)
        assert(left "debug.getmetatable(object)" == 0)
      ]]):format([[
        local concur = require "concur"
        local object = ]] .. make .. [[

        rawset(%s, "__gc", function() end) -- of the class, or of nothing
        object = nil
        collectgarbage()
      ]]))
    end)
  end

  it("those of a worker", function()
    run [[
      local concur = require "concur"
      local channel = concur.Channel(1)
      local function job(given)
        debug.getmetatable(given).__gc = function() end
        return 1
      end
      local ok, e = pcall(concur.run, function()
        do
          local pool <close> = concur.ThreadPoolExecutor(1)
          assert(pool:run(job, channel) == 1)
        end
        channel:recv() -- nobody else holds it any more
      end)
      assert(not ok and concur.errors.is(e, "Deadlock"), tostring(e))
    ]]
  end)
end)
