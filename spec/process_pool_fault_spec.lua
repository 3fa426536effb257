-- SPDX-License-Identifier: MIT
-- A process pool while calls below it fail, each in turn: memory of the Lua state, of C, what libuv is
-- asked for. Whatever fails says so, and no process is left. See spec/support/faults.lua.

local children = require "spec.support.children"
local faults = require "spec.support.faults"
local support = require "spec.support"

local ERRORS = { "not enough memory", "ENOMEM", "EMFILE", "EAGAIN", "could be started" }

-- The host of the faults is no interpreter that a pool finds by itself.
local SCENARIO = ([[
  concur.run(function()
    local pool <close> = concur.ProcessPoolExecutor { workers = 1, command = HOST }
    assert(pool:run(function(a, b) return a + b end, 1, 2) == 3)
  end)
]]):gsub("HOST", ("%q"):format(support.host))

describe("calls that fail in a process pool", function()
  for name, functions in pairs {
    ["(memory of the Lua state)"] = false,
    ["(memory)"] = faults.memory,
    ["(loop)"] = faults.loop,
  } do
    it(name, function()
      local before = children()
      faults.fail_cleanly(faults.frame(SCENARIO, { real = true }), functions, ERRORS,
        { times = { "2" } })
      assert.same(before, children())
    end)
  end
end)
